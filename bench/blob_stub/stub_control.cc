// /__stub/...: what tests and benchmarks say to the stub beside the Blob protocol.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/object_name.h"
#include "blob_stub/stub_worker.h"

namespace shoal::stub {

namespace {

using nlohmann::json;

constexpr size_t kObjectsShown = 1000;
constexpr uint64_t kCountMax = 10'000'000;

BlobReply answer(int status, std::string text) {
  BlobReply reply;
  reply.status = status;
  reply.headers.emplace_back("content-type", "application/json");
  reply.headers.emplace_back("content-length", fmt::format("{}", text.size()));
  reply.body = BlobContent::copy_of(text);
  return reply;
}

BlobReply problem(int status, std::string_view message) {
  return answer(status, json{{"error", message}}.dump());
}

uint64_t number_or(const json& object, const char* name, uint64_t otherwise) {
  auto it = object.find(name);
  return it != object.end() && it->is_number_unsigned() ? it->get<uint64_t>() : otherwise;
}

// {"container": "c", "name": "x", "size": 1048576, "seed": 1} or with "count": names x00000000...
BlobReply add_blobs(Shared& shared, const std::string& body) {
  json item = json::parse(body, nullptr, false);
  if (!item.is_object() || !item.contains("name") || !item["name"].is_string() ||
      !item.contains("container") || !item["container"].is_string() || !item.contains("size") ||
      !item["size"].is_number_unsigned()) {
    return problem(400, "give container, name, size and perhaps seed, count");
  }
  std::string name = item["name"];
  uint64_t seed = number_or(item, "seed", hash_string(name).low);
  uint64_t count = number_or(item, "count", 0);
  if (name.empty() || name.size() > kObjectNameBytesMax - 8 || count > kCountMax) {
    return problem(400, "the name is not valid or count is above 10,000,000");
  }
  std::lock_guard lock(shared.mutex);
  std::string container = item["container"];
  uint64_t size = item["size"];
  if (count > 0) {
    shared.service.add_many(container, name, count, size, seed);
  } else {
    shared.service.add_synthetic(container, name, size, seed);
  }
  return answer(200, json{{"seed", seed}}.dump());
}

// {"container": "c", "name": "x", "offset": 7}: that byte changes; the metadata stays.
BlobReply spoil(Shared& shared, const std::string& body) {
  json item = json::parse(body, nullptr, false);
  bool whole = item.is_object() && item.contains("name") && item["name"].is_string() &&
               item.contains("container") && item["container"].is_string();
  if (!whole) return problem(400, "give container, name and offset");
  std::string container = item["container"];
  std::string name = item["name"];
  uint64_t offset = number_or(item, "offset", 0);
  std::lock_guard lock(shared.mutex);
  auto blob = shared.service.find(container, name);
  if (!blob || offset >= blob->content.size())
    return problem(404, "no such blob, or a shorter one");
  char byte = static_cast<char>(blob->content.span_at(offset)[0] ^ std::byte{0x5A});
  BlobContent spoiled = blob->content.slice(0, offset);
  spoiled.append(BlobContent::copy_of(std::string_view(&byte, 1)));
  spoiled.append(blob->content.slice(offset + 1, blob->content.size() - offset - 1));
  shared.service.add(container, name, std::move(spoiled), blob->metadata, blob->modified);
  return answer(200, "{}");
}

BlobReply set_faults(Shared& shared, const std::string& body) {
  std::lock_guard lock(shared.mutex);
  auto faults = blob_faults_from_json(body, shared.faults.faults());
  if (!faults) return problem(400, faults.error().message());
  shared.faults.set(std::move(*faults));
  return answer(200, blob_faults_to_json(shared.faults.faults()));
}

}  // namespace

std::string stats_json(Shared& shared) {
  std::lock_guard lock(shared.mutex);
  const BlobServiceStats& stats = shared.service.stats();
  json document = {
      {"bytes_in", stats.bytes_in},
      {"bytes_out", stats.bytes_out},
      {"blocks_repeated", stats.blocks_repeated},
      {"busy_served", shared.faults.injected(BlobFault::kBusy)},
      {"refused", stats.refused},
      {"uncommitted_blocks", shared.service.uncommitted_blocks()},
      {"connections_accepted", shared.accepted.load(std::memory_order_relaxed)},
      {"connections_open", shared.open.load(std::memory_order_relaxed)},
      {"requests", json::object()},
      {"failures", json::object()},
      {"faults", json::object()},
      {"gets", json::object()},
  };
  for (size_t i = 0; i < kBlobOperations; ++i) {
    std::string name(blob_operation_name(static_cast<BlobOperation>(i)));
    document["requests"][name] = stats.requests[i];
    document["failures"][name] = stats.failures[i];
  }
  for (size_t i = 1; i < kBlobFaults; ++i) {
    auto fault = static_cast<BlobFault>(i);
    document["faults"][std::string(blob_fault_name(fault))] = shared.faults.injected(fault);
  }
  for (const auto& [name, count] : shared.service.most_read(kObjectsShown)) {
    document["gets"][name] = count;
  }
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

BlobReply handle_control(Shared& shared, const BlobRequest& request) {
  std::string_view path = request.target;
  bool post = request.method == "POST";
  if (path == "/__stub/stats" && !post) return answer(200, stats_json(shared));
  if (path == "/__stub/stats/reset" && post) {
    std::lock_guard lock(shared.mutex);
    shared.service.reset_stats();
    return answer(200, "{}");
  }
  if (path == "/__stub/faults" && !post) {
    std::lock_guard lock(shared.mutex);
    return answer(200, blob_faults_to_json(shared.faults.faults()));
  }
  if (request.body.size() > kMiB) return problem(413, "at most 1 MiB");
  if (path == "/__stub/faults") return set_faults(shared, request.body.to_string());
  if (path == "/__stub/blobs" && post) return add_blobs(shared, request.body.to_string());
  if (path == "/__stub/spoil" && post) return spoil(shared, request.body.to_string());
  return problem(
      404, "known are GET stats, GET and POST faults, POST stats/reset, POST blobs, POST spoil");
}

}  // namespace shoal::stub
