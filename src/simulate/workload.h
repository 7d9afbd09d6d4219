// Clients: programs on the node's machine that use its files like a kernel would let them, and
// check every answer against the model. They die with the process; what they must remember lies in
// Ground.
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "async/gate.h"
#include "node/node.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "simulate/kernel.h"
#include "simulate/model.h"
#include "simulate/plan.h"
#include "simulate/report.h"
#include "world_sim/blob_service.h"
#include "world_sim/sim_random.h"

namespace shoal::simulate {

inline constexpr const char* kContainer = "data";

// One object that others write, and when.
struct ForeignVersion {
  SteadyTime from{};
  bool exists = false;
  std::string bytes;
};

// A directory of a client.
struct Directory {
  bool exists = false;
  bool doubt = false;
};

// What outlives the process.
struct Ground {
  Plan plan;
  Model model;
  Findings findings;
  BlobService* service = nullptr;
  std::map<std::string, std::vector<ForeignVersion>> foreign;  // by object
  std::map<std::string, std::string> contested;                // the last acknowledged bytes
  std::map<std::string, Directory> directories;
  std::vector<SeededRandom> randoms;  // of each client
  bool faults_on = true;
  // A rename over a file that waits for its upload was cut short in the origin: the two versions
  // meet there, and one gets a conflict name.
  bool conflicts_possible = false;
};

// What one incarnation gives its clients.
struct Session {
  Ground& ground;
  Kernel& kernel;
  Node& node;
  Executor& executor;
  Counter& stale_served;
  Gate& gate;  // late releases
  const Log& log;
  bool ending = false;  // finish what you are at
  uint32_t running = 0;
};

class Client {
 public:
  Client(Session& session, uint32_t index);

  // Looks at everything of this client after a (re)start, then works. Ends early when the session
  // is ending.
  Task<void> run();
  // Looks at all names again; nothing may be in doubt after it.
  Task<void> observe_all();

  static std::string home(uint32_t index) { return "c" + std::to_string(index); }
  static std::vector<std::string> directories(uint32_t index);
  static std::vector<std::string> paths(uint32_t index, uint32_t files);

 private:
  Task<void> operation();
  Task<void> session(std::string path);
  Task<void> session_step(OpenFile& open, FilePtr file, std::string& path, uint32_t flags);
  Task<bool> open_for_session(std::string path, uint32_t flags, OpenFile* open, FilePtr* file);
  Task<void> write_some(OpenFile& open, File& file, bool append);
  Task<void> change_size(OpenFile& open, File& file);
  Task<void> allocate_some(OpenFile& open, File& file);
  Task<void> read_some(OpenFile& open, File& file, const std::string& path);
  Task<void> seek_some(OpenFile& open, File& file);
  Task<void> seal(OpenFile& open, FilePtr file, const std::string& path, bool close);
  Task<void> settle(OpenFile& open, File& file, const std::string& path);
  Task<void> close(OpenFile open, FilePtr file, std::string path);
  static Task<void> release_late(Kernel* kernel, Executor* executor, OpenFile open, Duration delay);

  Task<void> verify(std::string path);
  Task<void> truncate_path(std::string path);
  Task<void> change_attributes(std::string path);
  Task<void> create_exclusively(std::string path);
  // False: it is in doubt; look again.
  Task<bool> unlink(std::string path);
  Task<void> unlink_open(std::string path);
  // False: it is in doubt, or was until we looked again.
  Task<bool> rename(std::string from, std::string to);
  Task<void> rename_directory();
  // Renames the directory of the file at `path`, and sets an attribute of the file meanwhile: its
  // bytes stay certain. *set: how that ended.
  Task<Status> rename_around(std::string path, std::string from, std::string to, Status* set);
  Task<Status> set_attribute(InodeId inode, std::string value, Status* set);
  Task<void> make_or_remove_directory();
  Task<void> list(std::string directory);
  Task<void> tell_node(std::string path);
  Task<void> write_contested();

  Task<void> observe(std::string path);
  Task<void> observe_directory(std::string path);
  void check_pledges();
  // After a failed call: waits until nothing is remembered wrongly, then looks.
  Task<void> look_again(std::vector<std::string> paths);

  Context context();
  Context patient() const;
  uint64_t choose_size();
  std::string some_path();
  std::string some_existing_path();
  bool directory_exists(const std::string& path) const;
  // Reports the error unless the plan allows such errors.
  void tolerate(const Error& error, const std::string& what);
  void failed(const std::string& path, const std::string& what);
  Task<void> rest();
  template <typename... Args>
  void trace(fmt::format_string<Args...> format, Args&&... args) {
    session_.log.debug("  c{}: {}", index_, fmt::format(format, std::forward<Args>(args)...));
  }

  Session& session_;
  Ground& ground_;
  Model& model_;
  Kernel& kernel_;
  SeededRandom& random_;
  uint32_t index_;
};

// Reads what others write and checks it against what may be there.
class Reader {
 public:
  Reader(Session& session, uint32_t index);
  Task<void> run();

 private:
  Task<void> read_client_file();
  Task<void> read_foreign();
  void check_foreign(const std::string& object, SteadyTime opened, const std::string& bytes,
                     bool check_age);

  Session& session_;
  Ground& ground_;
  SeededRandom& random_;
};

// What the node calls a version that lost against another writer's.
bool is_conflict_name(const std::string& name);

// Whether the plan's faults may make a call end so.
bool may_fail_so(const Ground& ground, const Error& error);

}  // namespace shoal::simulate
