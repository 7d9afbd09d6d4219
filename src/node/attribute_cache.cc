#include "node/attribute_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/object_name.h"
#include "replication/record_order.h"

namespace shoal {

namespace {

constexpr uint64_t kEntryBytes = 200;  // of the containers, about
constexpr std::string_view kMarkerTag = "shoal-after:";
constexpr auto kOriginLimit = std::chrono::seconds(60);
// After the map has changed: until new owners have the records of their slots.
constexpr auto kRecordsMove = std::chrono::seconds(10);
constexpr auto kAskLimit = std::chrono::seconds(2);

uint64_t bytes_of(const ObjectInfo& info) {
  uint64_t bytes = kEntryBytes + info.name.size() + info.etag.size();
  for (const auto& [name, value] : info.metadata) bytes += kEntryBytes + name.size() + value.size();
  return bytes;
}

uint64_t bytes_of(const ListPage& page) {
  uint64_t bytes = kEntryBytes;
  for (const ObjectInfo& object : page.objects) bytes += bytes_of(object);
  for (const std::string& prefix : page.prefixes) bytes += kEntryBytes + prefix.size();
  return bytes;
}

// Directories first, so that a change below one finds its pages: the marker may hold anything.
std::string page_key(const ListOptions& options) {
  return fmt::format("{}\n{}\n{}\n{}", options.prefix, options.recursive ? 1 : 0,
                     options.entries_max, options.marker);
}

ObjectInfo info_of(const LedgerRecord& record) {
  ObjectInfo info;
  info.name = record.object;
  info.size = record.size;
  info.etag = record.write.etag();
  info.modified = record.changed;
  info.metadata = record.metadata;
  return info;
}

}  // namespace

template <typename Map>
auto AttributeCache::Aging<Map>::find(const std::string& key) -> Value* {
  auto found = young.find(key);
  if (found != young.end()) return &found->second;
  found = old.find(key);
  return found == old.end() ? nullptr : &found->second;
}

template <typename Map>
void AttributeCache::Aging<Map>::put(const std::string& key, Value value, uint64_t bytes,
                                     uint64_t bytes_max) {
  old.erase(key);
  young.insert_or_assign(key, std::move(value));
  young_bytes += bytes;
  if (young_bytes < bytes_max / 2) return;
  old = std::exchange(young, {});
  young_bytes = 0;
}

AttributeCache::AttributeCache(World& world, Origin& origin, Registry& registry, uint64_t bytes_max)
    : world_(world),
      origin_(origin),
      bytes_max_(bytes_max),
      hits_(registry.counter("shoal_attribute_hits_total",
                             "Look-ups of this node's slots answered without the origin.")),
      misses_(registry.counter("shoal_attribute_misses_total",
                               "Look-ups of this node's slots that asked the origin.")),
      gate_(world.executor),
      head_flights_(world.executor, gate_),
      list_flights_(world.executor, gate_) {}

Task<Result<AttributeCache::Head>> AttributeCache::ask_head(std::string object) {
  misses_.add();
  Head answer;
  answer.asked = world_.executor.now();
  uint64_t before = forgotten_;
  Context context = Context::within(world_.executor, kOriginLimit);
  context.cancel = &stopping_;
  auto info = co_await origin_.head(object, context);
  uint64_t bytes = kEntryBytes + object.size();
  if (info) {
    bytes += bytes_of(*info);
    answer.object = std::move(*info);
  } else if (info.error().code() != Code::kNotFound) {
    co_return fail(std::move(info).error());
  }
  if (before == forgotten_) heads_.put(object, answer, bytes, bytes_max_ / 2);
  co_return answer;
}

Task<std::optional<LedgerRecord>> AttributeCache::find_waiting(std::string object,
                                                               Context context) {
  if (replication_ == nullptr) co_return std::nullopt;
  SteadyTime now = world_.executor.now();
  std::shared_ptr<const SlotMap> map = replication_->parts().view.map();
  uint64_t version = map == nullptr ? 0 : map->version;
  if (std::exchange(map_version_, version) != version) map_since_ = now;
  std::optional<LedgerRecord> newest = replication_->ledger().visible(object);
  if (newest || now - map_since_ > kRecordsMove) co_return newest;
  auto records = co_await replication_->get_records(std::move(object),
                                                    context.tightened(world_.executor, kAskLimit));
  if (!records) co_return std::nullopt;
  for (LedgerRecord& record : *records) {
    if (!record.sealed) continue;  // seen by its writer only
    if (!newest || comes_after(record, *newest)) newest = std::move(record);
  }
  // Who was away may not have heard of its end yet.
  auto standing = newest ? co_await replication_->ask_standing(newest->object, newest->write,
                                                               newest->sequence, context)
                         : Result<Replication::Standing>(Replication::Standing());
  if (standing && standing->ended) co_return std::nullopt;
  co_return newest;
}

Task<Result<AttributeCache::Head>> AttributeCache::head(std::string object, Duration age_max,
                                                        Duration negative_age_max,
                                                        Context context) {
  SteadyTime begun = world_.executor.now();
  if (auto waiting = co_await find_waiting(object, context)) {
    hits_.add();
    co_return Head{info_of(*waiting), begun};
  }
  auto serves = [&](const Head& head) {
    Duration limit = head.object ? age_max : negative_age_max;
    return head.asked >= begun || begun - head.asked <= limit;
  };
  if (const Head* known = heads_.find(object); known != nullptr && serves(*known)) {
    hits_.add();
    co_return *known;
  }
  while (true) {
    std::function<Task<Result<Head>>()> start = [this, object] { return ask_head(object); };
    auto answer = co_await head_flights_.run(object, std::move(start), context);
    // One that was under way already may be too old for us.
    if (!answer || serves(*answer)) co_return answer;
  }
}

Task<Result<AttributeCache::Page>> AttributeCache::ask_page(std::string key, ListOptions options) {
  misses_.add();
  Page answer;
  answer.asked = world_.executor.now();
  uint64_t before = forgotten_;
  Context context = Context::within(world_.executor, kOriginLimit);
  context.cancel = &stopping_;
  auto page = co_await origin_.list(std::move(options), context);
  if (!page) co_return fail(std::move(page).error());
  answer.page = std::move(*page);
  if (before == forgotten_) pages_.put(key, answer, bytes_of(answer.page), bytes_max_ / 2);
  co_return answer;
}

Task<Result<AttributeCache::Page>> AttributeCache::page_of(ListOptions options, Duration age_max,
                                                           Context context) {
  std::string key = page_key(options);
  SteadyTime begun = world_.executor.now();
  auto serves = [&](const Page& page) {
    return page.asked >= begun || begun - page.asked <= age_max;
  };
  if (const Page* known = pages_.find(key); known != nullptr && serves(*known)) {
    hits_.add();
    co_return *known;
  }
  while (true) {
    std::function<Task<Result<Page>>()> start = [this, key, options] {
      return ask_page(key, options);
    };
    auto answer = co_await list_flights_.run(key, std::move(start), context);
    if (!answer) co_return fail(std::move(answer).error());
    if (serves(*answer)) co_return answer;
  }
}

void AttributeCache::set_replication(Replication* replication) {
  replication_ = replication;
  if (replication == nullptr) return;
  replication->ledger().on_change([this](const std::string& object) { forget(object); });
}

std::string ListMarker::text() const {
  return fmt::format("{}{}:{}{}{}", kMarkerTag, after.size(), continued ? 'c' : 'n', after, origin);
}

ListMarker ListMarker::parse(const std::string& text) {
  ListMarker marker;
  marker.origin = text;
  if (!text.starts_with(kMarkerTag)) return marker;
  std::string_view rest = std::string_view(text).substr(kMarkerTag.size());
  size_t length = 0;
  auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), length);
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  bool ours = error == std::errc() && rest.size() >= 2 && rest[0] == ':' &&
              (rest[1] == 'c' || rest[1] == 'n') && length <= rest.size() - 2;
  if (!ours) return marker;
  marker.continued = rest[1] == 'c';
  marker.after = rest.substr(2, length);
  marker.origin = rest.substr(2 + length);
  return marker;
}

namespace {

void drop_until(ListPage& page, const std::string& after) {
  std::erase_if(page.objects, [&](const ObjectInfo& object) { return object.name <= after; });
  std::erase_if(page.prefixes, [&](const std::string& prefix) { return prefix <= after; });
}

std::string last_name(const ListPage& page) {
  std::string name = page.objects.empty() ? "" : page.objects.back().name;
  return page.prefixes.empty() ? name : std::max(name, page.prefixes.back());
}

// Lets names after `end` go: they come with the next page.
void cut_after(ListPage& page, const std::string& end) {
  std::erase_if(page.objects, [&](const ObjectInfo& object) { return object.name > end; });
  std::erase_if(page.prefixes, [&](const std::string& prefix) { return prefix > end; });
}

// The name that is the `count`th of the page, which has more.
std::string name_at(const ListPage& page, size_t count) {
  std::vector<std::string_view> names;
  for (const ObjectInfo& object : page.objects) names.push_back(object.name);
  names.insert(names.end(), page.prefixes.begin(), page.prefixes.end());
  auto at = names.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::ranges::nth_element(names, at);
  return std::string(*at);
}

// The origin's page and what waits, of names after the marker, as one page in order of names.
ListPage merge(ListPage page, LedgerPage waiting, const ListMarker& marker, size_t count_max) {
  if (marker.continued) drop_until(page, marker.after);
  const std::string next = std::exchange(page.next_marker, {});
  const std::string reached = std::max(last_name(page), marker.after);
  std::set<std::string> prefixes(page.prefixes.begin(), page.prefixes.end());
  const std::string waiting_reach = waiting.last();
  std::set<std::string> names;
  std::vector<ObjectInfo> added;
  for (const LedgerRecord& record : waiting.records) {
    if (!next.empty() && record.object > reached) continue;
    names.insert(record.object);
    added.push_back(info_of(record));
  }
  for (std::string& name : waiting.names) {
    if (!next.empty() && name > reached) continue;
    names.insert(name);
    added.emplace_back().name = std::move(name);
  }
  for (std::string& prefix : waiting.prefixes) {
    if (next.empty() || prefix <= reached) prefixes.insert(std::move(prefix));
  }
  std::erase_if(page.objects,
                [&](const ObjectInfo& object) { return names.contains(object.name); });
  page.objects.insert(page.objects.end(), std::make_move_iterator(added.begin()),
                      std::make_move_iterator(added.end()));
  std::ranges::sort(page.objects, {}, &ObjectInfo::name);
  page.prefixes.assign(prefixes.begin(), prefixes.end());
  std::optional<std::string> end;
  if (waiting.more && (next.empty() || waiting_reach < reached)) end = waiting_reach;
  if (end) cut_after(page, *end);
  if (page.objects.size() + page.prefixes.size() > count_max) {
    end = name_at(page, count_max);
    cut_after(page, *end);
  }
  if (end) {
    page.next_marker = ListMarker{*end, marker.origin, true}.text();
  } else if (!next.empty()) {
    page.next_marker = ListMarker{reached, next, false}.text();
  }
  return page;
}

}  // namespace

Task<Result<ListPage>> list_at_origin(Origin& origin, ListOptions options, Context context) {
  if (options.waiting_only) co_return ListPage{};  // the origin knows of none
  ListMarker marker = ListMarker::parse(options.marker);
  options.marker = std::move(marker.origin);
  SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await origin.list(std::move(options), context));
  if (marker.continued) drop_until(page, marker.after);
  co_return page;
}

Task<Result<ListPage>> AttributeCache::list(ListOptions options, Duration age_max,
                                            Context context) {
  options.on_next_marker = {};
  ListMarker marker = ListMarker::parse(options.marker);
  options.marker = marker.origin;
  bool waiting_only = std::exchange(options.waiting_only, false);
  auto what = std::exchange(options.waiting_names, false) ? LedgerPage::What::kNames
                                                          : LedgerPage::What::kRecords;
  size_t count_max = options.entries_max;
  LedgerPage waiting;
  if (replication_ != nullptr) {
    // Asked first: what leaves the records meanwhile is in the origin before that, and what is
    // remembered of its listing is forgotten.
    SHOAL_CO_ASSIGN_OR_RETURN(
        waiting, co_await replication_->keepers().list(
                     {options.prefix, options.recursive, marker.after, count_max, what}, context));
  }
  if (waiting_only) co_return merge({}, std::move(waiting), marker, count_max);
  SHOAL_CO_ASSIGN_OR_RETURN(Page page, co_await page_of(options, age_max, context));
  Duration age = world_.executor.now() - page.asked;
  ListPage merged = merge(std::move(page.page), std::move(waiting), marker, count_max);
  merged.age = age;
  co_return merged;
}

void AttributeCache::forget(const std::string& object) {
  ++forgotten_;
  heads_.erase(object);
  // Changes are few beside look-ups: all pages of the directory go. Where many absent names are
  // asked for, there are pages of what would lie below each, so not all are looked at.
  std::string directory = std::string(parent_of(object));
  std::string listed = (directory.empty() ? "" : directory + "/") + "\n";
  for (auto* pages : {&pages_.young, &pages_.old}) {
    auto first = pages->lower_bound(listed);
    auto last = first;
    while (last != pages->end() && last->first.starts_with(listed)) ++last;
    pages->erase(first, last);
  }
}

Task<void> AttributeCache::close() {
  stopping_.request();
  return gate_.close();
}

}  // namespace shoal
