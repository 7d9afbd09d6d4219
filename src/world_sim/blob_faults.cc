#include "world_sim/blob_faults.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/bytes.h"

namespace shoal {

namespace {

using nlohmann::json;

constexpr std::array<std::string_view, kBlobFaults> kNames = {
    "none",          "busy",       "server_error",  "reset_before",    "lost_reply",
    "reset_in_body", "short_body", "stall_in_body", "slow_first_byte", "change_etag",
    "expired_token"};
constexpr Duration kRequestBurst = std::chrono::milliseconds(100);

double milliseconds_of(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

struct Reader {
  const json& object;
  std::string problem;

  void number(const char* name, double most, const std::function<void(double)>& set) {
    auto found = object.find(name);
    if (found == object.end()) return;
    if (!found->is_number() || found->get<double>() < 0 || found->get<double>() > most) {
      problem = fmt::format("{} must be a number from 0 to {}", name, most);
      return;
    }
    set(found->get<double>());
  }
  void time(const char* name, Duration& target) {
    number(name, 1e9, [&](double value) {
      target =
          std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::milli>(value));
    });
  }
  void rate(const char* name, uint64_t& target) {
    number(name, 1e7, [&](double value) {
      target = static_cast<uint64_t>(value * static_cast<double>(kMiB));
    });
  }
};

Result<ScriptedFault> scripted_from(const json& item) {
  if (!item.is_object() || !item.contains("fault") || !item["fault"].is_string()) {
    return fail(Code::kInvalidArgument, "an item of script lacks its fault");
  }
  ScriptedFault scripted;
  SHOAL_ASSIGN_OR_RETURN(scripted.fault, parse_blob_fault(item["fault"].get<std::string>()));
  if (auto it = item.find("method"); it != item.end() && it->is_string()) scripted.method = *it;
  if (auto it = item.find("target"); it != item.end() && it->is_string()) {
    scripted.target_part = *it;
  }
  for (auto [name, field] : {std::pair("skip", &scripted.skip), {"count", &scripted.count}}) {
    auto it = item.find(name);
    if (it == item.end()) continue;
    if (!it->is_number_unsigned()) {
      return fail(Code::kInvalidArgument, fmt::format("{} must be a whole number", name));
    }
    *field = *it;
  }
  return scripted;
}

}  // namespace

std::string_view blob_fault_name(BlobFault fault) { return kNames[static_cast<size_t>(fault)]; }

Result<BlobFault> parse_blob_fault(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<BlobFault>(i);
  }
  return fail(Code::kInvalidArgument,
              fmt::format("there is no fault '{}'; known are {}", name, fmt::join(kNames, ", ")));
}

Result<BlobFaults> blob_faults_from_json(std::string_view text, BlobFaults base) {
  json document = json::parse(text, nullptr, false);
  if (!document.is_object()) {
    return fail(Code::kInvalidArgument, "faults: the body must be one JSON object");
  }
  Reader reader{document, {}};
  reader.time("latency_ms", base.latency);
  reader.time("latency_jitter_ms", base.latency_jitter);
  reader.time("retry_after_ms", base.retry_after);
  reader.time("slow_first_byte_ms", base.slow_first_byte);
  reader.rate("connection_mibps", base.connection_bytes_per_second);
  reader.rate("account_in_mibps", base.account_in_bytes_per_second);
  reader.rate("account_out_mibps", base.account_out_bytes_per_second);
  reader.rate("client_in_mibps", base.client_in_bytes_per_second);
  reader.rate("client_out_mibps", base.client_out_bytes_per_second);
  reader.number("requests_per_second", 1e9,
                [&](double value) { base.requests_per_second = static_cast<uint64_t>(value); });
  if (auto it = document.find("outage"); it != document.end()) {
    if (!it->is_boolean())
      reader.problem = "outage must be true or false";
    else
      base.outage = *it;
  }
  if (auto it = document.find("chance"); it != document.end() && it->is_object()) {
    Reader chances{*it, {}};
    for (const auto& [name, value] : it->items()) {
      SHOAL_ASSIGN_OR_RETURN(BlobFault fault, parse_blob_fault(name));
      chances.number(name.c_str(), 1.0, [&](double given) { base.set(fault, given); });
    }
    if (reader.problem.empty()) reader.problem = chances.problem;
  }
  if (auto it = document.find("script"); it != document.end() && it->is_array()) {
    base.script.clear();
    for (const json& item : *it) {
      SHOAL_ASSIGN_OR_RETURN(ScriptedFault scripted, scripted_from(item));
      base.script.push_back(std::move(scripted));
    }
  }
  if (!reader.problem.empty()) return fail(Code::kInvalidArgument, "faults: " + reader.problem);
  return base;
}

std::string blob_faults_to_json(const BlobFaults& faults) {
  auto mibps = [](uint64_t rate) { return static_cast<double>(rate) / static_cast<double>(kMiB); };
  json document = {
      {"latency_ms", milliseconds_of(faults.latency)},
      {"latency_jitter_ms", milliseconds_of(faults.latency_jitter)},
      {"connection_mibps", mibps(faults.connection_bytes_per_second)},
      {"account_in_mibps", mibps(faults.account_in_bytes_per_second)},
      {"account_out_mibps", mibps(faults.account_out_bytes_per_second)},
      {"client_in_mibps", mibps(faults.client_in_bytes_per_second)},
      {"client_out_mibps", mibps(faults.client_out_bytes_per_second)},
      {"requests_per_second", faults.requests_per_second},
      {"outage", faults.outage},
      {"retry_after_ms", milliseconds_of(faults.retry_after)},
      {"slow_first_byte_ms", milliseconds_of(faults.slow_first_byte)},
      {"chance", json::object()},
      {"script", json::array()},
  };
  for (size_t i = 0; i < kBlobFaults; ++i) {
    if (faults.chance[i] > 0) document["chance"][std::string(kNames[i])] = faults.chance[i];
  }
  for (const ScriptedFault& item : faults.script) {
    document["script"].push_back({{"fault", blob_fault_name(item.fault)},
                                  {"method", item.method},
                                  {"target", item.target_part},
                                  {"skip", item.skip},
                                  {"count", item.count}});
  }
  return document.dump();
}

SteadyTime Pacer::reserve(SteadyTime now, uint64_t bytes) {
  if (rate_ == 0) return now;
  free_at_ = std::max(free_at_, now - burst_);
  double seconds = static_cast<double>(bytes) / static_cast<double>(rate_);
  free_at_ += Duration(static_cast<int64_t>(seconds * 1e9));
  return std::max(free_at_, now);
}

BlobFaultModel::BlobFaultModel(BlobFaults faults, uint64_t seed) : random_(seed) {
  set(std::move(faults));
}

void BlobFaultModel::set(BlobFaults faults) {
  faults_ = std::move(faults);
  in_.account.set_rate(faults_.account_in_bytes_per_second);
  out_.account.set_rate(faults_.account_out_bytes_per_second);
  for (double chance : faults_.chance) SHOAL_ASSERT(chance >= 0 && chance <= 1);
}

uint64_t BlobFaultModel::client_rate(bool in) const {
  return in ? faults_.client_in_bytes_per_second : faults_.client_out_bytes_per_second;
}

bool BlobFaultModel::paces(bool in) const {
  return client_rate(in) > 0 || (in ? in_ : out_).account.rate() > 0;
}

SteadyTime BlobFaultModel::reserve(bool in, uint64_t client, SteadyTime now, uint64_t bytes) {
  Direction& direction = in ? in_ : out_;
  SteadyTime due = direction.account.reserve(now, bytes);
  if (client_rate(in) == 0) return due;
  Pacer& pacer = direction.clients[client];
  pacer.set_rate(client_rate(in));
  return std::max(due, pacer.reserve(now, bytes));
}

bool BlobFaultModel::over_limit(SteadyTime now) {
  if (faults_.requests_per_second == 0) return false;
  Duration interval =
      Duration(std::chrono::seconds(1)) / static_cast<int64_t>(faults_.requests_per_second);
  request_slot_ = std::max(request_slot_, now - kRequestBurst);
  if (request_slot_ + interval > now) return true;
  request_slot_ += interval;
  return false;
}

BlobFate BlobFaultModel::decide(std::string_view method, std::string_view target, SteadyTime now) {
  BlobFate fate;
  fate.first_byte = faults_.latency;
  if (faults_.latency_jitter > Duration(0)) {
    fate.first_byte += Duration(
        static_cast<int64_t>(random_.below(static_cast<uint64_t>(faults_.latency_jitter.count()))));
  }
  if (faults_.outage) {
    fate.fault = BlobFault::kResetBefore;
  } else if (over_limit(now)) {
    fate.fault = BlobFault::kBusy;
  }
  for (ScriptedFault& item : faults_.script) {
    bool matches = (item.method.empty() || item.method == method) &&
                   target.find(item.target_part) != std::string_view::npos;
    if (!matches || item.count == 0 || fate.fault != BlobFault::kNone) continue;
    if (item.skip > 0) {
      --item.skip;
      continue;
    }
    --item.count;
    fate.fault = item.fault;
  }
  for (size_t i = 1; i < kBlobFaults && fate.fault == BlobFault::kNone; ++i) {
    if (random_.chance(faults_.chance[i])) fate.fault = static_cast<BlobFault>(i);
  }
  switch (fate.fault) {
    case BlobFault::kResetInBody:
    case BlobFault::kShortBody:
    case BlobFault::kStallInBody:
      fate.cut = random_.unit();
      break;
    case BlobFault::kSlowFirstByte:
      fate.first_byte += faults_.slow_first_byte;
      break;
    default:
      break;
  }
  ++injected_[static_cast<size_t>(fate.fault)];
  return fate;
}

}  // namespace shoal
