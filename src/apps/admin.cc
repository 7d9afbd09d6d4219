// The only file that sees cpp-httplib.
#include "apps/admin.h"

#include <fmt/format.h>
#include <httplib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "base/assert.h"
#include "control/connection.h"
#include "control/protocol.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;

constexpr size_t kWorkersMax = 48;  // more than jobs, each of which has one
constexpr size_t kWaitingMax = 64;
constexpr auto kWorkerIdle = std::chrono::seconds(5);
constexpr auto kProgressPause = milliseconds(200);
constexpr size_t kBodyBytesMax = size_t{4} * 1024 * 1024;
constexpr int kPortsTried = 100;

// Workers come with work and leave when idle, so that an idle node pays for none of them and a job
// that runs for an hour does not keep others from asking for the status.
class OnDemandWorkers final : public httplib::TaskQueue {
 public:
  void enqueue(std::function<void()> work) override {
    std::list<std::thread> gone;
    {
      std::lock_guard lock(mutex_);
      gone.swap(gone_);
      if (queue_.size() >= kWaitingMax) return;  // dropping the work closes the connection
      queue_.push_back(std::move(work));
      if (idle_ >= queue_.size() || workers_.size() >= kWorkersMax) {
        changed_.notify_one();
      } else {
        auto place = workers_.emplace(workers_.end());
        *place = std::thread([this, place] { serve(place); });
      }
    }
    for (std::thread& thread : gone) thread.join();
  }

  void shutdown() override {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return workers_.empty(); });
    std::list<std::thread> gone;
    gone.swap(gone_);
    lock.unlock();
    for (std::thread& thread : gone) thread.join();
  }

 private:
  void serve(std::list<std::thread>::iterator self) {
    std::unique_lock lock(mutex_);
    while (true) {
      ++idle_;
      bool woken =
          changed_.wait_for(lock, kWorkerIdle, [this] { return stopping_ || !queue_.empty(); });
      --idle_;
      if (queue_.empty() && (stopping_ || !woken)) break;
      auto work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      work = nullptr;
      lock.lock();
    }
    gone_.splice(gone_.end(), workers_, self);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<std::function<void()>> queue_;
  std::list<std::thread> workers_;
  std::list<std::thread> gone_;  // to be joined
  size_t idle_ = 0;
  bool stopping_ = false;
};

bool same_token(std::string_view a, std::string_view b) {
  if (a.empty() || a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

// A web page elsewhere that resolves its own name to 127.0.0.1 must not read our status.
bool is_local_host_header(std::string_view host) {
  size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && host.find(']') == std::string_view::npos) {
    host = host.substr(0, colon);
  } else if (size_t bracket = host.find(']'); bracket != std::string_view::npos) {
    host = host.substr(0, bracket + 1);
  }
  return host == "localhost" || host == "127.0.0.1" || host == "[::1]" || host.empty();
}

class Server final : public AdminServer {
 public:
  Server(AdminOptions options, const Registry& registry)
      : options_(std::move(options)), registry_(registry) {}

  ~Server() override {
    stopping_ = true;
    if (socket_thread_.joinable()) {
      socket_.stop();
      socket_thread_.join();
      unlink(options_.socket_path.c_str());
    }
    if (port_thread_.joinable()) {
      port_.stop();
      port_thread_.join();
    }
  }

  Status bind_port() { return options_.http == "off" ? Status() : listen_port(); }
  Status serve(NodeControl& node) override {
    SHOAL_ASSERT(node_ == nullptr, "serve() was called before");
    node_ = &node;
    SHOAL_RETURN_IF_ERROR(listen_socket());
    if (!http_address_.empty()) run(port_, port_thread_);
    return {};
  }
  const std::string& http_address() const override { return http_address_; }

 private:
  Status listen_socket() {
    if (options_.socket_path.size() >= sizeof(sockaddr_un{}.sun_path)) {
      return fail(Code::kNameTooLong,
                  fmt::format("the admin socket's path {} is too long", options_.socket_path));
    }
    unlink(options_.socket_path.c_str());
    set_up(socket_, /*trusted=*/true);
    socket_.set_address_family(AF_UNIX);
    socket_.set_socket_options([](socket_t) {});
    if (!socket_.bind_to_port(options_.socket_path, 80)) {
      return fail(
          error_from_errno(errno, fmt::format("cannot listen on {}", options_.socket_path)));
    }
    // The directory is private already; this is the second lock on the same door.
    if (chmod(options_.socket_path.c_str(), 0600) != 0) {
      return fail(error_from_errno(errno, fmt::format("cannot protect {}", options_.socket_path)));
    }
    run(socket_, socket_thread_);
    return {};
  }

  Status listen_port() {
    SHOAL_ASSIGN_OR_RETURN(HostPort wanted, parse_host_port(options_.http));
    set_up(port_, /*trusted=*/false);
    local_only_ = is_local_host_header(wanted.host) || wanted.host == "::1";
    // Without SO_REUSEPORT, which would let a second daemon share the port in silence.
    port_.set_socket_options([](socket_t socket) {
      int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    int tries = options_.http_explicit ? 1 : kPortsTried;
    for (int i = 0; i < tries && wanted.port + i < 65536; ++i) {
      if (!port_.bind_to_port(wanted.host, wanted.port + i)) continue;
      bool v6 = wanted.host.find(':') != std::string::npos;
      http_address_ =
          fmt::format(fmt::runtime(v6 ? "[{}]:{}" : "{}:{}"), wanted.host, wanted.port + i);
      return {};
    }
    return fail(Code::kBusy,
                fmt::format("cannot listen on {}: the address is in use or not this machine's; "
                            "choose another --http ADDR:PORT or --http off",
                            options_.http));
  }

  // Returns when the server accepts: its stop() is lost on one that does not run yet.
  static void run(httplib::Server& server, std::thread& thread) {
    auto ended = std::make_shared<std::atomic<bool>>(false);  // the thread may outlive this call
    thread = std::thread([&server, ended] {
      server.listen_after_bind();
      ended->store(true);
    });
    while (!server.is_running() && !ended->load()) std::this_thread::yield();
  }

  void set_up(httplib::Server& server, bool trusted) {
    server.new_task_queue = [] { return new OnDemandWorkers; };
    server.set_keep_alive_max_count(1);
    server.set_read_timeout(5);
    server.set_write_timeout(30);
    server.set_payload_max_length(kBodyBytesMax);
    server.set_tcp_nodelay(!trusted);
    server.set_pre_routing_handler([this, trusted](const auto& request, auto& response) {
      if (trusted || !local_only_ || is_local_host_header(request.get_header_value("Host"))) {
        return httplib::Server::HandlerResponse::Unhandled;
      }
      response.status = 403;
      response.set_content("this page is for this machine only\n", "text/plain");
      return httplib::Server::HandlerResponse::Handled;
    });
    server.Get("/metrics", [this](const auto&, auto& response) {
      std::string text = registry_.prometheus_text();
      if (auto report = node_->report()) text += status_metrics(*report);
      response.set_content(std::move(text), "text/plain; version=0.0.4");
    });
    server.Get("/healthz", [this](const auto&, auto& response) { answer_health(response); });
    server.Get("/status.json", [this](const auto& request, auto& response) {
      auto report = node_->report();
      if (!report) return refuse(response, 503, report.error());
      // Who asks every node of a large cluster wants this one's word only, not N answers from each.
      bool alone = request.get_param_value("scope") == "node";
      auto others = alone ? std::vector<NodeReport>() : node_->other_reports();
      response.set_content(status_json(*report, others), "application/json");
    });
    server.Get("/", [](const auto&, auto& response) {
      response.set_header("Content-Security-Policy",
                          "default-src 'none'; style-src 'unsafe-inline'; script-src "
                          "'unsafe-inline'; connect-src 'self'");
      response.set_content(std::string(admin_page()), "text/html; charset=utf-8");
    });
    server.Post(R"(/v1/([a-z]+))", [this, trusted](const auto& request, auto& response) {
      answer_job(request, response, trusted);
    });
  }

  void answer_health(httplib::Response& response) {
    auto report = node_->report();
    if (!report) return refuse(response, 503, report.error());
    response.set_content("ok\n", "text/plain");
  }

  static void refuse(httplib::Response& response, int status, const Error& error) {
    response.status = status;
    response.set_content(encode_outcome(fail(error)), "application/x-ndjson");
  }

  void answer_job(const httplib::Request& request, httplib::Response& response, bool trusted) {
    if (!trusted && !same_token(options_.token, bearer(request))) {
      return refuse(response, 401,
                    Error(Code::kUnauthenticated,
                          "changes through the http port need the node's token; use the mountpoint "
                          "on its own machine, or SHOAL_ADMIN_TOKEN_FILE"));
    }
    auto kind = job_kind(request.matches[1].str());
    if (!kind) return refuse(response, 404, Error(Code::kNotFound, "no such job"));
    auto decoded = decode_job_request(*kind, request.body);
    if (!decoded) return refuse(response, 400, decoded.error());
    auto job = node_->start(std::move(decoded->request));
    if (!job) return refuse(response, 503, job.error());
    if (decoded->detach) {
      response.set_content(encode_started(), "application/x-ndjson");
      return;
    }
    response.set_chunked_content_provider(
        "application/x-ndjson",
        [this, job = *job](size_t, httplib::DataSink& sink) { return stream(*job, sink); },
        [job = *job](bool) {
          // The asker went away, or we stop (which the library calls a success).
          if (!job->wait(milliseconds(0)).outcome) job->cancel();
        });
  }

  static std::string bearer(const httplib::Request& request) {
    std::string header = request.get_header_value("Authorization");
    constexpr std::string_view kBearer = "Bearer ";
    return header.starts_with(kBearer) ? header.substr(kBearer.size()) : std::string();
  }

  bool stream(Job& job, httplib::DataSink& sink) {
    if (stopping_) return false;
    auto snapshot = job.wait(kProgressPause);
    // What was found is told once, at the end.
    if (!snapshot.outcome) snapshot.progress.findings.clear();
    std::string lines = encode_progress(snapshot.progress);
    if (snapshot.outcome) lines += encode_outcome(*snapshot.outcome);
    if (!sink.is_writable() || !sink.write(lines.data(), lines.size())) return false;
    if (snapshot.outcome) sink.done();
    return true;
  }

  AdminOptions options_;
  NodeControl* node_ = nullptr;  // set before a thread runs
  const Registry& registry_;
  std::string http_address_;
  bool local_only_ = true;
  std::atomic<bool> stopping_{false};
  httplib::Server socket_;
  httplib::Server port_;
  std::thread socket_thread_;
  std::thread port_thread_;
};

}  // namespace

Result<std::unique_ptr<AdminServer>> AdminServer::bind(AdminOptions options,
                                                       const Registry& registry) {
  auto server = std::make_unique<Server>(std::move(options), registry);
  SHOAL_RETURN_IF_ERROR(server->bind_port());
  return server;
}

Result<std::unique_ptr<AdminServer>> AdminServer::start(AdminOptions options, NodeControl& node,
                                                        const Registry& registry) {
  SHOAL_ASSIGN_OR_RETURN(auto server, bind(std::move(options), registry));
  SHOAL_RETURN_IF_ERROR(server->serve(node));
  return server;
}

Result<NodeReport> node_status(const AdminClient& client) {
  SHOAL_ASSIGN_OR_RETURN(std::string text, client.get("/status.json"));
  return parse_status_json(text);
}

}  // namespace shoal
