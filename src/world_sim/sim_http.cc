#include "world_sim/sim_http.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace shoal {

namespace {

constexpr uint64_t kSliceBytesMin = 64 * kKiB;
constexpr uint64_t kSlicesPerBody = 16;
constexpr uint64_t kProgressBytes = 64 * kKiB;
constexpr Duration kConnectTime = std::chrono::microseconds(200);

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
  }
  return out;
}

// Bodies move in slices, so that concurrent transfers share a limit.
uint64_t slice_of(uint64_t body, uint64_t done) {
  uint64_t slice = std::max(kSliceBytesMin, body / kSlicesPerBody);
  return std::min(slice, body - done);
}

}  // namespace

struct SimHttp::Transfer {
  uint64_t number = 0;
  HttpCall* call = nullptr;  // null once the call has ended
  SimBlobAccount* account = nullptr;
  BlobRequest request;
  ConstByteSpan body;  // the caller's memory; valid while `call` is set
  BlobFate fate;
  Pacer connection;
  uint64_t sent = 0;
  bool executed = false;
  BlobReply reply;
  uint64_t reply_bytes = 0;  // that will come, fewer than the body when it is cut
  uint64_t received = 0;
  uint64_t told = 0;
  HttpResponse response;
  SteadyTime last_activity{};
  SimScheduler::EventId pending{};
};

SimHttp::SimHttp(SimInternet& internet, SimFabric& fabric, SimHostId host, SimExecutor& executor,
                 SeededRandom random)
    : internet_(internet), fabric_(fabric), host_(host), executor_(executor), random_(random) {}

SimHttp::~SimHttp() { SHOAL_ASSERT(transfers_.empty(), "HTTP calls are still in flight"); }

void SimHttp::start(HttpCall& call) {
  SHOAL_ASSERT(executor_.alive() && executor_.on_thread());
  SHOAL_ASSERT(call.transport == nullptr, "the call is in flight already");
  auto transfer = std::make_shared<Transfer>();
  transfer->number = ++started_;
  transfer->call = &call;
  transfer->last_activity = executor_.now();
  transfers_.emplace(transfer->number, transfer);
  call.transport = transfer.get();
  SteadyTime now = executor_.now();
  auto fail_at = [&](SteadyTime when, Code code, std::string message) {
    transfer->pending = executor_.scheduler().at(
        when, &executor_, [this, transfer, code, message] { end(*transfer, fail(code, message)); });
  };
  if (call.deadline <= now) return fail_at(now, Code::kDeadlineExceeded, "deadline exceeded");
  std::string_view url = call.request.url;
  size_t scheme = url.find("://");
  size_t slash = scheme == std::string_view::npos ? url.size() : url.find('/', scheme + 3);
  std::string_view host;
  if (scheme != std::string_view::npos) host = url.substr(scheme + 3, slash - scheme - 3);
  auto found = internet_.find(host);
  if (found == internet_.end() || partitioned_) {
    // Unknown or unreachable: refused soon, or never answered.
    bool refused = found == internet_.end() || random_.below(2) == 0;
    SteadyTime late = std::min(call.deadline, now + call.stall_timeout);
    bool past = !refused && late == call.deadline;
    return fail_at(refused ? now + kConnectTime : late,
                   past ? Code::kDeadlineExceeded : Code::kUnavailable,
                   fmt::format("cannot connect to {}", host));
  }
  transfer->account = found->second.get();
  transfer->request.method = call.request.method;
  transfer->request.target = slash == std::string_view::npos ? "/" : url.substr(slash);
  for (const auto& [name, value] : call.request.headers) {
    transfer->request.headers.emplace_back(lower(name), value);
  }
  transfer->request.headers.emplace_back("host", host);
  bool has_length = std::any_of(transfer->request.headers.begin(), transfer->request.headers.end(),
                                [](const auto& item) { return item.first == "content-length"; });
  if (!has_length && (!call.request.body.empty() || call.request.method == "PUT")) {
    transfer->request.headers.emplace_back("content-length",
                                           fmt::format("{}", call.request.body.size()));
  }
  transfer->body = call.request.body;
  BlobFaultModel& faults = transfer->account->faults;
  transfer->fate = faults.decide(call.request.method, transfer->request.target, now);
  transfer->connection.set_rate(faults.faults().connection_bytes_per_second);
  executor_.scheduler().note(hash_string(transfer->request.target).low);
  if (transfer->fate.fault == BlobFault::kResetBefore) {
    return fail_at(now + transfer->fate.first_byte / 2, Code::kUnavailable,
                   "connection reset by peer");
  }
  next(transfer, now + kConnectTime, &SimHttp::send_more);
}

// Goes on at `when`, unless the deadline or a stall comes first.
void SimHttp::next(TransferPtr transfer, SteadyTime when, Step step) {
  SHOAL_ASSERT(transfer->call != nullptr);
  const HttpCall& call = *transfer->call;
  SteadyTime stall = transfer->last_activity + call.stall_timeout;
  SimScheduler& scheduler = executor_.scheduler();
  if (std::min(stall, call.deadline) < when) {
    bool deadline = call.deadline <= stall;
    transfer->pending =
        scheduler.at(std::min(stall, call.deadline), &executor_, [this, transfer, deadline] {
          end(*transfer, deadline ? fail(Code::kDeadlineExceeded, "deadline exceeded")
                                  : fail(Code::kUnavailable, "the transfer stalled"));
        });
    return;
  }
  transfer->pending =
      scheduler.at(when, &executor_, [this, transfer, step] { go_on(transfer, step); });
}

void SimHttp::go_on(TransferPtr transfer, Step step) {
  transfer->last_activity = executor_.now();
  if (transfer->account->faults.faults().outage) {
    end(*transfer, fail(Code::kUnavailable, "connection reset by peer"));
  } else if (partitioned_) {
    next(transfer, kNever, step);  // until the stall time-out
  } else {
    (this->*step)(transfer);
  }
}

// The bytes are due when both the account and the machine's card have let them through. `port` is
// null where the card has no limit.
void SimHttp::pass(SimNicPort* port, TransferPtr transfer, uint64_t count, SteadyTime due,
                   Step step) {
  bool free = port == nullptr || count < fabric_.options().free_bytes;
  if (free) return next(transfer, due, step);
  next(transfer, kNever, step);  // the time-outs, while the bytes wait for their turn
  port->submit({.left = count, .begun = nullptr, .passed = [this, transfer, due, step] {
                  if (transfer->call == nullptr) return;  // it has ended, or its process
                  executor_.scheduler().cancel(transfer->pending);
                  next(transfer, std::max(due, executor_.now()), step);
                }});
}

void SimHttp::send_more(TransferPtr transfer) {
  if (transfer->sent == transfer->body.size()) return sent(transfer);
  uint64_t count = slice_of(transfer->body.size(), transfer->sent);
  transfer->sent += count;
  SteadyTime now = executor_.now();
  SteadyTime due =
      std::max(transfer->connection.reserve(now, count),
               transfer->account->faults.reserve(true, std::to_underlying(host_), now, count));
  pass(fabric_.http_out(host_), transfer, count, due, &SimHttp::send_more);
}

// The whole request has left: the service will execute it, whatever becomes of the client.
void SimHttp::sent(TransferPtr transfer) {
  transfer->request.body = BlobContent::copy_of(transfer->body);
  SteadyTime now = executor_.now();
  SteadyTime arrives = now + transfer->fate.first_byte / 2;
  executor_.scheduler().at(arrives, nullptr, [transfer, &scheduler = executor_.scheduler()] {
    SimBlobAccount& account = *transfer->account;
    WallTime wall = scheduler.wall_now();
    switch (transfer->fate.fault) {
      case BlobFault::kBusy:
      case BlobFault::kServerError:
      case BlobFault::kExpiredToken:
        transfer->reply = account.service.refuse(transfer->request, transfer->fate.fault,
                                                 account.faults.faults().retry_after, wall);
        break;
      case BlobFault::kChangeEtag:
        account.service.touch_target(transfer->request, wall);
        [[fallthrough]];
      default:
        transfer->reply = account.service.handle(transfer->request, wall);
    }
    scheduler.note(static_cast<uint64_t>(transfer->reply.status));
    transfer->executed = true;
  });
  next(transfer, now + transfer->fate.first_byte, &SimHttp::receive_more);
}

void SimHttp::receive_more(TransferPtr transfer) {
  SHOAL_ASSERT(transfer->executed, "an answer before its execution");
  BlobFault fault = transfer->fate.fault;
  uint64_t body = transfer->reply.body.size();
  if (transfer->response.status == 0) {  // the head has come
    if (fault == BlobFault::kLostReply) {
      return end(*transfer, fail(Code::kUnavailable, "connection reset by peer"));
    }
    transfer->response.status = transfer->reply.status;
    transfer->response.headers = transfer->reply.headers;
    bool cut = fault == BlobFault::kResetInBody || fault == BlobFault::kShortBody ||
               fault == BlobFault::kStallInBody;
    transfer->reply_bytes =
        cut ? static_cast<uint64_t>(transfer->fate.cut * static_cast<double>(body)) : body;
  }
  if (transfer->received == transfer->reply_bytes) return complete(transfer);
  uint64_t count = slice_of(transfer->reply_bytes, transfer->received);
  if (!take(*transfer, count)) return;
  SteadyTime now = executor_.now();
  SteadyTime due =
      std::max(transfer->connection.reserve(now, count),
               transfer->account->faults.reserve(false, std::to_underlying(host_), now, count));
  pass(fabric_.http_in(host_), transfer, count, due, &SimHttp::receive_more);
}

// Hands over the next `count` bytes of the body. False: the call ended.
bool SimHttp::take(Transfer& transfer, uint64_t count) {
  HttpCall& call = *transfer.call;
  bool success = transfer.response.status >= 200 && transfer.response.status < 300;
  if (success && !call.into.empty()) {
    if (transfer.received + count > call.into.size()) {
      end(transfer, fail(Code::kUnavailable, "the answer's body is longer than was asked for"));
      return false;
    }
    transfer.reply.body.copy_to(transfer.received, call.into.subspan(transfer.received, count));
    transfer.received += count;
    transfer.response.into_bytes = transfer.received;
    if (call.on_progress &&
        transfer.received >= transfer.told + std::min(kProgressBytes, call.progress_step)) {
      transfer.told = transfer.received;
      call.on_progress(transfer.received);
    }
    return true;
  }
  if (transfer.received + count > call.body_bytes_max) {
    end(transfer, fail(Code::kTooLarge,
                       fmt::format("the answer's body is above {} bytes", call.body_bytes_max)));
    return false;
  }
  transfer.response.body += transfer.reply.body.slice(transfer.received, count).to_string();
  transfer.received += count;
  return true;
}

void SimHttp::complete(TransferPtr transfer) {
  bool whole = transfer->reply_bytes == transfer->reply.body.size();
  switch (transfer->fate.fault) {
    case BlobFault::kResetInBody:
      return end(*transfer, fail(Code::kUnavailable, "connection reset by peer"));
    case BlobFault::kShortBody:
      if (whole) break;
      return end(*transfer, fail(Code::kUnavailable,
                                 fmt::format("the body ended after {} of {} bytes",
                                             transfer->received, transfer->reply.body.size())));
    case BlobFault::kStallInBody:
      if (whole) break;
      return next(transfer, kNever, &SimHttp::complete);
    default:
      break;
  }
  end(*transfer, std::move(transfer->response));
}

void SimHttp::end(Transfer& transfer, Result<HttpResponse> result) {
  HttpCall* call = transfer.call;
  SHOAL_ASSERT(call != nullptr && call->transport == &transfer);
  transfer.call = nullptr;
  transfer.body = {};
  call->transport = nullptr;
  call->result = std::move(result);
  executor_.scheduler().cancel(transfer.pending);
  transfers_.erase(transfer.number);  // an event that runs now still shares it
  executor_.post(*call);
}

void SimHttp::cancel(HttpCall& call) {
  auto* transfer = static_cast<Transfer*>(call.transport);
  if (transfer == nullptr) return;
  auto found = transfers_.find(transfer->number);
  SHOAL_ASSERT(found != transfers_.end() && found->second.get() == transfer);
  TransferPtr held = found->second;
  end(*held, fail(Code::kCancelled, "cancelled"));
}

std::vector<HttpCall*> SimHttp::crash() {
  SHOAL_ASSERT(!executor_.alive(), "kill the executor first");
  std::vector<HttpCall*> calls;
  for (auto& [number, transfer] : transfers_) {
    calls.push_back(transfer->call);
    transfer->call = nullptr;
    transfer->body = {};
  }
  transfers_.clear();
  return calls;
}

}  // namespace shoal
