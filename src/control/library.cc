// The C interface (include/shoal/shoal.h) over AdminClient. Nothing thrown here leaves it.
#include <shoal/shoal.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "control/admin_client.h"
#include "control/running_node.h"

struct shoal_client {
  shoal::RunningNode node;
};

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kTimeoutMsMax = int64_t{365} * 86400 * 1000;
constexpr const char* kStateName = "user.shoal.state";
constexpr uint32_t kKeepLastMax = 999'999;

// Progress as the caller sees it; `view` points into `job`.
struct Told {
  JobProgress job;
  shoal_progress view{0, 0, 0, 0, 0, 0, 0, 0, 0, "", ""};

  void take(const JobProgress& progress, double seconds) {
    job = progress;
    job.bytes_total = std::max(job.bytes_total, job.bytes_done);
    job.objects_total = std::max(job.objects_total, job.objects_done);
    view = {job.bytes_total,
            job.bytes_done,
            job.bytes_total - job.bytes_done,
            job.objects_total,
            job.objects_done,
            job.objects_total - job.objects_done,
            job.failures,
            seconds,
            seconds > 0 ? static_cast<double>(job.bytes_done) / seconds : 0,
            job.current.c_str(),
            job.last_error.c_str()};
  }
};

// What the calling thread may ask for afterwards.
struct Memory {
  std::string error;
  const char* error_text = "";  // `error`, or what needs no memory
  Told progress;
};
thread_local Memory memory;

// What a call came to. kCancelled is only what the caller's function wanted.
int error_of(Code code) {
  switch (code) {
    case Code::kCancelled:
      return SHOAL_CANCELLED;
    case Code::kDeadlineExceeded:
      return SHOAL_TIMED_OUT;
    case Code::kNotFound:
    case Code::kNoData:
      return SHOAL_NOT_FOUND;
    case Code::kAlreadyExists:
      return SHOAL_EXISTS;
    case Code::kConflict:
    case Code::kStale:
      return SHOAL_STALE;
    case Code::kInvalidArgument:
      return SHOAL_INVALID;
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
      return SHOAL_DENIED;
    case Code::kUnavailable:
      return SHOAL_UNAVAILABLE;
    case Code::kThrottled:
    case Code::kBusy:
      return SHOAL_BUSY;
    case Code::kCorrupt:
      return SHOAL_CORRUPT;
    case Code::kNoSpace:
      return SHOAL_NO_SPACE;
    case Code::kDiskError:
      return SHOAL_IO;
    case Code::kIsDirectory:
      return SHOAL_IS_DIRECTORY;
    case Code::kNotDirectory:
      return SHOAL_NOT_DIRECTORY;
    case Code::kNotEmpty:
      return SHOAL_NOT_EMPTY;
    case Code::kNameTooLong:
      return SHOAL_NAME_TOO_LONG;
    case Code::kNotSupported:
      return SHOAL_NOT_SUPPORTED;
    case Code::kReadOnly:
      return SHOAL_READ_ONLY;
    case Code::kTooLarge:
      return SHOAL_TOO_LARGE;
    case Code::kInternal:
      return SHOAL_INTERNAL;
  }
  return SHOAL_INTERNAL;
}

// An error of the library's own, beyond those that rooms know.
struct Failure {
  int error;
  std::string message;
};
Failure failure_of(const Error& error) { return {error_of(error.code()), error.message()}; }
Failure invalid(std::string message) { return {SHOAL_INVALID, std::move(message)}; }
Failure died(const std::string& path) {
  return {SHOAL_UNAVAILABLE, "the daemon of " + path + " has died; mount it again"};
}
using Outcome = std::expected<void, Failure>;

// Runs `deed` and keeps what went wrong for the thread. The only way out of here.
template <typename Deed>
int guarded(Deed deed) noexcept {
  try {
    Outcome outcome = deed();
    if (outcome) {
      memory.error_text = "";
      return SHOAL_OK;
    }
    memory.error = std::move(outcome.error().message);
    memory.error_text = memory.error.c_str();
    return outcome.error().error;
  } catch (const std::bad_alloc&) {
    memory.error_text = "out of memory";
    return SHOAL_NO_MEMORY;
  } catch (...) {
    memory.error_text = "an unexpected exception in libshoal; this is a bug";
    return SHOAL_INTERNAL;
  }
}

std::expected<std::vector<RunningNode>, Failure> nodes_here() {
  std::string dir = runtime_dir_path();
  Status usable = check_private_dir(dir);
  if (usable) return running_nodes(dir);
  if (usable.error().code() == Code::kNotFound) return {};  // never has one run here
  return std::unexpected(failure_of(usable.error()));
}

std::expected<FoundNode, Failure> find_in(const std::vector<RunningNode>& nodes, const char* path) {
  if (path == nullptr || *path == '\0') return std::unexpected(invalid("the path is empty"));
  auto found = find_node(nodes, path);
  if (found) return std::move(*found);
  if (found.error().code() != Code::kNotFound) return std::unexpected(failure_of(found.error()));
  // No daemon of ours serves it; the mount itself says whether there is one.
  if (getxattr(path, kStateName, nullptr, 0) >= 0) {
    return std::unexpected(Failure{SHOAL_DENIED, std::string(path) +
                                                     " is in a Shoal mount of another user; only "
                                                     "the daemon's own user may ask it"});
  }
  if (errno == ENOTCONN) return std::unexpected(died(path));
  return std::unexpected(Failure{SHOAL_NOT_MOUNTED, found.error().message()});
}

// The node for `path`, and the path as this process sees it (a name, if there is no mount).
std::expected<FoundNode, Failure> locate(const shoal_client* client, const char* path) {
  if (client == nullptr) {
    auto nodes = nodes_here();
    if (!nodes) return std::unexpected(std::move(nodes.error()));
    return find_in(*nodes, path);
  }
  if (!client->node.mountpoint.empty()) return find_in({client->node}, path);
  if (path == nullptr) return std::unexpected(invalid("the path is null"));
  return FoundNode{client->node, path};
}

// Both structs of options begin with their size; what a newer header has more must be zero.
template <typename Options>
Outcome take_options(const Options* given, Options& options) {
  if (given == nullptr) return {};
  if (given->size < sizeof(Options)) {
    return std::unexpected(invalid("the options' size is too small; start as SHOAL_..._INIT"));
  }
  const char* bytes = reinterpret_cast<const char*>(given);
  if (!std::all_of(bytes + sizeof(Options), bytes + given->size, [](char b) { return b == 0; })) {
    return std::unexpected(
        Failure{SHOAL_NOT_SUPPORTED, "an option is newer than this libshoal (" SHOAL_VERSION ")"});
  }
  options = *given;
  return {};
}

template <typename Options>
Outcome set_common(const Options& options, JobRequest& request) {
  if (options.level != SHOAL_DURABLE && options.level != SHOAL_REPLICATED) {
    return std::unexpected(invalid("the level must be SHOAL_REPLICATED or SHOAL_DURABLE"));
  }
  request.level = options.level == SHOAL_DURABLE ? "durable" : "replicated";
  if (options.timeout_ms > kTimeoutMsMax) {
    return std::unexpected(invalid("the timeout is above a year"));
  }
  if (options.timeout_ms >= 0) request.timeout = std::chrono::milliseconds(options.timeout_ms);
  return {};
}

std::string left_text(const JobRequest& request, const Told& told, std::string_view path) {
  std::string text = "not within the time limit: ";
  uint64_t files = told.view.objects_left;
  if (files > 0) {
    text += std::to_string(files) + (files == 1 ? " file (" : " files (") +
            format_size(told.view.bytes_left) + ") at or below ";
  }
  text.append(path).append(files > 1 ? " are not " : " is not ");
  text += request.level == "durable" ? "in the origin yet" : "on enough nodes yet";
  if (!told.job.last_error.empty()) text += "; last error: " + told.job.last_error;
  return text;
}

template <typename Options>
Outcome run(const shoal_client* client, const char* path, const Options& options,
            JobRequest request) {
  auto begun = Clock::now();
  memory.progress.take({}, 0);
  if (Outcome set = set_common(options, request); !set) return set;
  auto found = locate(client, path);
  if (!found) return std::unexpected(std::move(found.error()));
  const RunningNode& node = found->node;
  request.paths = {node.mountpoint.empty() ? found->path : object_of_path(node, found->path)};

  Told told;
  bool cancelled = false;
  auto on_progress = [&](const JobProgress& progress) {
    told.take(progress, std::chrono::duration<double>(Clock::now() - begun).count());
    if (options.on_progress != nullptr) {
      cancelled = options.on_progress(&told.view, options.context) != 0;
    }
    return !cancelled;
  };
  JobProgress last;
  AdminClient admin({node.socket, node.http, node.token});
  Status status = admin.run(request, false, on_progress, last);
  // Only now: the caller's function may have called us.
  memory.progress.take(last, std::chrono::duration<double>(Clock::now() - begun).count());
  if (status) {
    struct stat info{};
    bool unknown = request.kind == JobKind::kSync && last.objects_total == 0 &&
                   !request.paths[0].empty() && !node.mountpoint.empty();
    if (unknown && lstat(found->path.c_str(), &info) != 0 &&
        (errno == ENOENT || errno == ENOTDIR)) {
      return std::unexpected(Failure{SHOAL_NOT_FOUND, found->path + " does not exist"});
    }
    return {};
  }
  Failure failure = failure_of(status.error());
  if (failure.error == SHOAL_CANCELLED && !cancelled) {
    failure = {SHOAL_UNAVAILABLE, "the node of " + found->path + " is being stopped"};
  } else if (failure.error == SHOAL_TIMED_OUT && request.kind == JobKind::kSync) {
    failure.message = left_text(request, memory.progress, found->path);
  }
  return std::unexpected(std::move(failure));
}

// What the daemon behind a socket says of its mount.
std::expected<std::string, Failure> ask_mountpoint(const RunningNode& node) {
  auto text = AdminClient({node.socket, "", ""}).get("/status.json?scope=node");
  if (!text) return std::unexpected(failure_of(text.error()));
  auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || !json.contains("shoal") || !json["shoal"].is_object()) {
    return std::unexpected(
        Failure{SHOAL_UNAVAILABLE, node.socket + " is not the socket of a Shoal node"});
  }
  const auto& facts = json["shoal"];
  auto found = facts.find("mountpoint");
  return found != facts.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Outcome level_of(const char* path, int* level) {
  if (path == nullptr || level == nullptr) {
    return std::unexpected(invalid("path and level must not be null"));
  }
  std::string name(path);
  struct stat info{};
  char value[32] = {};
  ssize_t size = stat(path, &info);
  if (size == 0 && S_ISDIR(info.st_mode)) {
    return std::unexpected(
        Failure{SHOAL_IS_DIRECTORY, name + " is a directory; only files have a level"});
  }
  if (size == 0) size = getxattr(path, kStateName, value, sizeof value - 1);
  if (size < 0) {
    int reason = errno;
    if (reason == ENODATA || reason == EOPNOTSUPP || reason == ERANGE) {
      return std::unexpected(Failure{SHOAL_NOT_MOUNTED, name + " is not in a Shoal mount"});
    }
    if (reason == ENOTCONN) return std::unexpected(died(name));
    return std::unexpected(failure_of(error_from_errno(reason, name)));
  }
  std::string_view state(value, static_cast<size_t>(size));
  *level = state == "clean"        ? SHOAL_DURABLE
           : state == "replicated" ? SHOAL_REPLICATED
           : state == "open"       ? SHOAL_OPEN
                                   : SHOAL_LOCAL;
  return {};
}

}  // namespace
}  // namespace shoal

using shoal::guarded;
using shoal::Outcome;

extern "C" {

int shoal_client_open(const char* path, shoal_client** client) {
  if (client != nullptr) *client = nullptr;
  return guarded([path, client]() -> Outcome {
    if (client == nullptr) return std::unexpected(shoal::invalid("client must not be null"));
    auto nodes = shoal::nodes_here();
    if (!nodes) return std::unexpected(std::move(nodes.error()));
    auto found = shoal::find_in(*nodes, path);
    if (!found) return std::unexpected(std::move(found.error()));
    *client = new shoal_client{std::move(found->node)};
    return {};
  });
}

int shoal_client_open_socket(const char* socket_path, const char* mountpoint,
                             shoal_client** client) {
  if (client != nullptr) *client = nullptr;
  return guarded([socket_path, mountpoint, client]() -> Outcome {
    if (client == nullptr || socket_path == nullptr || *socket_path == '\0') {
      return std::unexpected(shoal::invalid("socket_path and client must not be null or empty"));
    }
    shoal::RunningNode node;
    node.socket = socket_path;
    auto answered = shoal::ask_mountpoint(node);
    if (!answered) return std::unexpected(std::move(answered.error()));
    node.mountpoint = mountpoint == nullptr ? *answered : shoal::absolute_path(mountpoint);
    *client = new shoal_client{std::move(node)};
    return {};
  });
}

void shoal_client_close(shoal_client* client) { delete client; }

const char* shoal_client_mountpoint(const shoal_client* client) {
  return client->node.mountpoint.c_str();
}

int shoal_sync(const shoal_client* client, const char* path, const shoal_sync_options* given) {
  return guarded([client, path, given]() -> Outcome {
    shoal_sync_options options = SHOAL_SYNC_OPTIONS_INIT;
    if (Outcome taken = shoal::take_options(given, options); !taken) return taken;
    shoal::JobRequest request;
    request.kind = shoal::JobKind::kSync;
    return shoal::run(client, path, options, std::move(request));
  });
}

int shoal_publish(const shoal_client* client, const char* directory,
                  const shoal_publish_options* given) {
  return guarded([client, directory, given]() -> Outcome {
    shoal_publish_options options = SHOAL_PUBLISH_OPTIONS_INIT;
    if (Outcome taken = shoal::take_options(given, options); !taken) return taken;
    if (options.keep_last > shoal::kKeepLastMax) {
      return std::unexpected(shoal::invalid("keep_last must be below 1,000,000"));
    }
    shoal::JobRequest request;
    request.kind = shoal::JobKind::kPublish;
    if (options.latest != nullptr) request.pointer = options.latest;
    request.keep_last = options.keep_last;
    return shoal::run(client, directory, options, std::move(request));
  });
}

int shoal_file_level(const char* path, int* level) {
  return guarded([path, level] { return shoal::level_of(path, level); });
}

const char* shoal_last_error(void) { return shoal::memory.error_text; }

const shoal_progress* shoal_last_progress(void) { return &shoal::memory.progress.view; }

const char* shoal_version(void) { return SHOAL_VERSION; }

}  // extern "C"
