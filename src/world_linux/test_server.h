// A tiny HTTP server of threads and blocking sockets, for this room's tests: it does exactly what
// the test's handler says, also what no good server would.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <charconv>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/assert.h"

namespace shoal {

class TestServer {
 public:
  struct Request {
    std::string method;
    std::string target;
    std::map<std::string, std::string> headers;  // names in lower case
    std::string head;                            // as it came
    std::string body;
    int number_on_connection = 0;  // from 1
  };
  class Connection {
   public:
    explicit Connection(int descriptor) : descriptor_(descriptor) {}
    virtual ~Connection() { close(descriptor_); }
    virtual void send(std::string_view bytes) {
      while (!bytes.empty()) {
        ssize_t sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent <= 0) return;  // the client has gone
        bytes.remove_prefix(static_cast<size_t>(sent));
      }
    }
    virtual size_t receive(char* into, size_t size) {
      ssize_t got = ::recv(descriptor_, into, size, 0);
      return got > 0 ? static_cast<size_t>(got) : 0;
    }
    void reply(int status, std::string_view body, std::string_view headers = {}) {
      send("HTTP/1.1 " + std::to_string(status) + " Reason\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n" + std::string(headers) + "\r\n");
      send(body);
    }
    // Closing now sends a reset.
    void will_reset() {
      linger at_once{1, 0};
      setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    // Until the client closes its side, or the server is stopped.
    void wait_for_close() {
      char byte;
      while (receive(&byte, 1) > 0) {
      }
    }
    int descriptor() const { return descriptor_; }

   private:
    int descriptor_;
  };
  // Whether the connection is kept.
  using Handler = std::function<bool(Connection&, const Request&)>;
  using Wrap = std::function<std::unique_ptr<Connection>(int descriptor)>;

  explicit TestServer(Handler handler, Wrap wrap = {})
      : handler_(std::move(handler)), wrap_(std::move(wrap)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // Where the default is BBR, loopback would be slow.
    setsockopt(listener_, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    SHOAL_ASSERT(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    SHOAL_ASSERT(listen(listener_, 128) == 0);
    socklen_t size = sizeof address;
    SHOAL_ASSERT(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~TestServer() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    {
      std::lock_guard lock(mutex_);
      for (int descriptor : open_) shutdown(descriptor, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
    close(listener_);
  }

  std::string url(std::string_view target, std::string_view scheme = "http") const {
    return std::string(scheme) + "://127.0.0.1:" + std::to_string(port_) + std::string(target);
  }
  int connections() const { return connections_.load(); }
  int requests() const { return requests_.load(); }

 private:
  void accept_all() {
    while (true) {
      int descriptor = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (descriptor < 0) return;
      ++connections_;
      int on = 1;
      setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      std::lock_guard lock(mutex_);
      open_.push_back(descriptor);
      threads_.emplace_back([this, descriptor] { serve(descriptor); });
    }
  }
  void serve(int descriptor) {
    std::unique_ptr<Connection> connection =
        wrap_ ? wrap_(descriptor) : std::make_unique<Connection>(descriptor);
    std::string buffered;
    Request request;
    while (connection != nullptr && receive(*connection, buffered, request)) {
      ++requests_;
      ++request.number_on_connection;
      if (!handler_(*connection, request)) break;
    }
    std::lock_guard lock(mutex_);  // closed under it, so that the number cannot be reused before
    std::erase(open_, descriptor);
    if (connection != nullptr) connection.reset();
  }
  static bool receive(Connection& connection, std::string& buffered, Request& request) {
    char piece[64 * 1024];
    size_t end;
    while ((end = buffered.find("\r\n\r\n")) == std::string::npos) {
      size_t got = connection.receive(piece, sizeof piece);
      if (got == 0) return false;
      buffered.append(piece, got);
    }
    request.head = buffered.substr(0, end + 2);
    buffered.erase(0, end + 4);
    size_t line_end = request.head.find("\r\n");
    std::string line = request.head.substr(0, line_end);
    request.method = line.substr(0, line.find(' '));
    request.target = line.substr(line.find(' ') + 1);
    request.target.resize(request.target.rfind(' '));
    request.headers.clear();
    for (size_t at = line_end + 2; at < request.head.size();) {
      size_t next = request.head.find("\r\n", at);
      std::string header = request.head.substr(at, next - at);
      size_t colon = header.find(':');
      std::string name = header.substr(0, colon);
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      size_t value = header.find_first_not_of(' ', colon + 1);
      request.headers[name] = value == std::string::npos ? "" : header.substr(value);
      at = next + 2;
    }
    size_t length = 0;
    if (auto found = request.headers.find("content-length"); found != request.headers.end()) {
      const std::string& text = found->second;
      std::from_chars(text.data(), text.data() + text.size(), length);
    }
    while (buffered.size() < length) {
      size_t got = connection.receive(piece, sizeof piece);
      if (got == 0) return false;
      buffered.append(piece, got);
    }
    request.body = buffered.substr(0, length);
    buffered.erase(0, length);
    return true;
  }

  Handler handler_;
  Wrap wrap_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> connections_{0};
  std::atomic<int> requests_{0};
  std::mutex mutex_;
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace shoal
