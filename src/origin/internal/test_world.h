// For this room's tests: virtual time, one thread, and an origin that follows a script.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "async/gate.h"
#include "async/timer_queue.h"
#include "world/world.h"

namespace shoal {

class TestExecutor final : public Executor {
 public:
  SteadyTime now() const override { return now_; }
  // 22 November 2026, 12:00:00 UTC, and what has passed since.
  WallTime wall_now() const override {
    return WallTime(std::chrono::seconds(1795348800)) + now_.time_since_epoch();
  }
  void post(Runnable& item) override { queue_.push_back(&item); }
  void post_remote(Runnable& item) override { post(item); }
  bool on_thread() const override { return true; }
  void start_timer(Timer& timer, SteadyTime when) override { timers_.add(timer, when); }
  void stop_timer(Timer& timer) override { timers_.remove(timer); }

  void run_until_idle() {
    while (true) {
      if (!queue_.empty()) {
        Runnable* item = queue_.front();
        queue_.pop_front();
        item->run();
      } else if (auto next = timers_.next()) {
        now_ = std::max(now_, *next);
        timers_.take_due(now_)->run();
      } else {
        return;
      }
    }
  }

 private:
  SteadyTime now_{};
  std::deque<Runnable*> queue_;
  TimerQueue timers_;
};

class CountingRandom final : public Random {
 public:
  uint64_t next() override { return state_ += 0x9E3779B97F4A7C15ull; }

 private:
  uint64_t state_ = 0;
};

// Answers each call by the next entry of its script; a call without one fails the test.
class ScriptedHttp final : public Http {
 public:
  struct Answer {
    int status = 0;  // 0: the connection fails
    HttpHeaders headers = {};
    std::string body = {};         // goes to `into` if the call has one and the status is 2xx
    size_t lost_after = SIZE_MAX;  // the connection is reset after so many bytes of the body
    Duration takes = std::chrono::milliseconds(1);
  };

  explicit ScriptedHttp(TestExecutor& executor) : executor_(executor) {}
  ~ScriptedHttp() override { EXPECT_EQ(next_, script.size()) << "answers were left over"; }

  void start(HttpCall& call) override {
    requests.push_back(call.request);
    bodies.emplace_back(as_text(call.request.body));
    in_flight_max = std::max(in_flight_max, ++in_flight);
    Answer answer;
    if (next_ < script.size()) {
      answer = script[next_++];
    } else if (otherwise) {
      answer = otherwise(call.request);
    } else {
      ADD_FAILURE() << "unexpected " << call.request.method << " " << call.request.url;
      answer.status = 400;
    }
    replies_.push_back(std::make_unique<Reply>(*this, call, std::move(answer)));
  }
  void cancel(HttpCall& call) override { call.deadline = SteadyTime::min(); }

  // The header of request `index`, or "(none)".
  std::string sent(size_t index, std::string_view name) const {
    for (const auto& [key, value] : requests.at(index).headers) {
      if (key == name) return value;
    }
    return "(none)";
  }

  std::vector<Answer> script;
  std::function<Answer(const HttpRequest&)> otherwise;
  std::vector<HttpRequest> requests;
  std::vector<std::string> bodies;
  int in_flight = 0;
  int in_flight_max = 0;

 private:
  class Reply final : public Timer {
   public:
    Reply(ScriptedHttp& http, HttpCall& call, Answer answer)
        : http_(http), call_(call), answer_(std::move(answer)) {
      SteadyTime when = http.executor_.now() + answer_.takes;
      late_ = when > call.deadline;
      http.executor_.start_timer(*this,
                                 std::min(when, std::max(call.deadline, http.executor_.now())));
    }
    void run() noexcept override {
      --http_.in_flight;
      call_.result = late_ ? fail(Code::kDeadlineExceeded, "deadline exceeded") : answer();
      http_.executor_.post(call_);
    }

   private:
    Result<HttpResponse> answer() {
      if (answer_.status == 0) return fail(Code::kUnavailable, "connection refused");
      HttpResponse response{answer_.status, answer_.headers, {}, 0};
      bool good = answer_.status >= 200 && answer_.status < 300;
      if (!good || call_.into.empty()) {
        response.body = answer_.body;
        return response;
      }
      size_t count = std::min(answer_.body.size(), answer_.lost_after);
      if (count > call_.into.size()) return fail(Code::kUnavailable, "the body is too long");
      std::memcpy(call_.into.data(), answer_.body.data(), count);
      if (call_.on_progress && count > 0) call_.on_progress(count);
      if (count < answer_.body.size()) return fail(Code::kUnavailable, "connection reset");
      response.into_bytes = count;
      return response;
    }

    ScriptedHttp& http_;
    HttpCall& call_;
    Answer answer_;
    bool late_ = false;
  };

  TestExecutor& executor_;
  size_t next_ = 0;
  std::vector<std::unique_ptr<Reply>> replies_;
};

// Nothing of these tests touches a disk.
class NoDisk final : public Disk {
 public:
  void submit(DiskOp&) override { SHOAL_ASSERT(false, "no disk here"); }
  int native_descriptor(FileId) const override { return -1; }
};

class NoNetwork final : public Network {
 public:
  void start(NetOp&) override { SHOAL_ASSERT(false, "no network here"); }
  void cancel(NetOp&) override {}
  void close(SocketId) override {}
  Result<std::vector<NetworkInterface>> interfaces() override {
    return std::vector<NetworkInterface>();
  }
};

// Runs one task to its end.
template <typename T>
Task<void> keep_result(Task<T> task, std::optional<T>& result) {
  result.emplace(co_await task);
}
template <typename T>
T run_to_end(TestExecutor& executor, Task<T> task) {
  Gate gate(executor);
  std::optional<T> result;
  gate.spawn(keep_result(std::move(task), result));
  executor.run_until_idle();
  SHOAL_ASSERT(result.has_value(), "the task never ended");
  return std::move(*result);
}

}  // namespace shoal
