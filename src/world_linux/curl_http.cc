#include "world_linux/curl_http.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <climits>
#include <deque>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "world_linux/clock.h"
#include "world_linux/curl_exchange.h"
#include "world_linux/thread.h"

namespace shoal {

// Calls to one scheme, host and port: how many are active, and those that wait.
struct CurlHost {
  size_t active = 0;
  std::deque<CurlExchange*> waiting;
};

namespace {

// With 512 KiB libcurl needs a third less CPU per byte than with its default of 16 KiB.
constexpr long kReceiveBufferBytes = 512 * 1024;
constexpr long kSendBufferBytes = 256 * 1024;
// Easy handles kept for the next call. Each may hold its buffers.
constexpr size_t kIdleHandlesMax = 8;
// Hosts without calls are forgotten above this number.
constexpr size_t kUnusedHostsMax = 16;

std::string host_key(std::string_view url) {
  size_t scheme = url.find("://");
  size_t begin = scheme == std::string_view::npos ? 0 : scheme + 3;
  std::string key(url.substr(0, url.find_first_of("/?#", begin)));
  for (char& c : key) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return key;
}

int set_congestion(void* options, curl_socket_t socket, curlsocktype) {
  const std::string& name = static_cast<const CurlOptions*>(options)->tcp_congestion;
  // Checked when the client was made; a failure here costs speed only.
  (void)setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                   static_cast<socklen_t>(name.size()));
  return CURL_SOCKOPT_OK;
}

Status check_options(const CurlOptions& options) {
  if (options.connections_max == 0 || options.connections_per_host_max == 0) {
    return fail(Code::kInvalidArgument, "HTTP needs at least one connection");
  }
  if (!options.ca_file.empty() && access(options.ca_file.c_str(), R_OK) != 0) {
    return fail(error_from_errno(
        errno, fmt::format("file of certificate authorities {}", options.ca_file)));
  }
  if (options.tcp_congestion.empty()) return {};
  int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return fail(error_from_errno(errno, "making a socket"));
  int answer = setsockopt(probe, IPPROTO_TCP, TCP_CONGESTION, options.tcp_congestion.data(),
                          static_cast<socklen_t>(options.tcp_congestion.size()));
  close(probe);
  if (answer == 0) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("TCP congestion control {} is not to be had here; see "
                          "/proc/sys/net/ipv4/tcp_allowed_congestion_control",
                          options.tcp_congestion));
}

}  // namespace

// The side thread and what belongs to it.
class CurlEngine {
 public:
  explicit CurlEngine(CurlOptions options) : options_(std::move(options)) {}
  ~CurlEngine();
  Status open();

  // Any thread.
  void submit(CurlExchange& exchange);
  void request_scan();

 private:
  void wake();
  void serve();
  void take_incoming();
  void drop_cancelled();
  void check_limits();
  void admit();
  bool admit_from(CurlHost& host);
  void activate(CurlExchange& exchange);
  void detach(CurlExchange& exchange);
  void end_waiting(CurlExchange& exchange, Error error);
  void end_active(CurlExchange& exchange, Error error);
  void collect();
  void collect_one(CurlExchange& exchange, CURLcode code);
  void wait();
  void drain_wake_ups();
  void watch(SteadyTime when) { next_check_ = std::min(next_check_, when); }
  CURL* take_handle();
  void open_multi();
  void close_multi();

  const CurlOptions options_;
  int wake_descriptor_ = -1;

  // Any thread.
  std::mutex mutex_;
  Runnable* incoming_first_ = nullptr;
  Runnable* incoming_last_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
  std::atomic<bool> wake_pending_{false};
  std::atomic<bool> scan_requested_{false};

  // The side thread only.
  CURLM* multi_ = nullptr;
  CURLSH* share_ = nullptr;
  SteadyTime now_{};
  SteadyTime idle_since_{};
  SteadyTime next_check_ = kNever;  // when a deadline or a stall may have to be acted on
  std::vector<CURL*> idle_handles_;
  std::vector<CurlExchange*> active_;
  size_t waiting_ = 0;
  std::map<std::string, CurlHost, std::less<>> hosts_;
  std::string turn_;  // the host that was last asked for a call to admit
};

// ---- CurlClient and CurlHttp

CurlClient::CurlClient() = default;
CurlClient::~CurlClient() = default;

Result<std::unique_ptr<CurlClient>> CurlClient::create(CurlOptions options) {
  SHOAL_RETURN_IF_ERROR(check_options(options));
  std::unique_ptr<CurlClient> self(new CurlClient());
  self->engine_ = std::make_unique<CurlEngine>(std::move(options));
  SHOAL_RETURN_IF_ERROR(self->engine_->open());
  return self;
}

std::unique_ptr<CurlHttp> CurlClient::attach(Executor& executor) {
  return std::make_unique<CurlHttp>(executor, *engine_);
}

CurlHttp::~CurlHttp() { SHOAL_ASSERT(in_flight_ == 0, "HTTP calls are under way"); }

void CurlHttp::start(HttpCall& call) {
  SHOAL_ASSERT(executor_.on_thread());
  SHOAL_ASSERT(call.stall_timeout > Duration(0));
  auto* exchange = new CurlExchange(*this, call);
  {
    std::lock_guard lock(mutex_);
    SHOAL_ASSERT(call.transport == nullptr, "the call was started already");
    call.transport = exchange;
  }
  ++in_flight_;
  exchange->next_of_shard = first_;
  if (first_ != nullptr) first_->previous_of_shard = exchange;
  first_ = exchange;
  engine_.submit(*exchange);
}

void CurlHttp::cancel(HttpCall& call) {
  {
    std::lock_guard lock(mutex_);
    if (call.transport == nullptr) return;
    static_cast<CurlExchange*>(call.transport)->request_cancel();
  }
  engine_.request_scan();
}

void CurlHttp::cancel_all() {
  SHOAL_ASSERT(executor_.on_thread());
  if (first_ == nullptr) return;
  for (CurlExchange* each = first_; each != nullptr; each = each->next_of_shard) {
    each->request_cancel();
  }
  engine_.request_scan();
}

void CurlHttp::end(CurlExchange& exchange) {
  SHOAL_ASSERT(executor_.on_thread() && in_flight_ > 0);
  {
    std::lock_guard lock(mutex_);
    SHOAL_ASSERT(exchange.call().transport == &exchange);
    exchange.call().transport = nullptr;
  }
  --in_flight_;
  CurlExchange* next = exchange.next_of_shard;
  CurlExchange* previous = exchange.previous_of_shard;
  (previous != nullptr ? previous->next_of_shard : first_) = next;
  if (next != nullptr) next->previous_of_shard = previous;
  delete &exchange;
}

// ---- CurlEngine: any thread

Status CurlEngine::open() {
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    return fail(Code::kInternal, "libcurl does not start");
  }
  SHOAL_ASSIGN_OR_RETURN(wake_descriptor_, make_event_descriptor());
  return {};
}

CurlEngine::~CurlEngine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) {
    wake();
    thread_.join();
  }
  SHOAL_ASSERT(incoming_first_ == nullptr && active_.empty() && waiting_ == 0,
               "HTTP calls are under way");
  if (wake_descriptor_ >= 0) close(wake_descriptor_);
}

void CurlEngine::submit(CurlExchange& exchange) {
  Status started;
  {
    std::lock_guard lock(mutex_);
    SHOAL_ASSERT(!stopping_);
    if (!thread_.joinable()) {
      auto thread = start_thread("shoal-http", [this] { serve(); });
      if (thread) {
        thread_ = std::move(*thread);
      } else {
        started = fail(std::move(thread).error());
      }
    }
    if (started) {
      exchange.next = nullptr;
      (incoming_last_ != nullptr ? incoming_last_->next : incoming_first_) = &exchange;
      incoming_last_ = &exchange;
    }
  }
  if (started) {
    wake();
  } else {
    exchange.conclude(Error(Code::kUnavailable, started.error().message()));
    exchange.give_back();
  }
}

void CurlEngine::request_scan() {
  scan_requested_.store(true);
  wake();
}

// Only the first of many pays for the system call: the thread clears the flag before it looks.
void CurlEngine::wake() {
  if (!wake_pending_.exchange(true)) signal_event(wake_descriptor_);
}

// ---- CurlEngine: the side thread

void CurlEngine::serve() {
  now_ = read_steady_clock();
  while (true) {
    take_incoming();
    {
      std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    if (scan_requested_.exchange(false)) drop_cancelled();
    if (now_ >= next_check_) check_limits();
    admit();
    if (!active_.empty()) {
      int running = 0;
      CURLMcode code = curl_multi_perform(multi_, &running);
      SHOAL_ASSERT(code == CURLM_OK, "curl_multi_perform failed");
      collect();
      admit();
    }
    wait();
    now_ = read_steady_clock();
  }
  close_multi();
}

void CurlEngine::take_incoming() {
  // Cleared before the list is looked at: whoever adds to it later wakes us again.
  wake_pending_.exchange(false);
  Runnable* item = nullptr;
  {
    std::lock_guard lock(mutex_);
    item = std::exchange(incoming_first_, nullptr);
    incoming_last_ = nullptr;
  }
  while (item != nullptr) {
    auto& exchange = *static_cast<CurlExchange*>(item);
    item = item->next;
    exchange.next = nullptr;
    exchange.clock = &now_;
    CurlHost& host = hosts_[host_key(exchange.call().request.url)];
    exchange.host = &host;
    host.waiting.push_back(&exchange);
    ++waiting_;
    watch(exchange.call().deadline);
    if (exchange.is_cancelled()) scan_requested_.store(true);
  }
}

void CurlEngine::end_waiting(CurlExchange& exchange, Error error) {
  SHOAL_ASSERT(waiting_ > 0);
  --waiting_;
  exchange.conclude(std::move(error));
  exchange.give_back();
}

void CurlEngine::end_active(CurlExchange& exchange, Error error) {
  detach(exchange);
  exchange.conclude(std::move(error));
  exchange.give_back();
}

void CurlEngine::drop_cancelled() {
  for (auto& [key, host] : hosts_) {
    std::erase_if(host.waiting, [this](CurlExchange* exchange) {
      if (!exchange->is_cancelled()) return false;
      end_waiting(*exchange, Error(Code::kCancelled, "cancelled"));
      return true;
    });
  }
  for (size_t i = active_.size();
       i-- > 0;) {  // backwards: ending one moves the last into its place
    if (active_[i]->is_cancelled()) end_active(*active_[i], Error(Code::kCancelled, "cancelled"));
  }
}

// Deadlines of waiting calls and stalls of active ones (libcurl watches the deadlines of those).
void CurlEngine::check_limits() {
  next_check_ = kNever;
  for (auto& [key, host] : hosts_) {
    std::erase_if(host.waiting, [this](CurlExchange* exchange) {
      if (exchange->call().deadline > now_) {
        watch(exchange->call().deadline);
        return false;
      }
      end_waiting(*exchange, Error(Code::kDeadlineExceeded,
                                   "deadline exceeded before a "
                                   "connection was free"));
      return true;
    });
  }
  for (size_t i = active_.size(); i-- > 0;) {
    CurlExchange& exchange = *active_[i];
    if (exchange.has_moved() || !exchange.connected) exchange.last_moved = now_;
    Duration limit = exchange.call().stall_timeout;
    if (now_ - exchange.last_moved < limit) {
      watch(exchange.last_moved + limit);
      continue;
    }
    end_active(exchange,
               Error(Code::kUnavailable, fmt::format("the server sent nothing for {:.1f} s",
                                                     to_seconds(now_ - exchange.last_moved))));
  }
}

// First in, first out per host; hosts take turns.
void CurlEngine::admit() {
  size_t refused = 0;
  while (waiting_ > 0 && refused < hosts_.size()) {
    auto host = hosts_.upper_bound(turn_);
    if (host == hosts_.end()) host = hosts_.begin();
    turn_ = host->first;
    refused = admit_from(host->second) ? 0 : refused + 1;
  }
  if (hosts_.size() <= kUnusedHostsMax) return;
  std::erase_if(hosts_, [](const auto& entry) {
    return entry.second.active == 0 && entry.second.waiting.empty();
  });
}

bool CurlEngine::admit_from(CurlHost& host) {
  if (host.waiting.empty() || active_.size() >= options_.connections_max ||
      host.active >= options_.connections_per_host_max) {
    return false;
  }
  CurlExchange& exchange = *host.waiting.front();
  host.waiting.pop_front();
  if (exchange.is_cancelled()) {
    end_waiting(exchange, Error(Code::kCancelled, "cancelled"));
    return true;
  }
  if (exchange.call().deadline <= now_) {
    end_waiting(exchange, Error(Code::kDeadlineExceeded, "deadline exceeded"));
    return true;
  }
  --waiting_;
  activate(exchange);
  return true;
}

void CurlEngine::activate(CurlExchange& exchange) {
  if (multi_ == nullptr) open_multi();
  CURL* easy = take_handle();
  Status status = exchange.prepare(easy, now_);
  if (!status) {
    exchange.easy = nullptr;
    idle_handles_.push_back(easy);
    exchange.conclude(std::move(status).error());
    return exchange.give_back();
  }
  CURLMcode code = curl_multi_add_handle(multi_, easy);
  SHOAL_ASSERT(code == CURLM_OK, "curl_multi_add_handle failed");
  exchange.index = active_.size();
  active_.push_back(&exchange);
  ++exchange.host->active;
  watch(now_ + exchange.call().stall_timeout);
}

// Takes the exchange from libcurl. Nothing is written to the caller's memory after this.
void CurlEngine::detach(CurlExchange& exchange) {
  SHOAL_ASSERT(active_[exchange.index] == &exchange && exchange.host->active > 0);
  CURL* easy = std::exchange(exchange.easy, nullptr);
  CURLMcode code = curl_multi_remove_handle(multi_, easy);
  SHOAL_ASSERT(code == CURLM_OK, "curl_multi_remove_handle failed");
  active_[exchange.index] = active_.back();
  active_[exchange.index]->index = exchange.index;
  active_.pop_back();
  idle_since_ = now_;
  --exchange.host->active;
  // The handle points to things of the exchange; no call of libcurl follows before the next
  // prepare(), which replaces all of them.
  if (idle_handles_.size() < kIdleHandlesMax) {
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, nullptr);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, nullptr);
    idle_handles_.push_back(easy);
  } else {
    curl_easy_cleanup(easy);
  }
}

void CurlEngine::collect() {
  int left = 0;
  while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result;
    char* owner = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &owner);
    auto* exchange = reinterpret_cast<CurlExchange*>(owner);
    SHOAL_ASSERT(exchange != nullptr && exchange->easy == message->easy_handle);
    collect_one(*exchange, code);
  }
}

void CurlEngine::collect_one(CurlExchange& exchange, CURLcode code) {
  if (exchange.may_retry(code)) {
    detach(exchange);
    exchange.retried = true;
    return activate(exchange);
  }
  detach(exchange);
  exchange.conclude(code, now_);
  exchange.give_back();
}

void CurlEngine::wait() {
  pollfd own{wake_descriptor_, POLLIN, 0};
  auto milliseconds_until = [this](SteadyTime when) {
    if (when <= now_) return 0;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(when - now_).count();
    return static_cast<int>(std::min<int64_t>(left, 60'000));
  };
  if (active_.empty()) {
    SHOAL_ASSERT(waiting_ == 0, "calls wait although nothing is active");
    // Idle connections and buffers are kept for a while, then all are let go.
    int limit = multi_ != nullptr ? milliseconds_until(idle_since_ + options_.idle_timeout) : -1;
    int ready = poll(&own, 1, limit);
    if (ready > 0) {
      drain_wake_ups();
    } else if (ready == 0 && read_steady_clock() >= idle_since_ + options_.idle_timeout) {
      close_multi();
    }
    return;
  }
  curl_waitfd extra{wake_descriptor_, CURL_WAIT_POLLIN, 0};
  int limit = next_check_ == kNever ? 60'000 : milliseconds_until(next_check_);
  CURLMcode code = curl_multi_poll(multi_, &extra, 1, limit, nullptr);
  SHOAL_ASSERT(code == CURLM_OK, "curl_multi_poll failed");
  if (extra.revents != 0) drain_wake_ups();
}

void CurlEngine::drain_wake_ups() {
  uint64_t count = 0;
  ssize_t got = read(wake_descriptor_, &count, sizeof count);
  SHOAL_ASSERT(got == sizeof count || errno == EINTR);
}

// ---- CurlEngine: handles

CURL* CurlEngine::take_handle() {
  if (!idle_handles_.empty()) {
    CURL* easy = idle_handles_.back();
    idle_handles_.pop_back();
    return easy;
  }
  CURL* easy = curl_easy_init();
  SHOAL_ASSERT(easy != nullptr, "out of memory");
  auto set = [easy](CURLoption option, auto value) {
    CURLcode code = curl_easy_setopt(easy, option, value);
    SHOAL_ASSERT(code == CURLE_OK, "libcurl refuses an option");
  };
  set(CURLOPT_NOSIGNAL, 1L);
  // A cancelled call does not wait for a slow name server (that thread ends by itself).
  set(CURLOPT_QUICK_EXIT, 1L);
  set(CURLOPT_SHARE, share_);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_PATH_AS_IS, 1L);  // the URL is sent as it is
  set(CURLOPT_PROXY, options_.proxy.c_str());
  set(CURLOPT_USERAGENT, options_.user_agent.c_str());
  set(CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
  set(CURLOPT_UPLOAD_BUFFERSIZE, kSendBufferBytes);
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_timeout.count()));
  set(CURLOPT_MAXAGE_CONN, std::max(1L, static_cast<long>(options_.idle_timeout.count() / 1000)));
  set(CURLOPT_SSL_VERIFYPEER, 1L);
  set(CURLOPT_SSL_VERIFYHOST, 2L);
  if (!options_.ca_file.empty()) set(CURLOPT_CAINFO, options_.ca_file.c_str());
  if (!options_.tcp_congestion.empty()) {
    set(CURLOPT_SOCKOPTFUNCTION, &set_congestion);
    set(CURLOPT_SOCKOPTDATA, const_cast<CurlOptions*>(&options_));
  }
  return easy;
}

void CurlEngine::open_multi() {
  SHOAL_ASSERT(multi_ == nullptr);
  multi_ = curl_multi_init();
  share_ = curl_share_init();
  SHOAL_ASSERT(multi_ != nullptr && share_ != nullptr, "out of memory");
  // One thread uses it, so it needs no locks.
  curl_share_setopt(share_, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
  curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(options_.connections_max));
  curl_multi_setopt(multi_, CURLMOPT_PIPELINING, static_cast<long>(CURLPIPE_NOTHING));
  idle_since_ = now_;
}

void CurlEngine::close_multi() {
  SHOAL_ASSERT(active_.empty());
  for (CURL* easy : idle_handles_) curl_easy_cleanup(easy);
  idle_handles_.clear();
  if (multi_ != nullptr) curl_multi_cleanup(std::exchange(multi_, nullptr));
  if (share_ != nullptr) curl_share_cleanup(std::exchange(share_, nullptr));
}

}  // namespace shoal
