// Lookups: what a path's attributes are and what a directory holds, as far as an answer of at most
// the attribute TTL's age serves. From the origin, or in a cluster from the member that asks the
// origin for all.
//
// Shard's thread.
#pragma once

#include <string>

#include "async/context.h"
#include "async/task.h"
#include "origin/origin.h"

namespace shoal {

class Lookups {
 public:
  virtual ~Lookups() = default;
  // As Origin::head and Origin::list; `age` of the answer tells how long ago the origin said so.
  virtual Task<Result<ObjectInfo>> head(std::string object, Context context) = 0;
  virtual Task<Result<ListPage>> list(ListOptions options, Context context) = 0;
  // This node changed the object (all objects below it, with `tree`): no older answer serves.
  virtual void changed(const std::string& object, bool tree) = 0;
};

class OriginLookups final : public Lookups {
 public:
  explicit OriginLookups(Origin& origin) : origin_(origin) {}
  Task<Result<ObjectInfo>> head(std::string object, Context context) override {
    return origin_.head(std::move(object), context);
  }
  Task<Result<ListPage>> list(ListOptions options, Context context) override {
    return origin_.list(std::move(options), context);
  }
  void changed(const std::string&, bool) override {}

 private:
  Origin& origin_;
};

}  // namespace shoal
