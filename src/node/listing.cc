#include "node/listing.h"

#include "base/object_name.h"

namespace shoal {

namespace {

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
    if (listing.by_name.contains(leaf)) {
      if (entry.is_prefix &&
          decode_attributes(listing.find(leaf)->metadata).kind != FileKind::kDirectory) {
        core.log.warning("'{}' is both an object and a prefix; objects below it are hidden", full);
      }
      return;
    }
    entry.name = leaf;
    listing.entries.push_back(std::move(entry));
    listing.by_name.emplace(listing.entries.back().name, listing.entries.size() - 1);
  };
  for (ObjectInfo& object : page.objects) {
    add(object.name, {"", false, object.size, std::move(object.etag), object.modified,
                      std::move(object.metadata)});
  }
  for (const std::string& name : page.prefixes) add(name, {"", true, 0, "", {}, {}});
}

Task<void> fetch_pages(NodeCore& core, std::shared_ptr<Listing> listing, std::string directory,
                       Duration limit) {
  ListOptions options;
  options.prefix = directory.empty() ? "" : directory + "/";
  while (true) {
    auto page = co_await core.origin.list(options, Context::within(core.executor(), limit));
    if (!page) {
      listing->status = fail(std::move(page).error());
      break;
    }
    add_page(core, *listing, options.prefix, *page);
    options.marker = std::move(page->next_marker);
    if (options.marker.empty()) break;
    listing->changed.notify_all();
    // Only the reader's handle keeps it going; without one nobody waits for the rest.
    while (listing->entries.size() > listing->consumed + kEntriesAhead && listing.use_count() > 1) {
      Context wait = Context::within(core.executor(), std::chrono::seconds(1));
      Status status = co_await listing->changed.wait(wait);
      static_cast<void>(status);
    }
    if (listing.use_count() == 1 || core.gate.closed()) {
      listing->status = fail(Code::kCancelled, "nobody reads the listing");
      break;
    }
  }
  listing->complete = true;
  listing->fresh_until = core.now() + core.options.attr_ttl;
  listing->changed.notify_all();
}

}  // namespace

std::shared_ptr<Listing> Listing::start(NodeCore& core, std::string directory, Context context) {
  auto listing = std::make_shared<Listing>(core.executor());
  Duration limit =
      context.deadline == kNever ? core.options.origin_timeout : context.deadline - core.now();
  if (!core.gate.spawn(fetch_pages(core, listing, std::move(directory), limit))) {
    listing->complete = true;
    listing->status = fail(Code::kCancelled, "shutting down");
  }
  return listing;
}

}  // namespace shoal
