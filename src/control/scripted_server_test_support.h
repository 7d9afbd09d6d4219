// A node's admin socket that answers what a test tells it to.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace shoal {

class ScriptedServer {
 public:
  // One connection with its request, head and body. It is closed when the script returns.
  class Asker {
   public:
    Asker(int descriptor, std::string request)
        : descriptor_(descriptor), request_(std::move(request)) {}
    const std::string& request() const { return request_; }
    // Who has heard enough may be gone.
    void say(std::string_view bytes) {
      ssize_t n = send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ASSERT_TRUE(n == static_cast<ssize_t>(bytes.size()) ||
                  (n < 0 && (errno == EPIPE || errno == ECONNRESET)));
    }
    void begin_lines() {
      say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    }
    void say_line(std::string_view line) {
      char size[32];
      snprintf(size, sizeof size, "%zx\r\n", line.size() + 1);
      say(std::string(size) + std::string(line) + "\n\r\n");
    }
    void end_lines() { say("0\r\n\r\n"); }
    // Returns when the asker has gone away.
    void wait_until_gone() {
      char byte = 0;
      EXPECT_LE(recv(descriptor_, &byte, 1, 0), 0);
    }

   private:
    int descriptor_;
    std::string request_;
  };
  using Script = std::function<void(Asker&)>;

  explicit ScriptedServer(Script script) : script_(std::move(script)) {
    char name[] = "/tmp/shoal_control_XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    path_ = directory_ + "/s.sock";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_, 64), 0);
    accepter_ = std::thread([this] { accept_all(); });
  }
  ~ScriptedServer() {
    shutdown(listener_, SHUT_RDWR);
    accepter_.join();
    for (std::thread& thread : threads_) thread.join();
    close(listener_);
    std::filesystem::remove_all(directory_);
  }
  const std::string& path() const { return path_; }

 private:
  void accept_all() {
    while (true) {
      int descriptor = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (descriptor < 0) return;
      threads_.emplace_back([this, descriptor] {
        Asker asker(descriptor, read_request(descriptor));
        script_(asker);
        close(descriptor);
      });
    }
  }

  static std::string read_request(int descriptor) {
    std::string text;
    size_t wanted = std::string::npos;
    char buffer[4096];
    while (text.size() < wanted) {
      ssize_t n = recv(descriptor, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      text.append(buffer, static_cast<size_t>(n));
      size_t end = text.find("\r\n\r\n");
      if (end == std::string::npos) continue;
      wanted = end + 4;
      size_t length = text.find("Content-Length: ");
      if (length < end) wanted += std::stoul(text.substr(length + 16));
    }
    return text;
  }

  Script script_;
  std::string directory_;
  std::string path_;
  int listener_ = -1;
  std::thread accepter_;
  std::vector<std::thread> threads_;
};

}  // namespace shoal
