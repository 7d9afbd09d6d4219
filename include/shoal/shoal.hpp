// The C++ interface of Shoal, C++17 and later: shoal.h with RAII, defaults and exceptions. Header
// only; what is called is the C interface, so a program and the library may come from different
// compilers.
//
//   shoal::sync("/mnt/data/step-1000", {.timeout = std::chrono::minutes(10)});   // C++20
//
// Failures are thrown as shoal::Error, a std::system_error whose code() compares with std::errc and
// with enum shoal_error. Exceptions, because the language of before C++23 has nothing else that
// cannot be overlooked, and a checkpoint taken for safe is the one thing that must not be; who
// builds without them uses shoal.h. Everything that shoal.h says of threads, ranges and limits
// holds here.
#ifndef SHOAL_SHOAL_HPP_
#define SHOAL_SHOAL_HPP_

#include <shoal/shoal.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace shoal {

// How safe a file is; greater is safer.
enum class Level {
  kOpen = SHOAL_OPEN,              // is being written: only a state, never what to wait for
  kLocal = SHOAL_LOCAL,            // on this machine's disk
  kReplicated = SHOAL_REPLICATED,  // on the disks of --replicas nodes
  kDurable = SHOAL_DURABLE         // committed in the origin
};

struct Progress {
  std::uint64_t bytes_total = 0, bytes_done = 0, bytes_left = 0;
  std::uint64_t objects_total = 0, objects_done = 0, objects_left = 0;  // files
  std::uint64_t failures = 0;     // above 0: something fails, and is tried again
  double seconds = 0;             // since the call began
  double bytes_per_second = 0;    // mean since the call began
  std::string stage, last_error;  // empty: nothing to say
};

// Answers whether to go on. Called on the thread that made the call, at least once a second. What
// it throws ends the call and is thrown from there.
using OnProgress = std::function<bool(const Progress&)>;

struct SyncOptions {
  Level level = Level::kDurable;
  std::optional<std::chrono::milliseconds> timeout = std::nullopt;  // none: as long as it takes
  OnProgress on_progress = nullptr;
};

struct PublishOptions {
  Level level = Level::kDurable;
  std::optional<std::chrono::milliseconds> timeout = std::nullopt;
  OnProgress on_progress = nullptr;
  std::string latest = "latest";  // the pointer beside the directory
  std::uint32_t keep_last = 0;    // of the published directories; 0: all
};

// code(): enum shoal_error, which are errno values. what(): the thing, the reason, the next step.
class Error : public std::system_error {
 public:
  Error(int code, const std::string& message, Progress progress)
      : std::system_error(code, std::generic_category(), message),
        message_(std::make_shared<const std::string>(message)),
        progress_(std::make_shared<const Progress>(std::move(progress))) {}

  // The message alone, without strerror()'s words.
  const std::string& message() const noexcept { return *message_; }
  // What was known last: after a timeout, what is left.
  const Progress& progress() const noexcept { return *progress_; }

 private:
  // Shared, since the copy of an exception must not throw.
  std::shared_ptr<const std::string> message_;
  std::shared_ptr<const Progress> progress_;
};

namespace detail {

inline Progress progress_of(const shoal_progress& p) {
  return {p.bytes_total,      p.bytes_done,   p.bytes_left, p.objects_total,
          p.objects_done,     p.objects_left, p.failures,   p.seconds,
          p.bytes_per_second, p.stage,        p.last_error};
}

// What on_progress and its exceptions become on their way through C.
class Listener {
 public:
  explicit Listener(const OnProgress& on_progress) : on_progress_(on_progress) {}

  template <typename Options>
  void fill(Options& options) {
    if (!on_progress_) return;
    options.on_progress = &Listener::hear;
    options.context = this;
  }
  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  static int hear(const shoal_progress* progress, void* context) {
    auto* self = static_cast<Listener*>(context);
    try {
      return self->on_progress_(progress_of(*progress)) ? 0 : 1;
    } catch (...) {
      self->thrown_ = std::current_exception();
      return 1;
    }
  }

  const OnProgress& on_progress_;
  std::exception_ptr thrown_;
};

inline void check(int code) {
  if (code != SHOAL_OK) throw Error(code, shoal_last_error(), {});
}

// The outcome of sync or publish.
inline Progress finish(int code, const Listener& listener) {
  listener.rethrow();
  Progress progress = progress_of(*shoal_last_progress());
  if (code != SHOAL_OK) throw Error(code, shoal_last_error(), std::move(progress));
  return progress;
}

template <typename Options>
std::int64_t timeout_of(const Options& options) {
  if (!options.timeout) return SHOAL_NO_TIMEOUT;
  return std::max<std::int64_t>(options.timeout->count(), 0);
}

inline Progress sync(const shoal_client* client, const std::string& path,
                     const SyncOptions& options) {
  shoal_sync_options raw = SHOAL_SYNC_OPTIONS_INIT;
  Listener listener(options.on_progress);
  listener.fill(raw);
  raw.level = static_cast<int>(options.level);
  raw.timeout_ms = timeout_of(options);
  return finish(shoal_sync(client, path.c_str(), &raw), listener);
}

inline Progress publish(const shoal_client* client, const std::string& directory,
                        const PublishOptions& options) {
  shoal_publish_options raw = SHOAL_PUBLISH_OPTIONS_INIT;
  Listener listener(options.on_progress);
  listener.fill(raw);
  raw.level = static_cast<int>(options.level);
  raw.timeout_ms = timeout_of(options);
  raw.latest = options.latest.c_str();
  raw.keep_last = options.keep_last;
  return finish(shoal_publish(client, directory.c_str(), &raw), listener);
}

}  // namespace detail

// A daemon, by its mount: what sync() and publish() below look up each time. Movable; one may be
// used by several threads.
class Client {
 public:
  // The daemon of the mount in which `path` lies.
  explicit Client(const std::string& path) {
    shoal_client* client = nullptr;
    detail::check(shoal_client_open(path.c_str(), &client));
    client_.reset(client);
  }
  // The daemon behind an admin socket; `mountpoint` if this process sees its files elsewhere.
  static Client at_socket(const std::string& socket,
                          const std::optional<std::string>& mountpoint = std::nullopt) {
    shoal_client* client = nullptr;
    detail::check(shoal_client_open_socket(socket.c_str(),
                                           mountpoint ? mountpoint->c_str() : nullptr, &client));
    return Client(client);
  }

  std::string mountpoint() const { return shoal_client_mountpoint(client_.get()); }

  // Waits until everything at or below `path` is safe; returns the last progress.
  Progress sync(const std::string& path, const SyncOptions& options = {}) const {
    return detail::sync(client_.get(), path, options);
  }
  // Makes a directory visible as one.
  Progress publish(const std::string& directory, const PublishOptions& options = {}) const {
    return detail::publish(client_.get(), directory, options);
  }

 private:
  explicit Client(shoal_client* client) : client_(client) {}

  struct Close {
    void operator()(shoal_client* client) const { shoal_client_close(client); }
  };
  std::unique_ptr<shoal_client, Close> client_;
};

inline Progress sync(const std::string& path, const SyncOptions& options = {}) {
  return detail::sync(nullptr, path, options);
}

inline Progress publish(const std::string& directory, const PublishOptions& options = {}) {
  return detail::publish(nullptr, directory, options);
}

// How safe a file is right now, at least.
inline Level file_level(const std::string& path) {
  int level = SHOAL_OPEN;
  detail::check(shoal_file_level(path.c_str(), &level));
  return static_cast<Level>(level);
}

}  // namespace shoal

#endif
