// One HTTP call inside this room: from CurlHttp::start on the shard, to the side thread and back.
// Not for other rooms.
#pragma once

#include <curl/curl.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "world/http.h"
#include "world_linux/curl_http.h"

namespace shoal {

struct CurlHost;

// Runs on the shard when the call has ended. In between it belongs to the side thread, but for the
// members under "shared".
class CurlExchange final : public Runnable {
 public:
  CurlExchange(CurlHttp& home, HttpCall& call) : home_(home), call_(call), progress_(*this) {}

  HttpCall& call() { return call_; }

  // Side thread. Tells libcurl what to send and where to put the answer; fails if the request
  // cannot be sent as it stands.
  Status prepare(CURL* easy, SteadyTime now);
  // What the answer amounts to. `code` is libcurl's.
  void conclude(CURLcode code, SteadyTime now);
  void conclude(Error error) { result_ = fail(std::move(error)); }
  // Whether the server closed a kept connection under the request, so that it may be sent again.
  bool may_retry(CURLcode code) const;
  // Gives the exchange back to its shard. It may be gone after this.
  void give_back();

  // Libcurl moved bytes since it was last asked.
  bool has_moved();

  // Any thread.
  void request_cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool is_cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  // For the engine.
  CURL* easy = nullptr;
  CurlHost* host = nullptr;
  size_t index = 0;                   // in the engine's table of active calls
  SteadyTime last_moved{};            // when a byte last went in either direction
  const SteadyTime* clock = nullptr;  // the side thread's now
  bool connected = false;  // libcurl has a connection for it; before, no stall is counted
  bool retried = false;
  unsigned sendings = 0;  // times that the request went out, over all its connections

  // For CurlHttp: the list of calls in flight. Shard's thread.
  CurlExchange* previous_of_shard = nullptr;
  CurlExchange* next_of_shard = nullptr;

 private:
  class Progress final : public Runnable {
   public:
    explicit Progress(CurlExchange& exchange) : exchange_(exchange) {}
    void run() noexcept override { exchange_.tell_progress(); }

   private:
    CurlExchange& exchange_;
  };
  friend class CurlHttp;

  static size_t on_body(char* data, size_t size, size_t count, void* self);
  static size_t on_header(char* data, size_t size, size_t count, void* self);
  static size_t on_upload(char* data, size_t size, size_t count, void* self);
  static int on_seek(void* self, curl_off_t offset, int origin);
  static int on_connected(void* self, char*, char*, int, int);

  void run() noexcept override;
  Status make_headers();
  void set_method();
  void begin_answer();
  bool take_body(std::string_view bytes);
  bool take_header(std::string_view line);
  bool into_memory() const;
  void note_progress();
  void tell_progress();
  void moved() { last_moved = *clock; }
  Error failure(CURLcode code, SteadyTime now) const;
  Error error(Code code, std::string_view reason) const;

  enum class Fault { kNone, kTooLong, kTooLarge, kHeaders };

  CurlHttp& home_;
  HttpCall& call_;
  curl_slist* headers_ = nullptr;
  std::array<char, CURL_ERROR_SIZE> reason_{};
  HttpResponse response_;
  size_t header_bytes_ = 0;
  uint64_t upload_offset_ = 0;
  uint64_t filled_ = 0;        // bytes of call_.into
  uint64_t noted_ = 0;         // `filled_` when the shard was last told
  curl_off_t bytes_seen_ = 0;  // libcurl's counts at the last has_moved()
  Fault fault_ = Fault::kNone;
  Result<HttpResponse> result_ = fail(Code::kInternal, "not finished");

  // Shared.
  std::atomic<bool> cancelled_{false};       // relaxed: a wake-up of the side thread follows it
  std::atomic<uint64_t> progress_bytes_{0};  // released after the bytes were written
  std::atomic<bool> progress_posted_{false};
  Progress progress_;
  uint64_t told_ = 0;  // shard's thread
};

}  // namespace shoal
