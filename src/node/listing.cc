#include "node/listing.h"

#include <algorithm>
#include <optional>

#include "base/hash.h"
#include "base/object_name.h"

namespace shoal {

namespace {

constexpr long kOwnReferences = 2;       // of the paging task itself
constexpr size_t kEntriesAhead = 10000;  // two pages: one being read, one on its way

void add_page(NodeCore& core, Listing& listing, std::string_view prefix, ListPage& page) {
  auto add = [&](std::string_view full, ListedEntry entry) {
    std::string_view leaf = full.substr(prefix.size());
    if (entry.is_prefix) leaf.remove_suffix(1);
    if (prefix.empty() && leaf == ".shoal") return;
    if (leaf.empty() && !entry.is_prefix && entry.size == 0) return;  // "dir/": a marker of others
    if (!is_valid_component(leaf)) {
      core.metrics.hidden_names.add();
      core.log.debug("'{}' cannot be shown as a path", full);
      return;
    }
    // A blob that is also a prefix: the blob is shown (a marker of the directory or a file).
    if (entry.is_prefix) {
      if (const ListedEntry* object = listing.find_object(leaf)) {
        if (decode_attributes(object->metadata).kind != FileKind::kDirectory) {
          core.log.warning("'{}' is both an object and a prefix; objects below it are hidden",
                           full);
        }
        return;
      }
    } else {
      listing.objects.push_back(static_cast<uint32_t>(listing.entries.size()));
    }
    entry.name = leaf;
    listing.entries.push_back(std::move(entry));
  };
  for (ObjectInfo& object : page.objects) {
    if (listing.for_lookups && object.etag.empty()) {
      std::string_view leaf = std::string_view(object.name).substr(prefix.size());
      listing.waiting.push_back(hash_string(leaf).low);
      continue;
    }
    add(object.name, {"", false, object.size, std::move(object.etag), object.modified,
                      std::move(object.metadata)});
  }
  for (const std::string& name : page.prefixes) add(name, {"", true, 0, "", {}, {}});
}

bool far_ahead(const Listing& listing) {
  if (listing.for_lookups) return false;
  return listing.entries.size() > listing.consumed + kEntriesAhead;
}

// A page on its way, and the one after it as soon as its marker is known.
struct PageAhead {
  explicit PageAhead(Executor& executor) : arrived(executor) {}
  std::optional<Result<ListPage>> page;
  std::shared_ptr<PageAhead> next;
  Signal arrived;
};

std::shared_ptr<PageAhead> ask_for_page(NodeCore& core, const std::shared_ptr<Listing>& listing,
                                        ListOptions options, Duration limit);

Task<void> fetch_page(NodeCore& core, std::shared_ptr<Listing> listing, ListOptions options,
                      Duration limit, std::shared_ptr<PageAhead> ahead) {
  options.on_next_marker = [&](std::string marker) {
    if (far_ahead(*listing)) return;
    ListOptions next = options;
    next.marker = std::move(marker);
    ahead->next = ask_for_page(core, listing, std::move(next), limit);
  };
  ahead->page = co_await core.lookups->list(options, Context::within(core.executor(), limit));
  ahead->arrived.notify_all();
}

// Null when the node is shutting down.
std::shared_ptr<PageAhead> ask_for_page(NodeCore& core, const std::shared_ptr<Listing>& listing,
                                        ListOptions options, Duration limit) {
  auto ahead = std::make_shared<PageAhead>(core.executor());
  return core.gate.spawn(fetch_page(core, listing, std::move(options), limit, ahead)) ? ahead
                                                                                      : nullptr;
}

Task<Status> take_pages(NodeCore& core, std::shared_ptr<Listing> listing, std::string directory,
                        Duration limit) {
  ListOptions options;
  options.prefix = directory.empty() ? "" : directory + "/";
  options.waiting_names = listing->for_lookups;
  std::shared_ptr<PageAhead> ahead = ask_for_page(core, listing, options, limit);
  while (ahead != nullptr) {
    while (!ahead->page) SHOAL_CO_RETURN_IF_ERROR(co_await ahead->arrived.wait({}));
    if (!*ahead->page) co_return fail(std::move(*ahead->page).error());
    ListPage page = std::move(**ahead->page);
    listing->age = std::max(listing->age, page.age);
    options.marker = std::move(page.next_marker);
    bool last = options.marker.empty();
    // The next page comes while this one is taken in.
    std::shared_ptr<PageAhead> next = std::move(ahead->next);
    if (!last && next == nullptr && !far_ahead(*listing)) {
      next = ask_for_page(core, listing, options, limit);
    }
    ahead = nullptr;
    add_page(core, *listing, options.prefix, page);
    if (last) co_return Status();
    bool too_large = listing->entries.size() > Listing::kForLookupsMax ||
                     listing->waiting.size() > Listing::kWaitingMax;
    if (listing->for_lookups && too_large) {
      listing->entries.clear();
      listing->objects.clear();
      listing->waiting = {};
      co_return fail(Code::kTooLarge, "too many names to keep");
    }
    listing->changed.notify_all();
    // Only the reader's handle keeps it going; without one nobody waits for the rest.
    while (next == nullptr && far_ahead(*listing) && listing.use_count() > kOwnReferences &&
           !core.gate.closed()) {
      Context wait = Context::within(core.executor(), std::chrono::seconds(1));
      Status status = co_await listing->changed.wait(wait);
      static_cast<void>(status);
    }
    if (next == nullptr && listing.use_count() <= kOwnReferences && !listing->for_lookups) {
      co_return fail(Code::kCancelled, "nobody reads the listing");
    }
    ahead = next ? std::move(next) : ask_for_page(core, listing, options, limit);
  }
  co_return fail(Code::kCancelled, "shutting down");
}

Task<void> fetch_pages(NodeCore& core, std::shared_ptr<Listing> listing, std::string directory,
                       Duration limit) {
  Listing& into = *listing;
  into.status = co_await take_pages(core, listing, std::move(directory), limit);
  std::ranges::sort(into.waiting);
  into.complete = true;
  into.took = core.now() - into.began;
  into.fresh_until = core.now() + core.options.attr_ttl - into.age;
  into.changed.notify_all();
}

}  // namespace

const ListedEntry* Listing::find_object(std::string_view name) const {
  auto at =
      std::lower_bound(objects.begin(), objects.end(), name,
                       [this](uint32_t i, std::string_view n) { return entries[i].name < n; });
  return at != objects.end() && entries[*at].name == name ? &entries[*at] : nullptr;
}

const ListedEntry* Listing::find(std::string_view name) const {
  SHOAL_ASSERT(complete);
  if (by_name.empty()) {
    for (const ListedEntry& entry : entries) by_name.emplace(entry.name, &entry);
  }
  auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : found->second;
}

bool Listing::may_wait(std::string_view name) const {
  SHOAL_ASSERT(complete);
  return std::ranges::binary_search(waiting, hash_string(name).low);
}

std::shared_ptr<Listing> Listing::start(NodeCore& core, std::string directory, Context context,
                                        For purpose) {
  auto listing = std::make_shared<Listing>(core.executor());
  listing->for_lookups = purpose == For::kLookups;
  listing->began = core.now();
  Duration limit =
      context.deadline == kNever ? core.options.origin_timeout : context.deadline - core.now();
  if (!core.gate.spawn(fetch_pages(core, listing, std::move(directory), limit))) {
    listing->complete = true;
    listing->status = fail(Code::kCancelled, "shutting down");
  }
  return listing;
}

}  // namespace shoal
