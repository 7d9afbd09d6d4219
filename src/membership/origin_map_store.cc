// The map as an object of the origin.
#include <fmt/format.h>

#include "base/bytes.h"
#include "membership/internal/cluster_key.h"
#include "membership/map_store.h"

namespace shoal {
namespace {

constexpr Duration kKeyPatience = std::chrono::seconds(10);
constexpr int kReadAttempts = 8;  // each fails only when somebody replaced the map meanwhile
constexpr uint64_t kKeyFileBytesMax = 1024;

class OriginMapStore final : public MapStore {
 public:
  OriginMapStore(Origin& origin, World& world, std::string cluster)
      : origin_(origin), world_(world), cluster_(std::move(cluster)) {}

  std::string display_name() const override {
    return fmt::format("origin {}/{}", origin_.display_name(), object("map"));
  }
  Task<Result<std::optional<StoredMap>>> load(Context context) override;
  Task<Result<bool>> is_unchanged(std::string token, Context context) override;
  Task<Result<std::string>> compare_and_swap(SlotMap next, std::string token,
                                             Context context) override;
  Task<Status> watch(std::string, Context) override {
    co_return fail(Code::kNotSupported, "an origin does not tell about changes");
  }
  Task<Result<std::string>> key(Context context) override;

 private:
  struct Read {
    std::string bytes;
    std::string etag;
  };
  std::string object(std::string_view leaf) const {
    return fmt::format(".shoal/{}/{}", cluster_, leaf);
  }
  std::string where(std::string_view leaf) const {
    return fmt::format("{}/{}", origin_.display_name(), object(leaf));
  }
  // Names what the error is about and, where it is about permissions, what to do.
  Error explain(Error error, std::string_view leaf) const;
  Task<Result<std::optional<Read>>> read_whole(std::string leaf, uint64_t size_max,
                                               Context context);
  Task<Result<std::string>> put_once(std::string leaf, std::string bytes, PutOptions options,
                                     Context context);

  Origin& origin_;
  World& world_;
  std::string cluster_;
};

Error OriginMapStore::explain(Error error, std::string_view leaf) const {
  bool forbidden = error.code() == Code::kPermissionDenied || error.code() == Code::kReadOnly;
  if (!forbidden) return std::move(error).with_context(where(leaf));
  return Error(error.code(),
               fmt::format("{}: {}; allow writing below .shoal/, or keep the map elsewhere "
                           "(--map-store etcd://HOST:2379)",
                           where(leaf), error.message()));
}

// Head and read are two requests: who replaces the object in between makes the read stale.
Task<Result<std::optional<OriginMapStore::Read>>> OriginMapStore::read_whole(std::string leaf,
                                                                             uint64_t size_max,
                                                                             Context context) {
  SHOAL_CO_RETURN_IF_ERROR(check_cluster_name(cluster_));
  Error last(Code::kInternal, "not read");
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    Result<ObjectInfo> info = co_await origin_.head(object(leaf), context);
    if (!info) {
      if (info.error().code() == Code::kNotFound) co_return std::optional<Read>();
      co_return fail(std::move(info).error().with_context(where(leaf)));
    }
    if (info->size > size_max) {
      co_return fail(Code::kCorrupt,
                     fmt::format("{} has {} bytes, which no cluster wrote; delete it when no node "
                                 "runs",
                                 where(leaf), info->size));
    }
    Read read{std::string(info->size, '\0'), info->etag};
    if (read.bytes.empty()) co_return std::optional<Read>(std::move(read));
    Status status = co_await origin_.read(
        object(leaf), info->etag, 0, std::as_writable_bytes(std::span(read.bytes)), {}, context);
    if (status) co_return std::optional<Read>(std::move(read));
    last = std::move(status).error();
    if (last.code() != Code::kStale && last.code() != Code::kNotFound) break;
  }
  if (last.code() == Code::kStale) {
    co_return fail(Code::kUnavailable, fmt::format("{} changes faster than it can be read; trying "
                                                   "again later",
                                                   where(leaf)));
  }
  co_return fail(std::move(last).with_context(where(leaf)));
}

// The write id lets the origin recognise our own write when its answer was lost.
Task<Result<std::string>> OriginMapStore::put_once(std::string leaf, std::string bytes,
                                                   PutOptions options, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(check_cluster_name(cluster_));
  options.metadata["shoalwriteid"] = world_.random.id128().to_hex();
  Result<ObjectInfo> info =
      co_await origin_.put(object(leaf), as_bytes(bytes), std::move(options), context);
  if (!info) co_return fail(explain(std::move(info).error(), leaf));
  co_return std::move(info->etag);
}

Task<Result<std::optional<StoredMap>>> OriginMapStore::load(Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Read> read,
                            co_await read_whole("map", kMapBytesMax, context));
  if (!read) co_return std::optional<StoredMap>();
  Result<SlotMap> map = decode_map(read->bytes);
  if (!map) co_return fail(std::move(map).error().with_context(where("map")));
  co_return std::optional<StoredMap>(StoredMap{std::move(*map), std::move(read->etag)});
}

Task<Result<bool>> OriginMapStore::is_unchanged(std::string token, Context context) {
  Result<ObjectInfo> info = co_await origin_.head(object("map"), context);
  if (info) co_return info->etag == token;
  if (info.error().code() == Code::kNotFound) co_return false;
  co_return fail(std::move(info).error().with_context(where("map")));
}

Task<Result<std::string>> OriginMapStore::compare_and_swap(SlotMap next, std::string token,
                                                           Context context) {
  PutOptions options;
  options.condition = token.empty() ? Condition::absent() : Condition::match(std::move(token));
  Result<std::string> etag =
      co_await put_once("map", encode_map(next), std::move(options), context);
  if (!etag && etag.error().code() == Code::kAlreadyExists) {
    co_return fail(Code::kConflict, etag.error().message());
  }
  co_return std::move(etag);
}

Task<Result<std::string>> OriginMapStore::key(Context context) {
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    // Some 65 bytes: a transfer that hangs is not worth the patience that a large one deserves.
    Context once = context.tightened(world_.executor, kKeyPatience);
    Result<std::optional<Read>> read = co_await read_whole("key", kKeyFileBytesMax, once);
    if (!read && read.error().code() == Code::kDeadlineExceeded && attempt + 1 < kReadAttempts &&
        context.check(world_.executor)) {
      continue;
    }
    if (!read) co_return fail(std::move(read).error());
    if (*read) {
      Result<std::string> key = parse_cluster_key((*read)->bytes);
      if (!key) co_return fail(std::move(key).error().with_context(where("key")));
      co_return std::move(key);
    }
    std::string key = make_cluster_key(world_.random);
    PutOptions options;
    options.condition = Condition::absent();
    options.secret = true;
    Result<std::string> etag =
        co_await put_once("key", format_cluster_key(key), std::move(options), once);
    if (etag) co_return std::move(key);
    // Somebody was first: theirs counts. Or it hung: perhaps it is written all the same.
    Code code = etag.error().code();
    bool hung = code == Code::kDeadlineExceeded && context.check(world_.executor);
    if (!hung && code != Code::kAlreadyExists && code != Code::kConflict) {
      co_return fail(std::move(etag).error());
    }
  }
  co_return fail(Code::kUnavailable, fmt::format("{} appears and vanishes; do not delete it while "
                                                 "nodes start",
                                                 where("key")));
}

}  // namespace

std::unique_ptr<MapStore> make_origin_map_store(Origin& origin, World& world, std::string cluster) {
  return std::make_unique<OriginMapStore>(origin, world, std::move(cluster));
}

}  // namespace shoal
