// Publisher: makes a directory of files (a checkpoint) visible as one. It waits until every file
// has reached a level, on whatever nodes they were written, then leaves a manifest in the directory
// and moves a pointer beside it.
//
// Two pointers, small files with the directory's name and a newline: POINTER names the newest
// directory that is durable as a whole, POINTER.replicated (in a cluster) the newest that survives
// the loss of nodes; nodes see that one earlier. In the origin neither shows before everything that
// it names is there, whatever node dies meanwhile (manifest.h).
//
// Owned by the node; shard's thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "node/file_system_impl.h"
#include "node/node_core.h"
#include "replication/manifest.h"
#include "replication/waiting.h"

namespace shoal {

struct PublishOptions {
  // kReplicated returns as soon as nodes see it; the durable pointer follows in the background.
  AckLevel level = AckLevel::kDurable;
  std::string pointer = "latest";
  // So many published directories beside this one stay, the newest; 0: all. Never removed: the
  // newest durable one, the newest that is not durable yet, what a pointer names, and whatever was
  // not published.
  uint32_t keep_last = 0;
};

struct PublishProgress {
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t files_done = 0;
  uint64_t files_total = 0;
  std::string stage;  // what it waits for
  std::string last_error;
};

class Publisher {
 public:
  Publisher(NodeCore& core, FileSystemImpl& files) : core_(core), files_(files) {}

  // `directory`: an object name. kInvalidArgument: the root, a file, or a pointer's name that
  // cannot be; kNotFound: no files below; kBusy: a file is open for writing; kDeadlineExceeded
  // names files that are behind and why.
  Task<Status> publish(std::string directory, PublishOptions options,
                       std::function<void(const PublishProgress&)> progress, Context context);

 private:
  struct Run {
    std::string directory;
    PublishOptions options;
    std::function<void(const PublishProgress&)> progress;
    uint64_t turn = 0;
    PublishProgress now;

    std::string manifest_path() const;
    std::string pointer_path() const;
  };
  struct Published {
    std::string directory;
    WallTime when{};
    bool durable = false;
    bool removing = false;  // a removal began earlier
  };

  Status check(const Run& run) const;
  Task<Result<Waiting>> waiting(std::string path, Push push, Context context);
  Task<Result<Waiting>> waiting_here(WaitingQuestion question, Context context);
  // What is not at the level yet, and is told to hurry.
  Task<Result<Waiting>> behind(std::string path, AckLevel level, Context context);
  Task<Status> await_level(Run& run, AckLevel level, Context context);
  Task<Result<Manifest>> collect(const Run& run, AckLevel level, Context context);
  Task<Status> add_from_origin(std::string directory, std::map<std::string, ManifestFile>& files,
                               Context context);
  Task<Result<uint32_t>> crc_by_reading(ObjectInfo object, Context context);
  Task<Result<WriteBack::Version>> put_manifest(const Run& run, AckLevel level, std::string gate,
                                                Context context);
  Task<Result<WriteBack::Version>> put_pointer(const Run& run, std::string path, Context context);
  Task<Status> commit(WriteBack::Version version, std::string path, Context context);
  Task<Status> publish_early(Run& run, Context context);
  Task<Status> publish_durable(Run& run, bool has_manifest, Context context);
  static Task<void> finish_later(Publisher* self, Run run);

  // publisher_retention.cc
  Task<Status> retain(const Run& run, Context context);
  Task<Result<std::vector<Published>>> find_published(std::string parent, Context context);
  Task<Status> look_at_sibling(std::string directory, std::vector<Published>& found,
                               Context context);
  Task<std::string> pointed_at(std::string pointer, Context context);
  Task<Status> remove_published(Published published, Context context);

  NodeCore& core_;
  FileSystemImpl& files_;
  uint64_t next_turn_ = 0;
  std::map<std::string, uint64_t> moved_;  // by durable pointer: whose turn moved it last
};

}  // namespace shoal
