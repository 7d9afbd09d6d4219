// The map in etcd v3, through its JSON gateway: every request is a POST of JSON, bytes are base64,
// 64-bit numbers are strings. https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/
#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "async/http_io.h"
#include "async/sync.h"
#include "base/bytes.h"
#include "base/object_name.h"
#include "membership/internal/cluster_key.h"
#include "membership/map_store.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr Duration kAttemptLimit = std::chrono::seconds(3);  // of one endpoint, before the next
// A watch is renewed after this, so that a connection that died silently is noticed.
constexpr Duration kWatchLimit = std::chrono::seconds(60);
constexpr size_t kAnswerBytesMax = 2 * kMapBytesMax;  // base64 and JSON around it

// The value of the entry with this name as a number; etcd leaves zeros out.
uint64_t number_of(const Json& object, const char* name) {
  auto found = object.find(name);
  if (found == object.end()) return 0;
  if (found->is_number_unsigned()) return found->get<uint64_t>();
  if (!found->is_string()) return 0;
  const std::string& text = found->get_ref<const std::string&>();
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : 0;
}

std::string text_of(const Json& object, const char* name) {
  auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// Whether the stream of a watch tells of anything but its own beginning: an event, or its end.
bool tells_change(std::string_view stream) {
  for (std::string_view sign : {"\"events\"", "\"canceled\"", "\"error\""}) {
    if (stream.find(sign) != std::string_view::npos) return true;
  }
  return false;
}

class EtcdMapStore final : public MapStore {
 public:
  EtcdMapStore(std::vector<std::string> endpoints, World& world, const Log& log,
               std::string cluster)
      : endpoints_(std::move(endpoints)), world_(world), log_(log), cluster_(std::move(cluster)) {}

  std::string display_name() const override {
    return fmt::format("etcd {} shoal/{}/map", fmt::join(endpoints_, ","), cluster_);
  }
  Task<Result<std::optional<StoredMap>>> load(Context context) override;
  Task<Result<std::string>> compare_and_swap(SlotMap next, std::string token,
                                             Context context) override;
  Task<Status> watch(std::string token, Context context) override;
  Task<Result<std::string>> key(Context context) override;

 private:
  struct Value {
    std::string bytes;
    uint64_t revision = 0;  // 0: there is none
  };
  std::string path_of(std::string_view leaf) const {
    return fmt::format("shoal/{}/{}", cluster_, leaf);
  }
  std::string where(std::string_view leaf) const {
    return fmt::format("etcd key {}", path_of(leaf));
  }
  Task<Result<std::string>> post_to(size_t endpoint, std::string path, std::string body,
                                    Context context);
  Task<Result<Json>> post(std::string path, std::string body, Context context);
  Task<Result<Value>> get(std::string leaf, Context context);
  Task<Result<uint64_t>> put_if(std::string leaf, std::string bytes, uint64_t revision,
                                Context context);

  std::vector<std::string> endpoints_;
  World& world_;
  const Log& log_;
  std::string cluster_;
  size_t current_ = 0;  // the endpoint that answered last
};

// What an answer that is not 200 means. Only kUnavailable makes the caller ask the next endpoint.
Error refusal(const std::string& endpoint, const HttpResponse& response) {
  Json json = Json::parse(response.body, nullptr, false);
  std::string reason = json.is_object() ? text_of(json, "error") : "";
  if (reason.empty() && json.is_object()) reason = text_of(json, "message");
  if (reason.empty()) reason = fmt::format("HTTP status {}", response.status);
  if (response.status == 401 || response.status == 403) {
    return Error(Code::kPermissionDenied,
                 fmt::format("{}: {}; an etcd with authentication is not supported, give shoal one "
                             "of its own",
                             endpoint, reason));
  }
  bool passing = response.status >= 500 || response.status == 429 || response.status == 408;
  return Error(passing ? Code::kUnavailable : Code::kInvalidArgument,
               fmt::format("{}: {}", endpoint, reason));
}

Task<Result<std::string>> EtcdMapStore::post_to(size_t endpoint, std::string path, std::string body,
                                                Context context) {
  SHOAL_ASSERT(endpoint < endpoints_.size());
  HttpExchange exchange(world_.http, context);
  exchange.request.method = "POST";
  exchange.request.url = endpoints_[endpoint] + path;
  exchange.request.headers = {{"Content-Type", "application/json"}};
  exchange.request.body = as_bytes(body);
  exchange.body_bytes_max = kAnswerBytesMax;
  Result<HttpResponse> response = co_await exchange;
  if (!response) co_return fail(std::move(response).error());
  if (response->status != 200) co_return fail(refusal(endpoints_[endpoint], *response));
  co_return std::move(response->body);
}

// Asks the endpoints in turn, beginning with the one that answered last.
Task<Result<Json>> EtcdMapStore::post(std::string path, std::string body, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(check_cluster_name(cluster_));
  std::string reasons;
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    size_t endpoint = (current_ + i) % endpoints_.size();
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
    Result<std::string> answer =
        co_await post_to(endpoint, path, body, context.tightened(world_.executor, kAttemptLimit));
    if (answer) {
      Json json = Json::parse(*answer, nullptr, false);
      if (json.is_object()) {
        if (endpoint != current_) log_.info("etcd: using {} now", endpoints_[endpoint]);
        current_ = endpoint;
        co_return std::move(json);
      }
      answer = fail(Code::kUnavailable, "the answer is no JSON; is this etcd?");
    }
    Code code = answer.error().code();
    if (code == Code::kCancelled) co_return fail(std::move(answer).error());
    bool next = code == Code::kUnavailable || code == Code::kDeadlineExceeded;
    if (!next) co_return fail(std::move(answer).error());
    if (!reasons.empty()) reasons += "; ";
    reasons += fmt::format("{}: {}", endpoints_[endpoint], answer.error().message());
  }
  co_return fail(
      Code::kUnavailable,
      fmt::format("etcd cannot be reached ({}); start it, or check --map-store", reasons));
}

Task<Result<EtcdMapStore::Value>> EtcdMapStore::get(std::string leaf, Context context) {
  Json request = {{"key", base64_encode(path_of(leaf))}};
  SHOAL_CO_ASSIGN_OR_RETURN(Json answer, co_await post("/v3/kv/range", request.dump(), context));
  auto list = answer.find("kvs");
  if (list == answer.end() || !list->is_array() || list->empty()) co_return Value{};
  const Json& entry = list->front();
  Value value;
  value.revision = entry.is_object() ? number_of(entry, "mod_revision") : 0;
  Result<std::string> bytes = base64_decode(entry.is_object() ? text_of(entry, "value") : "");
  if (value.revision == 0 || !bytes) {
    co_return fail(Code::kUnavailable,
                   fmt::format("{}: an answer that etcd does not give; is {} etcd?", where(leaf),
                               endpoints_[current_]));
  }
  value.bytes = std::move(*bytes);
  co_return std::move(value);
}

// The new revision; 0 when the key's revision was not `revision` (0: it must not exist).
Task<Result<uint64_t>> EtcdMapStore::put_if(std::string leaf, std::string bytes, uint64_t revision,
                                            Context context) {
  std::string name = base64_encode(path_of(leaf));
  Json compare = {{"key", name}, {"result", "EQUAL"}};
  if (revision == 0) {
    compare["target"] = "CREATE";
    compare["createRevision"] = "0";
  } else {
    compare["target"] = "MOD";
    compare["modRevision"] = std::to_string(revision);
  }
  Json put = {{"requestPut", {{"key", name}, {"value", base64_encode(bytes)}}}};
  Json request = {{"compare", Json::array({std::move(compare)})},
                  {"success", Json::array({std::move(put)})}};
  Result<Json> answer = co_await post("/v3/kv/txn", request.dump(), context);
  if (answer && answer->value("succeeded", false)) {
    auto header = answer->find("header");
    uint64_t now =
        header != answer->end() && header->is_object() ? number_of(*header, "revision") : 0;
    if (now > 0) co_return now;
  }
  if (answer || answer.error().code() == Code::kUnavailable) {
    // Perhaps our own write arrived and its answer was lost, or a second endpoint got it again.
    Result<Value> value = co_await get(leaf, context);
    if (value && value->revision != 0 && value->bytes == bytes) co_return value->revision;
  }
  if (!answer) co_return fail(std::move(answer).error());
  co_return uint64_t{0};
}

Task<Result<std::optional<StoredMap>>> EtcdMapStore::load(Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Value value, co_await get("map", context));
  if (value.revision == 0) co_return std::optional<StoredMap>();
  Result<SlotMap> map = decode_map(value.bytes);
  if (!map) co_return fail(std::move(map).error().with_context(where("map")));
  co_return std::optional<StoredMap>(StoredMap{std::move(*map), std::to_string(value.revision)});
}

Task<Result<std::string>> EtcdMapStore::compare_and_swap(SlotMap next, std::string token,
                                                         Context context) {
  uint64_t revision = 0;
  if (!token.empty()) {
    auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), revision);
    SHOAL_ASSERT(error == std::errc() && revision > 0, "a token that this store did not give");
  }
  Result<uint64_t> now = co_await put_if("map", encode_map(next), revision, context);
  if (!now) co_return fail(std::move(now).error().with_context(where("map")));
  if (*now == 0) {
    co_return fail(Code::kConflict, fmt::format("{}: somebody else changed it", where("map")));
  }
  co_return std::to_string(*now);
}

Task<Result<std::string>> EtcdMapStore::key(Context context) {
  for (int attempt = 0; attempt < 8; ++attempt) {
    SHOAL_CO_ASSIGN_OR_RETURN(Value value, co_await get("key", context));
    if (value.revision != 0) {
      Result<std::string> key = parse_cluster_key(value.bytes);
      if (!key) co_return fail(std::move(key).error().with_context(where("key")));
      co_return std::move(key);
    }
    std::string key = make_cluster_key(world_.random);
    SHOAL_CO_ASSIGN_OR_RETURN(uint64_t revision,
                              co_await put_if("key", format_cluster_key(key), 0, context));
    if (revision != 0) co_return std::move(key);
  }
  co_return fail(Code::kUnavailable, fmt::format("{} appears and vanishes", where("key")));
}

// The answer of a watch never ends; it is read while it comes, and given up at the first event.
Task<Status> EtcdMapStore::watch(std::string token, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(check_cluster_name(cluster_));
  uint64_t revision = 0;
  std::from_chars(token.data(), token.data() + token.size(), revision);
  Json create = {{"key", base64_encode(path_of("map"))}};
  if (revision > 0) create["start_revision"] = std::to_string(revision + 1);
  std::string body = Json{{"create_request", std::move(create)}}.dump();

  // An event carries the whole map. Not touched, so not in memory, until one comes.
  Buffer stream(kAnswerBytesMax);
  bool told = false;
  Context limited = context.tightened(world_.executor, kWatchLimit);
  HttpExchange exchange(world_.http, limited);
  exchange.request.method = "POST";
  exchange.request.url = endpoints_[current_] + "/v3/watch";
  exchange.request.headers = {{"Content-Type", "application/json"}};
  exchange.request.body = as_bytes(body);
  exchange.into = stream.span();
  exchange.stall_timeout = 2 * kWatchLimit;
  exchange.progress_step = 1;
  exchange.on_progress = [this, &stream, &told, &exchange](uint64_t bytes) {
    if (told) return;
    told = tells_change(as_text(std::as_const(stream).part(0, bytes)));
    if (told) world_.http.cancel(exchange);
  };
  Result<HttpResponse> response = co_await exchange;
  if (told) co_return Status();
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  if (response) {
    if (response->status == 200) co_return Status();  // it ended by itself: look again
    co_return fail(refusal(endpoints_[current_], *response));
  }
  // The caller's deadline may be told a moment before it.
  bool renewed = limited.deadline < context.deadline;
  if (response.error().code() == Code::kDeadlineExceeded) {
    co_return renewed ? Status() : Status(fail(std::move(response).error()));
  }
  // The next watch asks another endpoint.
  current_ = (current_ + 1) % endpoints_.size();
  co_return fail(std::move(response).error());
}

}  // namespace

Result<std::unique_ptr<MapStore>> make_etcd_map_store(std::string endpoints, World& world,
                                                      const Log& log, std::string cluster) {
  SHOAL_RETURN_IF_ERROR(check_cluster_name(cluster));
  std::vector<std::string> list;
  std::string_view rest = endpoints;
  while (!rest.empty()) {
    size_t comma = std::min(rest.find(','), rest.size());
    std::string one(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    if (one.starts_with("etcd://")) one = "http://" + one.substr(7);
    if (one.find("://") == std::string::npos) one = "http://" + one;
    while (one.ends_with('/')) one.pop_back();
    size_t host = one.find("://") + 3;
    bool good = (one.starts_with("http://") || one.starts_with("https://")) && host < one.size() &&
                one.find_first_of("/?#@ \t", host) == std::string::npos;
    if (!good) {
      return fail(
          Code::kInvalidArgument,
          fmt::format("'{}' is no address of etcd: etcd://HOST:2379, several by comma", endpoints));
    }
    list.push_back(std::move(one));
  }
  if (list.empty()) {
    return fail(Code::kInvalidArgument, "etcd needs an address: etcd://HOST:2379");
  }
  return std::make_unique<EtcdMapStore>(std::move(list), world, log, std::move(cluster));
}

}  // namespace shoal
