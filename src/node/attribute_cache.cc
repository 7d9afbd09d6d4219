#include "node/attribute_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/object_name.h"

namespace shoal {

namespace {

constexpr uint64_t kEntryBytes = 200;       // of the containers, about
constexpr size_t kUnuploadedMax = 100'000;  // names of one directory that a listing adds
constexpr auto kOriginLimit = std::chrono::seconds(60);

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

template <typename T>
T* AttributeCache::Aging<T>::find(const std::string& key) {
  auto found = young.find(key);
  if (found != young.end()) return &found->second;
  found = old.find(key);
  return found == old.end() ? nullptr : &found->second;
}

template <typename T>
void AttributeCache::Aging<T>::put(const std::string& key, T value, uint64_t bytes,
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

Task<Result<AttributeCache::Head>> AttributeCache::head(std::string object, Duration age_max,
                                                        Duration negative_age_max,
                                                        Context context) {
  SteadyTime begun = world_.executor.now();
  const LedgerRecord* waiting = ledger_ == nullptr ? nullptr : ledger_->visible(object);
  if (waiting != nullptr) {
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

Task<Result<ListPage>> AttributeCache::list(ListOptions options, Duration age_max,
                                            Context context) {
  options.on_next_marker = {};
  std::string key = page_key(options);
  SteadyTime begun = world_.executor.now();
  auto serves = [&](const Page& page) {
    return page.asked >= begun || begun - page.asked <= age_max;
  };
  auto aged = [&](Page page) {
    page.page.age = world_.executor.now() - page.asked;
    if (ledger_ != nullptr) add_unuploaded(options, page.page);
    return std::move(page.page);
  };
  if (const Page* known = pages_.find(key); known != nullptr && serves(*known)) {
    hits_.add();
    co_return aged(*known);
  }
  while (true) {
    std::function<Task<Result<Page>>()> start = [this, key, options] {
      return ask_page(key, options);
    };
    auto answer = co_await list_flights_.run(key, std::move(start), context);
    if (!answer) co_return fail(std::move(answer).error());
    if (serves(*answer)) co_return aged(std::move(*answer));
  }
}

void AttributeCache::set_ledger(Ledger* ledger) {
  ledger_ = ledger;
  if (ledger != nullptr) ledger->on_change([this](const std::string& object) { forget(object); });
}

// The first page names all of them; later ones only leave out what they replace. Pages are in the
// order of names, but where one begins only the origin knows.
void AttributeCache::add_unuploaded(const ListOptions& options, ListPage& page) const {
  std::vector<LedgerRecord> waiting = ledger_->below(options.prefix, "", kUnuploadedMax);
  if (waiting.empty()) return;
  std::set<std::string> names;
  std::set<std::string> prefixes(page.prefixes.begin(), page.prefixes.end());
  std::vector<ObjectInfo> added;
  for (const LedgerRecord& record : waiting) {
    size_t slash = record.object.find('/', options.prefix.size());
    if (!options.recursive && slash != std::string::npos) {
      if (options.marker.empty()) prefixes.insert(record.object.substr(0, slash + 1));
      continue;
    }
    names.insert(record.object);
    if (options.marker.empty()) added.push_back(info_of(record));
  }
  std::erase_if(page.objects,
                [&](const ObjectInfo& object) { return names.contains(object.name); });
  page.objects.insert(page.objects.end(), std::make_move_iterator(added.begin()),
                      std::make_move_iterator(added.end()));
  std::ranges::sort(page.objects, {}, &ObjectInfo::name);
  page.prefixes.assign(prefixes.begin(), prefixes.end());
}

void AttributeCache::forget(const std::string& object) {
  ++forgotten_;
  heads_.erase(object);
  // Few pages are kept, and changes are few beside look-ups: all of the directory's go.
  std::string directory = std::string(parent_of(object));
  std::string listed = (directory.empty() ? "" : directory + "/") + "\n";
  auto stale = [&](const auto& entry) { return entry.first.starts_with(listed); };
  std::erase_if(pages_.young, stale);
  std::erase_if(pages_.old, stale);
}

Task<void> AttributeCache::close() {
  stopping_.request();
  return gate_.close();
}

}  // namespace shoal
