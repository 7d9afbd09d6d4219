#include "control/protocol.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/object_name.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr size_t kPathsMax = 10000;
constexpr uint64_t kKeepLastMax = 999'999;

std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string text_or(const Json& json, const char* key, std::string fallback) {
  auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : fallback;
}

uint64_t count_or_zero(const Json& json, const char* key) {
  auto found = json.find(key);
  return found != json.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

bool is_true(const Json& json, const char* key) {
  auto found = json.find(key);
  return found != json.end() && found->is_boolean() && found->get<bool>();
}

Code code_of_name(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(Code::kInternal); ++i) {
    if (code_name(static_cast<Code>(i)) == name) return static_cast<Code>(i);
  }
  return Code::kInternal;
}

}  // namespace

std::string encode_job_request(const JobRequest& request, bool detach) {
  // JSON carries text only, names may be other bytes.
  Json paths = Json::array();
  for (const std::string& path : request.paths) paths.push_back(percent_encode(path, true));
  Json json = {{"paths", paths},
               {"encoded", true},
               {"level", request.level},
               {"detach", detach},
               {"everywhere", request.everywhere},
               {"pointer", percent_encode(request.pointer, false)},
               {"keep_last", request.keep_last},
               {"rate", request.rate},
               {"all", request.all}};
  if (request.timeout) {
    json["timeout_ms"] =
        std::chrono::duration_cast<std::chrono::milliseconds>(*request.timeout).count();
  }
  return line_of(json);
}

Result<DecodedJob> decode_job_request(JobKind kind, std::string_view body) {
  Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return fail(Code::kInvalidArgument, "the body must be a JSON object");
  DecodedJob job;
  job.request.kind = kind;
  auto paths = json.find("paths");
  if (paths == json.end() || !paths->is_array() || paths->empty() || paths->size() > kPathsMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"paths\" must be an array of 1 to {} names", kPathsMax));
  }
  bool encoded = is_true(json, "encoded");
  for (const Json& path : *paths) {
    if (!path.is_string()) return fail(Code::kInvalidArgument, "a path must be a string");
    std::string name = path.get<std::string>();
    if (encoded) {
      SHOAL_ASSIGN_OR_RETURN(name, percent_decode(name));
    }
    while (name.ends_with('/')) name.pop_back();
    if (name.starts_with('/') || name.size() > 1024 || name.find('\0') != std::string::npos) {
      return fail(Code::kInvalidArgument, "a path must be an object's name, at most 1,024 bytes");
    }
    job.request.paths.push_back(std::move(name));
  }
  job.request.level = text_or(json, "level", "durable");
  if (job.request.level != "durable" && job.request.level != "replicated") {
    return fail(Code::kInvalidArgument, "\"level\" must be replicated or durable");
  }
  if (auto timeout = json.find("timeout_ms"); timeout != json.end()) {
    constexpr uint64_t kYearMs = uint64_t{365} * 86400 * 1000;
    if (!timeout->is_number_unsigned() || timeout->get<uint64_t>() > kYearMs) {
      return fail(Code::kInvalidArgument, "\"timeout_ms\" must be a number of milliseconds");
    }
    job.request.timeout = std::chrono::milliseconds(timeout->get<uint64_t>());
  }
  SHOAL_ASSIGN_OR_RETURN(job.request.pointer, percent_decode(text_or(json, "pointer", "latest")));
  uint64_t keep_last = count_or_zero(json, "keep_last");
  if (keep_last > kKeepLastMax) {
    return fail(Code::kInvalidArgument, "\"keep_last\" must be a number below 1,000,000");
  }
  job.request.keep_last = static_cast<uint32_t>(keep_last);
  job.request.rate = count_or_zero(json, "rate");
  job.request.all = is_true(json, "all");
  job.detach = is_true(json, "detach");
  job.request.everywhere = is_true(json, "everywhere");
  return job;
}

std::string encode_progress(const JobProgress& p) {
  Json json = {{"event", "progress"},
               {"bytes_done", p.bytes_done},
               {"bytes_total", p.bytes_total},
               {"objects_done", p.objects_done},
               {"objects_total", p.objects_total},
               {"failures", p.failures},
               {"current", p.current},
               {"last_error", p.last_error}};
  if (!p.findings.empty()) json["findings"] = p.findings;
  return line_of(json);
}

std::string encode_outcome(const Status& outcome) {
  if (outcome) return line_of({{"event", "done"}});
  return line_of({{"event", "failed"},
                  {"code", code_name(outcome.error().code())},
                  {"message", outcome.error().message()}});
}

std::string encode_started() { return line_of({{"event", "started"}}); }

Result<JobEvent> decode_event(std::string_view line) {
  Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return fail(Code::kUnavailable, "the node's answer is not understood");
  std::string event = text_or(json, "event", "");
  if (event == "progress") {
    JobProgress p;
    p.bytes_done = count_or_zero(json, "bytes_done");
    p.bytes_total = count_or_zero(json, "bytes_total");
    p.objects_done = count_or_zero(json, "objects_done");
    p.objects_total = count_or_zero(json, "objects_total");
    p.failures = count_or_zero(json, "failures");
    p.current = text_or(json, "current", "");
    p.last_error = text_or(json, "last_error", "");
    if (auto lines = json.find("findings"); lines != json.end() && lines->is_array()) {
      for (const Json& found : *lines) {
        if (found.is_string()) p.findings.push_back(found.get<std::string>());
      }
    }
    return p;
  }
  if (event == "started") return JobStarted{};
  if (event == "done") return JobEnded{Status{}};
  if (event == "failed") {
    return JobEnded{fail(code_of_name(text_or(json, "code", "")),
                         text_or(json, "message", "the node gave no reason"))};
  }
  return fail(Code::kUnavailable, "the node's answer is not understood");
}

}  // namespace shoal
