// An Origin that passes every call on to another: the base of those that change a few of them.
//
// Shard's thread. The other outlives it.
#pragma once

#include <utility>

#include "origin/origin.h"

namespace shoal {

class ForwardingOrigin : public Origin {
 public:
  explicit ForwardingOrigin(Origin& origin) : origin_(origin) {}

  std::string display_name() const override { return origin_.display_name(); }
  std::string identity() const override { return origin_.identity(); }
  Task<Status> probe(bool write, Context context) override { return origin_.probe(write, context); }
  Task<Result<ObjectInfo>> head(std::string object, Context context) override {
    return origin_.head(std::move(object), context);
  }
  Task<Status> read(std::string object, std::string etag, uint64_t offset, ByteSpan into,
                    std::function<void(uint64_t)> progress, Context context) override {
    return origin_.read(std::move(object), std::move(etag), offset, into, std::move(progress),
                        context);
  }
  Task<Result<ObjectInfo>> put(std::string object, ConstByteSpan bytes, PutOptions options,
                               Context context) override {
    return origin_.put(std::move(object), bytes, std::move(options), context);
  }
  Task<Status> put_block(std::string object, std::string block_id, uint64_t offset,
                         ConstByteSpan bytes, Context context) override {
    return origin_.put_block(std::move(object), std::move(block_id), offset, bytes, context);
  }
  Task<Result<std::vector<BlockInfo>>> staged_blocks(std::string object, Context context) override {
    return origin_.staged_blocks(std::move(object), context);
  }
  Task<Result<ObjectInfo>> commit_blocks(std::string object, std::vector<BlockInfo> blocks,
                                         PutOptions options, Context context) override {
    return origin_.commit_blocks(std::move(object), std::move(blocks), std::move(options), context);
  }
  Task<Result<ListPage>> list(ListOptions options, Context context) override {
    return origin_.list(std::move(options), context);
  }
  Task<Status> remove(std::string object, Condition condition, Context context) override {
    return origin_.remove(std::move(object), std::move(condition), context);
  }
  Task<Result<ObjectInfo>> copy(std::string from, std::string source_etag, std::string to,
                                PutOptions options, Context context) override {
    return origin_.copy(std::move(from), std::move(source_etag), std::move(to), std::move(options),
                        context);
  }
  Task<Result<ObjectInfo>> set_metadata(std::string object, Metadata metadata, Condition condition,
                                        Context context) override {
    return origin_.set_metadata(std::move(object), std::move(metadata), std::move(condition),
                                context);
  }
  bool has_rename() const override { return origin_.has_rename(); }
  Task<Status> rename(std::string from, std::string to, Context context) override {
    return origin_.rename(std::move(from), std::move(to), context);
  }
  uint64_t block_bytes_max() const override { return origin_.block_bytes_max(); }
  uint32_t blocks_max() const override { return origin_.blocks_max(); }

 protected:
  Origin& origin_;
};

}  // namespace shoal
