#include "control/admin_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <variant>

#include "control/http_reply.h"
#include "control/protocol.h"

namespace shoal {
namespace {

using Clock = Connection::Clock;
using std::chrono::seconds;

constexpr auto kConnectLimit = seconds(5);
constexpr auto kSendLimit = seconds(30);
constexpr auto kSilenceLimit = seconds(60);  // a node at work says something every 200 ms
constexpr auto kSilenceTick = seconds(1);
constexpr auto kTimeoutGrace = seconds(2);
constexpr size_t kAnswerBytesMax = size_t{256} * 1024 * 1024;  // the status of 10,000 nodes: 10 MiB
constexpr size_t kLineBytesMax = size_t{4} * 1024 * 1024;
constexpr size_t kBufferBytes = size_t{64} * 1024;

Error no_answer(const AdminAddress& address, const Error& reason) {
  if (reason.code() != Code::kUnavailable && reason.code() != Code::kDeadlineExceeded)
    return reason;
  return Error(Code::kUnavailable,
               fmt::format("the node at {} does not answer ({}); is it running?", address.name(),
                           reason.message()));
}

Error went_away(const AdminAddress& address, const Error& reason) {
  return Error(Code::kUnavailable, fmt::format("the node at {} went away before the end ({})",
                                               address.name(), reason.message()));
}

std::string request_text(const AdminAddress& address, std::string_view method,
                         std::string_view path, std::string_view body) {
  std::string text = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", method,
                                 path, address.socket.empty() ? address.http : "localhost");
  if (method == "POST") {
    text += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
    if (address.socket.empty()) text += "Authorization: Bearer " + address.token + "\r\n";
  }
  return text.append("\r\n").append(body);
}

// One request and the answer to it, piece by piece.
class Exchange {
 public:
  Exchange(const AdminAddress& address, Clock::time_point until)
      : address_(address), until_(until) {}

  Status begin(std::string_view method, std::string_view path, std::string_view body) {
    auto connection = Connection::open(address_, std::min(until_, Clock::now() + kConnectLimit));
    if (!connection) return fail(no_answer(address_, connection.error()));
    connection_.emplace(std::move(*connection));
    Status sent = connection_->send(request_text(address_, method, path, body),
                                    std::min(until_, Clock::now() + kSendLimit));
    if (!sent) return fail(no_answer(address_, sent.error()));
    last_heard_ = Clock::now();
    return {};
  }

  // Appends what the next bytes hold of the body. False after `limit` of silence; fails with
  // kDeadlineExceeded when the time is up.
  Result<bool> next(std::string& body, Clock::duration limit) {
    auto until = std::min({until_, Clock::now() + limit, last_heard_ + kSilenceLimit});
    auto n = connection_->receive(buffer_, until);
    if (!n && n.error().code() == Code::kDeadlineExceeded) {
      if (Clock::now() >= last_heard_ + kSilenceLimit) {
        return fail(Code::kUnavailable, fmt::format("the node at {} has said nothing for {} s",
                                                    address_.name(), kSilenceLimit.count()));
      }
      if (Clock::now() < until_) return false;
      return fail(Code::kDeadlineExceeded,
                  fmt::format("not within the time limit, and the node at {} does not say why",
                              address_.name()));
    }
    if (!n) return fail(went_away(address_, n.error()));
    last_heard_ = Clock::now();
    Status fed = *n == 0 ? reply_.end() : reply_.feed({buffer_.data(), *n}, body);
    if (!fed) return fail(went_away(address_, fed.error()));
    return true;
  }

  bool complete() const { return reply_.complete(); }
  int status() const { return reply_.status(); }

 private:
  const AdminAddress& address_;
  Clock::time_point until_;
  Clock::time_point last_heard_;
  std::optional<Connection> connection_;
  HttpReply reply_;
  std::string buffer_ = std::string(kBufferBytes, '\0');
};

}  // namespace

Result<std::string> AdminClient::get(const std::string& path) const {
  Exchange exchange(address_, Clock::time_point::max());
  SHOAL_RETURN_IF_ERROR(exchange.begin("GET", path, ""));
  std::string body;
  while (!exchange.complete()) {
    SHOAL_RETURN_IF_ERROR(exchange.next(body, kSilenceLimit));
    if (body.size() > kAnswerBytesMax)
      return fail(Code::kTooLarge, "the node's answer is too long");
  }
  if (exchange.status() == 200) return body;
  auto event = decode_event(body);
  if (event && std::holds_alternative<JobEnded>(*event)) {
    Status& outcome = std::get<JobEnded>(*event).outcome;
    if (!outcome) return fail(std::move(outcome).error());
  }
  return fail(Code::kUnavailable, fmt::format("the node at {} answered {} to {}", address_.name(),
                                              exchange.status(), path));
}

Status AdminClient::run(const JobRequest& job, bool detach,
                        const std::function<bool(const JobProgress&)>& on_progress,
                        JobProgress& last) const {
  auto until = Clock::time_point::max();
  if (job.timeout) {
    until =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(*job.timeout) + kTimeoutGrace;
  }
  Exchange exchange(address_, until);
  SHOAL_RETURN_IF_ERROR(exchange.begin("POST", fmt::format("/v1/{}", job_name(job.kind)),
                                       encode_job_request(job, detach)));
  std::string pending;
  while (!exchange.complete()) {
    SHOAL_ASSIGN_OR_RETURN(bool heard, exchange.next(pending, kSilenceTick));
    if (!heard && on_progress && !on_progress(last)) return fail(Code::kCancelled, "cancelled");
    size_t begin = 0;
    size_t end = 0;
    for (; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      SHOAL_ASSIGN_OR_RETURN(JobEvent event,
                             decode_event(std::string_view(pending).substr(begin, end - begin)));
      if (auto* ended = std::get_if<JobEnded>(&event)) return std::move(ended->outcome);
      if (std::holds_alternative<JobStarted>(event)) return {};
      last = std::move(std::get<JobProgress>(event));
      if (on_progress && !on_progress(last)) return fail(Code::kCancelled, "cancelled");
    }
    pending.erase(0, begin);
    if (pending.size() > kLineBytesMax) {
      return fail(Code::kUnavailable, "the node's answer is not understood");
    }
  }
  return fail(Code::kUnavailable, fmt::format("the node at {} went away before the end (status {})",
                                              address_.name(), exchange.status()));
}

}  // namespace shoal
