// History: what each object of the origin was, and when: which bytes a reader may be shown.
//
// Simulation's thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "world/time.h"
#include "world_sim/blob_service.h"

namespace shoal::simulate {

struct ObjectVersion {
  // Whether `got`, read at `offset` into so much space, may be of this version.
  bool shows(uint64_t offset, uint64_t space, std::string_view got) const;

  bool exists = true;
  // A write that was not acknowledged: any beginning of the bytes may have become the version.
  bool doubt = false;
  std::string bytes;
  std::string etag;           // once it was seen in the origin
  SteadyTime from{};          // nobody may see it before
  SteadyTime until = kNever;  // it is known to be replaced since then
  // A node acknowledged it: programs on that node see nothing older afterwards.
  std::string acknowledged_by;
  SteadyTime acknowledged{};
};

struct ObjectHistory {
  std::deque<ObjectVersion> versions;  // in order; references stay valid
  std::string writer;                  // the node that alone may write it; empty: not by nodes
  bool changing = false;               // a program there has it open for writing now

  ObjectVersion& now() { return versions.back(); }
  bool constant() const { return versions.size() == 1; }
};

class History {
 public:
  explicit History(std::string container) : container_(std::move(container)) {}

  // Another writer's: it stands in the origin at once. Nothing: removed.
  void put(BlobService& service, const std::string& object, std::string bytes, SteadyTime now,
           WallTime wall);
  void remove(BlobService& service, const std::string& object, SteadyTime now);
  // A node begins to write it.
  ObjectVersion& begin_write(const std::string& object, std::string bytes, SteadyTime now);
  // Learns from the origin which versions have been replaced. Failures name what nobody wrote.
  void poll(const BlobService& service, SteadyTime now,
            const std::function<void(std::string)>& failed);

  // What an open between `begin` and `end` may show, when what is known may be `age` old.
  std::vector<const ObjectVersion*> candidates(const std::string& object, const std::string& node,
                                               SteadyTime begin, SteadyTime end,
                                               Duration age) const;
  std::map<std::string, ObjectHistory>& objects() { return objects_; }
  const std::map<std::string, ObjectHistory>& objects() const { return objects_; }
  ObjectHistory& at(const std::string& object) { return objects_[object]; }

 private:
  std::string container_;
  std::map<std::string, ObjectHistory> objects_;
};

}  // namespace shoal::simulate
