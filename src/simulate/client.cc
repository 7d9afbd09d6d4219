// Client: choosing operations, names, and looking after a crash. Bytes are in client_files.cc.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/object_name.h"
#include "simulate/workload.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

namespace shoal::simulate {

namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr int kLooksMax = 2000;  // a second apart: nobody may be away longer

}  // namespace

bool is_conflict_name(const std::string& name) {
  return name.find(".conflict-") != std::string::npos;
}

bool may_fail_so(const Ground& ground, const Error& error) {
  const Plan& plan = ground.plan;
  if (error.code() == Code::kNoSpace && plan.tight()) return true;
  if (!ground.faults_on) return false;
  switch (error.code()) {
    case Code::kUnavailable:
    case Code::kThrottled:
      return plan.any_blob_fault || plan.outages;
    case Code::kDeadlineExceeded:
    case Code::kCancelled:
      return plan.any_blob_fault || plan.outages || plan.impatient;
    case Code::kDiskError:
      return plan.disk_errors;
    default:
      return false;
  }
}

Client::Client(Session& session, uint32_t index)
    : session_(session),
      ground_(session.ground),
      model_(session.ground.model),
      kernel_(session.kernel),
      random_(session.ground.randoms.at(index)),
      index_(index) {}

std::vector<std::string> Client::directories(uint32_t index) {
  std::string top = home(index);
  return {top + "/d0", top + "/d1", top + "/d2"};
}

std::vector<std::string> Client::paths(uint32_t index, uint32_t files) {
  std::vector<std::string> paths;
  for (uint32_t i = 0; i < files; ++i) paths.push_back(fmt::format("{}/f{}", home(index), i));
  for (const std::string& directory : directories(index)) {
    for (uint32_t i = 0; i < files; i += 2) paths.push_back(fmt::format("{}/f{}", directory, i));
  }
  return paths;
}

void Client::failed(const std::string& path, const std::string& what) {
  ground_.findings.failed(fmt::format(
      "[{:.3f} s] {}: {}", to_seconds(session_.executor.now().time_since_epoch()), path, what));
}

void Client::tolerate(const Error& error, const std::string& what) {
  trace("{}: {}", what, error.to_string());
  ground_.findings.count(fmt::format("error.{}", code_name(error.code())));
  if (!may_fail_so(ground_, error)) failed(what, error.to_string());
}

Context Client::context() {
  Duration limit = minutes(2);
  if (ground_.plan.impatient && ground_.faults_on && random_.chance(0.15)) {
    limit = milliseconds(random_.below(300));
  }
  return Context::within(session_.executor, limit);
}

Context Client::patient() const { return Context::within(session_.executor, minutes(2)); }

Task<void> Client::rest() {
  Duration pause = milliseconds(random_.below(60));
  if (random_.chance(0.1)) pause = seconds(1 + random_.below(7));  // beyond every TTL
  Status status = co_await sleep_for(session_.executor, pause, {});
  static_cast<void>(status);
}

bool Client::directory_exists(const std::string& path) const {
  if (path == home(index_)) return true;
  auto found = ground_.directories.find(path);
  return found != ground_.directories.end() && found->second.exists && !found->second.doubt;
}

std::string Client::some_path() {
  auto paths = Client::paths(index_, ground_.plan.files);
  std::erase_if(paths, [&](const std::string& path) {
    return !directory_exists(std::string(parent_of(path)));
  });
  return paths[random_.below(paths.size())];
}

std::string Client::some_existing_path() {
  auto paths = Client::paths(index_, ground_.plan.files);
  std::erase_if(paths, [&](const std::string& path) { return !model_.slot(path).now; });
  return paths.empty() ? some_path() : paths[random_.below(paths.size())];
}

// --- looking ---

Task<void> Client::observe(std::string path) {
  for (int look = 0; look < kLooksMax; ++look) {
    uint64_t stale = session_.stale_served.value();
    auto bytes = co_await kernel_.read_path(path, 512 * kKiB, patient());
    bool absent = !bytes && (bytes.error().code() == Code::kNotFound ||
                             bytes.error().code() == Code::kNotDirectory);
    if ((bytes || absent) && session_.stale_served.value() == stale) {
      trace("found {}: {}", path, bytes ? std::to_string(bytes->size()) : "absent");
      auto wrong = model_.observe(path, bytes ? &*bytes : nullptr);
      if (wrong) failed(path, fmt::format("found after a crash or an error: {}", *wrong));
      co_return;
    }
    // A version whose base went away half-read is given up a moment later.
    bool passing = !bytes && bytes.error().code() == Code::kStale && ground_.faults_on;
    if (!bytes && !absent && !passing) tolerate(bytes.error(), "looking at " + path);
    if (!ground_.findings.failures.empty()) co_return;
    Status slept = co_await sleep_for(session_.executor, seconds(1), {});
    static_cast<void>(slept);
  }
  failed(path, "could not be read for half an hour");
}

Task<void> Client::observe_directory(std::string path) {
  for (int look = 0; look < kLooksMax; ++look) {
    uint64_t stale = session_.stale_served.value();
    auto there = co_await kernel_.walk(path, patient());
    bool absent = !there && there.error().code() == Code::kNotFound;
    if ((there || absent) && session_.stale_served.value() == stale) {
      Directory& directory = ground_.directories[path];
      if (!directory.doubt && directory.exists == absent) {
        failed(path, absent ? "the directory is gone" : "the removed directory is there");
      }
      directory = {!absent, false};
      co_return;
    }
    if (!there && !absent) tolerate(there.error(), "looking at " + path);
    if (!ground_.findings.failures.empty()) co_return;
    Status slept = co_await sleep_for(session_.executor, seconds(1), {});
    static_cast<void>(slept);
  }
  failed(path, "could not be looked up for half an hour");
}

void Client::check_pledges() {
  for (std::string& failure : model_.check_pledges()) ground_.findings.failed(std::move(failure));
}

Task<void> Client::observe_all() {
  for (const std::string& directory : directories(index_)) co_await observe_directory(directory);
  for (const std::string& path : paths(index_, ground_.plan.files)) {
    co_await observe(path);
    if (session_.ending) co_return;
  }
  check_pledges();
}

Task<void> Client::look_again(std::vector<std::string> paths) {
  ground_.findings.count("doubts");
  Duration ttl = std::max(ground_.plan.node.attr_ttl, ground_.plan.node.negative_ttl);
  // A request that was given up may still be executed: the slowest takes five seconds.
  Status slept = co_await sleep_for(session_.executor, ttl + seconds(7), {});
  static_cast<void>(slept);
  for (const std::string& path : paths) co_await observe(path);
  check_pledges();
}

// --- names ---

Task<bool> Client::unlink(std::string path) {
  Slot& slot = model_.slot(path);
  bool there = slot.now != nullptr;
  if (there) model_.begin_remove(path);
  trace("unlink {}", path);
  Status status = co_await kernel_.unlink(path, context());
  if (status) {
    if (!there) failed(path, "unlink of an absent file succeeded");
    model_.removed(path);
    co_return true;
  }
  if (!there && status.error().code() == Code::kNotFound) co_return true;
  tolerate(status.error(), "unlink " + path);
  co_return !there;
}

Task<bool> Client::rename(std::string from, std::string to) {
  FilePtr source = model_.slot(from).now;
  FilePtr target = model_.slot(to).now;
  if (source == nullptr || from == to) co_return true;
  bool no_replace = random_.chance(0.2);
  bool refused = no_replace && target != nullptr;
  if (!refused) model_.begin_rename(from, to);
  ground_.findings.count("renames");
  trace("rename {} {}", from, to);
  Status status = co_await kernel_.rename(from, to, no_replace ? RENAME_NOREPLACE : 0, context());
  if (refused) {
    if (status) failed(to, "RENAME_NOREPLACE replaced it");
    if (!status && status.error().code() != Code::kAlreadyExists) {
      tolerate(status.error(), "rename over " + to);
    }
    co_return true;
  }
  if (status) {
    model_.renamed(from, to);
    co_return true;
  }
  tolerate(status.error(), fmt::format("rename {} to {}", from, to));
  ground_.conflicts_possible = ground_.conflicts_possible || target != nullptr;
  co_await look_again({from, to});
  co_return false;
}

Task<Status> Client::set_attribute(InodeId inode, std::string value, Status* set) {
  // At any moment of the rename.
  Status slept = co_await sleep_for(session_.executor, milliseconds(random_.below(20)), {});
  static_cast<void>(slept);
  *set = co_await kernel_.fs.set_xattr(inode, "user.sim", std::move(value), 0, context());
  co_return Status();
}

Task<Status> Client::rename_around(std::string path, std::string from, std::string to,
                                   Status* set) {
  auto there = co_await kernel_.walk(path, context());
  if (!there) {
    tolerate(there.error(), "stat " + path);
    co_return co_await kernel_.rename(from, to, 0, context());
  }
  std::string value = fmt::format("v{}", random_.below(1000));
  std::vector<Task<Status>> tasks;
  tasks.push_back(kernel_.rename(from, to, 0, context()));
  tasks.push_back(set_attribute(there->inode(), value, set));
  Status renamed = co_await run_all(session_.executor, std::move(tasks), 2);
  if (!renamed || !*set) co_return renamed;
  std::string later = join_path(to, leaf_of(path));
  there = co_await kernel_.walk(later, context());
  auto got = there ? co_await kernel_.fs.get_xattr(there->inode(), "user.sim", context())
                   : Result<std::string>(fail(there.error()));
  if (!got && got.error().code() != Code::kNoData) {
    tolerate(got.error(), "getxattr " + later);
  } else if (!got || *got != value) {
    failed(later, "an attribute that was set during the rename is another");
  }
  co_return renamed;
}

Task<void> Client::rename_directory() {
  auto names = directories(index_);
  std::string from = names[random_.below(names.size())];
  std::string to = names[random_.below(names.size())];
  if (from == to || !directory_exists(from) || ground_.directories[to].doubt) co_return;
  std::vector<std::pair<std::string, std::string>> moved;
  bool target_empty = true;
  for (const std::string& path : paths(index_, ground_.plan.files)) {
    if (parent_of(path) == to && model_.slot(path).now) target_empty = false;
    if (parent_of(path) == from && model_.slot(path).now) {
      moved.emplace_back(path, join_path(to, leaf_of(path)));
    }
  }
  ground_.findings.count("directory_renames");
  if (target_empty) {
    for (auto& [source, target] : moved) model_.begin_rename(source, target);
    ground_.directories[from].doubt = true;
    ground_.directories[to].doubt = true;
  }
  trace("rename directory {} {}", from, to);
  Status status;
  Status set;
  std::pair<std::string, std::string> changed;
  if (target_empty && !moved.empty() && random_.chance(0.5)) {
    changed = moved[random_.below(moved.size())];
    status = co_await rename_around(changed.first, from, to, &set);
  } else {
    status = co_await kernel_.rename(from, to, 0, context());
  }
  if (!target_empty) {
    if (status) failed(to, "a directory that is not empty was replaced");
    if (!status && status.error().code() != Code::kNotEmpty) {
      tolerate(status.error(), fmt::format("rename {} to {}", from, to));
    }
    co_return;
  }
  if (status) {
    for (auto& [source, target] : moved) model_.renamed(source, target);
    ground_.directories[from] = {false, false};
    ground_.directories[to] = {true, false};
    if (set) co_return;
    if (set.error().code() != Code::kStale) tolerate(set.error(), "setxattr " + changed.first);
    co_await look_again({changed.second});  // the object may be another version
    co_return;
  }
  tolerate(status.error(), fmt::format("rename {} to {}", from, to));
  std::vector<std::string> all;
  for (auto& [source, target] : moved) {
    all.push_back(source);
    all.push_back(target);
  }
  co_await look_again(all);
  co_await observe_directory(from);
  co_await observe_directory(to);
}

Task<void> Client::make_or_remove_directory() {
  auto names = directories(index_);
  std::string path = names[random_.below(names.size())];
  Directory& directory = ground_.directories[path];
  bool empty = true;
  for (const std::string& below : paths(index_, ground_.plan.files)) {
    if (parent_of(below) == path && model_.slot(below).now) empty = false;
  }
  bool remove = directory.exists;
  bool before = directory.exists;
  trace("{} {}", remove ? "rmdir" : "mkdir", path);
  directory.doubt = !remove || empty;
  Status status;
  if (remove) {
    status = co_await kernel_.remove_directory(path, context());
  } else {
    status = co_await kernel_.make_directory(path, context());
  }
  if (status) {
    if (remove && !empty) failed(path, "a directory that is not empty was removed");
    directory = {!remove, false};
    co_return;
  }
  if (remove && !empty && status.error().code() == Code::kNotEmpty) co_return;
  tolerate(status.error(), fmt::format("{} {}", remove ? "rmdir" : "mkdir", path));
  directory = {before, true};
  co_await look_again({});
  co_await observe_directory(path);
}

Task<void> Client::list(std::string directory) {
  std::set<std::string> expected;
  for (const std::string& path : paths(index_, ground_.plan.files)) {
    if (parent_of(path) == directory && model_.slot(path).now) {
      expected.insert(std::string(leaf_of(path)));
    }
  }
  if (directory == home(index_)) {
    for (const std::string& below : directories(index_)) {
      if (ground_.directories[below].doubt) co_return;
      if (ground_.directories[below].exists) expected.insert(std::string(leaf_of(below)));
    }
  }
  trace("list {}", directory);
  uint64_t stale = session_.stale_served.value();
  auto names = co_await kernel_.list(directory, random_.chance(0.5), context());
  if (!names) {
    tolerate(names.error(), "list " + directory);
    co_return;
  }
  if (session_.stale_served.value() != stale) co_return;
  if (ground_.conflicts_possible) {
    std::erase_if(*names, [](const std::string& name) { return is_conflict_name(name); });
  }
  std::set<std::string> found(names->begin(), names->end());
  if (found.size() != names->size()) failed(directory, "a name is listed twice");
  if (found != expected) {
    failed(directory, fmt::format("lists [{}], expected [{}]", fmt::join(found, " "),
                                  fmt::join(expected, " ")));
  }
}

Task<void> Client::tell_node(std::string path) {
  trace("tell {}", path);
  Node& node = session_.node;
  switch (random_.below(4)) {
    case 0: {
      Status status = co_await node.sync(random_.chance(0.5) ? path : home(index_),
                                         AckLevel::kDurable, {}, context());
      if (!status) tolerate(status.error(), "sync " + path);
      break;
    }
    case 1: {
      Status status = co_await node.warm(path, false, {}, context());
      if (!status && status.error().code() != Code::kNotFound &&
          status.error().code() != Code::kNoSpace) {
        tolerate(status.error(), "warm " + path);
      }
      break;
    }
    case 2: {
      auto freed = co_await node.evict(path, context());
      if (!freed && freed.error().code() != Code::kBusy) tolerate(freed.error(), "evict " + path);
      break;
    }
    default: {
      Status status = co_await node.set_pin(path, random_.chance(0.3), context());
      if (!status) tolerate(status.error(), "pin " + path);
    }
  }
}

// --- choosing ---

Task<void> Client::operation() {
  ground_.findings.count("operations");
  switch (random_.below(20)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
      co_await session(random_.chance(0.5) ? some_path() : some_existing_path());
      break;
    case 6:
    case 7:
    case 8:
      co_await verify(some_existing_path());
      break;
    case 9:
    case 10:
      co_await rename(some_existing_path(), some_path());
      break;
    case 11: {
      std::string path = some_path();
      if (!co_await unlink(path)) co_await look_again({path});
      break;
    }
    case 12:
      co_await unlink_open(some_existing_path());
      break;
    case 13:
      co_await truncate_path(some_existing_path());
      break;
    case 14:
      co_await change_attributes(some_existing_path());
      break;
    case 15:
      co_await rename_directory();
      break;
    case 16:
      co_await make_or_remove_directory();
      break;
    case 17:
      co_await list(random_.chance(0.5) ? home(index_) : std::string(parent_of(some_path())));
      break;
    case 18:
      co_await create_exclusively(some_path());
      break;
    default:
      if (ground_.plan.contested && random_.chance(0.5)) {
        co_await write_contested();
      } else {
        co_await tell_node(some_existing_path());
      }
  }
}

Task<void> Client::run() {
  ++session_.running;
  co_await observe_all();
  for (uint32_t i = 0; i < ground_.plan.operations; ++i) {
    if (session_.ending || !ground_.findings.failures.empty()) break;
    co_await operation();
    co_await rest();
  }
  --session_.running;
}

}  // namespace shoal::simulate
