#include "cluster/async_copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/assert.h"
#include "base/object_name.h"
#include "one_node/load.h"
#include "one_node/raw_http.h"

namespace shoal::bench {

namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kAgain{200};

struct State {
  const AsyncCopy& copy;
  int file = -1;
  uint64_t size = 0;
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  Status outcome;
};

std::string block_id(uint64_t index) {
  auto id = fmt::format("{:08}", index);
  return base64_encode(id);
}

// A connection that is made again when it breaks.
class Uploader {
 public:
  explicit Uploader(const AsyncCopy& copy) : copy_(copy) {}

  // Until the origin has taken it; what it refuses for good is an error.
  template <typename Send>
  Status put(Send&& send) {
    while (true) {
      SHOAL_RETURN_IF_ERROR(check_interrupted());
      if (!http_) {
        auto made = RawHttp::connect(copy_.port, copy_.address);
        if (made) http_.emplace(std::move(*made));
      }
      if (http_) {
        auto answer = send(*http_);
        if (answer) {
          Buffer body(answer->length + 1);
          SHOAL_RETURN_IF_ERROR(http_->read_body(body.part(0, answer->length)));
          if (answer->status == 201) return {};
          if (answer->status < 500) {
            return fail(Code::kUnavailable, fmt::format("the origin answers {}", answer->status));
          }
        } else {
          http_.reset();
        }
      }
      std::this_thread::sleep_for(kAgain);
    }
  }

 private:
  const AsyncCopy& copy_;
  std::optional<RawHttp> http_;
};

Status upload_blocks(State& state) {
  Uploader uploader(state.copy);
  while (true) {
    uint64_t index = state.next.fetch_add(1);
    uint64_t offset = index * state.copy.block_bytes;
    if (offset >= state.size) return {};
    uint64_t length = std::min(state.copy.block_bytes, state.size - offset);
    auto target = fmt::format("{}?comp=block&blockid={}", state.copy.target,
                              percent_encode(block_id(index), false));
    SHOAL_RETURN_IF_ERROR(uploader.put([&](RawHttp& http) {
      return http.send_file("PUT", target, {}, state.file, offset, length);
    }));
  }
}

Status commit(State& state) {
  std::string body = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>";
  for (uint64_t i = 0; i * state.copy.block_bytes < state.size; ++i) {
    body += "<Latest>" + block_id(i) + "</Latest>";
  }
  body += "</BlockList>";
  Uploader uploader(state.copy);
  return uploader.put([&](RawHttp& http) {
    return http.send("PUT", state.copy.target + "?comp=blocklist", {}, body);
  });
}

Status upload(State& state) {
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < state.copy.connections; ++i) {
      threads.emplace_back([&state] {
        Status status = upload_blocks(state);
        std::lock_guard lock(state.mutex);
        if (state.outcome && !status) state.outcome = std::move(status);
      });
    }
  }
  SHOAL_RETURN_IF_ERROR(state.outcome);
  return commit(state);
}

Status enter(int network) {
  if (network < 0 || setns(network, CLONE_NEWNET) == 0) return {};
  return fail(error_from_errno(errno, "cannot enter a network namespace"));
}

Json run(const AsyncCopy& copy) {
  Status status = enter(copy.network);
  State state{copy, open(copy.file.c_str(), O_RDONLY | O_CLOEXEC), 0, 0, {}, {}};
  off_t size = lseek(state.file, 0, SEEK_END);
  if (status && size <= 0) status = fail(error_from_errno(errno, "cannot upload " + copy.file));
  if (status) state.size = static_cast<uint64_t>(size);
  double begun = seconds_now();
  double cpu = cpu_seconds_of_this_process();
  if (status) status = upload(state);
  return {{"seconds", seconds_now() - begun},
          {"cpu", cpu_seconds_of_this_process() - cpu},
          {"bytes", state.size},
          {"error", status ? "" : status.error().to_string()}};
}

}  // namespace

Result<std::unique_ptr<AsyncCopier>> AsyncCopier::start(const WorkDirectory& work,
                                                        const AsyncCopy& copy) {
  SHOAL_ASSIGN_OR_RETURN(auto child,
                         ReportingChild::start(work, "async_copy", [&copy] { return run(copy); }));
  return std::unique_ptr<AsyncCopier>(new AsyncCopier(std::move(child)));
}

Result<AsyncCopyOutcome> AsyncCopier::wait(milliseconds patience) {
  SHOAL_ASSIGN_OR_RETURN(Json json, child_.stop(0, patience));
  std::string error = json.value("error", std::string("no report"));
  if (!error.empty()) return fail(Code::kUnavailable, "the plain upload failed: " + error);
  return AsyncCopyOutcome{json.value("seconds", 0.0), json.value("cpu", 0.0),
                          json.value("bytes", uint64_t{0})};
}

}  // namespace shoal::bench
