// From a name to its inode: what is known here, or else what the origin says.
#include "base/object_name.h"
#include "node/file_system_impl.h"

namespace shoal {

namespace {

constexpr size_t kAbsentNamesMax = 4096;  // per directory
// A page of a listing is one request too, and 5000 names long.
constexpr int kAskedMax = 32;
constexpr int kAskedAfterLarge = 100'000;
constexpr Duration kRevalidateLimit = std::chrono::seconds(5);

bool is_outage(const Error& error) {
  return error.code() == Code::kUnavailable || error.code() == Code::kThrottled ||
         error.code() == Code::kDeadlineExceeded;
}

}  // namespace

Task<Result<ObjectInfo>> FileSystemImpl::head_or_prefix(std::string path) {
  auto info = co_await core_.lookups->head(path, core_.background());
  if (info && is_unuploaded(info->etag) && write_back_.has_ended(info->etag)) {
    info = co_await core_.origin.head(path, core_.background());
  }
  if (info || info.error().code() != Code::kNotFound) co_return info;
  ListOptions below;
  below.prefix = path + "/";
  below.recursive = true;
  below.entries_max = 1;
  auto page = co_await core_.lookups->list(below, core_.background());
  if (!page) co_return fail(std::move(page).error());
  if (page->objects.empty() && page->prefixes.empty()) co_return info;
  ObjectInfo directory;
  directory.name = path;
  directory.metadata["hdi_isfolder"] = "true";
  co_return directory;
}

Task<Result<ObjectInfo>> FileSystemImpl::ask_origin(std::string path, Context context,
                                                    bool* outdated) {
  std::function<Task<Result<ObjectInfo>>()> start = [this, path] { return head_or_prefix(path); };
  return heads_.run(path, std::move(start), context, outdated);
}

// Asks about a name whose old attributes serve if the origin does not answer soon.
Task<Result<ObjectInfo>> FileSystemImpl::revalidate(Inode& directory, std::string name,
                                                    std::string path, Context context,
                                                    bool* outdated) {
  bool knew_attributes = tree_.child(directory, name) != nullptr;
  Context limit = context.tightened(core_.executor(), kRevalidateLimit);
  auto info = co_await ask_origin(path, limit, outdated);
  if (info || info.error().code() != Code::kDeadlineExceeded) co_return info;
  // If they have gone meanwhile, there is nothing else to answer with.
  bool there = !knew_attributes || !directory.attached() || tree_.child(directory, name) != nullptr;
  if (there || !context.check(core_.executor())) co_return info;
  co_return co_await ask_origin(path, context, outdated);
}

// The origin is away: old attributes are better than none. With create_during_outage a name that
// this node does not know is taken for absent in a directory that it writes to; should it stand in
// the origin after all, the upload's condition fails and both versions are kept.
Result<Inode*> FileSystemImpl::answer_old(Inode* child, const std::string& path) {
  core_.metrics.stale_served.add();
  if (child == nullptr) return fail(Code::kNotFound, path);
  return child;
}

// One that does not serve any more goes; what it cost stays.
void FileSystemImpl::retire_listing(DirectoryPart& names) const {
  const Listing* listing = names.listing.get();
  bool serves = listing == nullptr || !listing->complete ||
                (listing->status && listing->fresh_until > core_.now());
  if (serves) return;
  bool large = !listing->status && listing->status.error().code() == Code::kTooLarge;
  if (large) names.absent_asked = -kAskedAfterLarge;
  if (listing->for_lookups) names.listing_took = listing->took;
  names.listing = nullptr;
}

// What the directory's listing says of the name, if it does.
std::optional<Result<Inode*>> FileSystemImpl::find_listed(Inode& directory, const std::string& name,
                                                          const std::string& path) {
  DirectoryPart& names = directory.names();
  retire_listing(names);
  bool listed = names.listing != nullptr && names.listing->complete &&
                !names.listing->outdated.contains(name);
  if (!listed) return std::nullopt;
  const Listing& listing = *names.listing;
  if (const ListedEntry* entry = listing.find(name)) {
    ObjectInfo info{path, entry->size, entry->etag, entry->modified, entry->metadata};
    if (entry->is_prefix) info.metadata["hdi_isfolder"] = "true";
    return &adopt(directory, name, info);
  }
  if (listing.may_wait(name)) return std::nullopt;
  return fail(Code::kNotFound, path);
}

// Each name that turns out to be absent has cost two requests, one after the other. Where many are
// asked for, as when many files are made, a listing says it of all of them. A directory is listed
// again when the names have cost as much as its last listing.
void FileSystemImpl::list_for_lookups(Inode& directory, Duration took) {
  DirectoryPart& names = directory.names();
  retire_listing(names);
  ++names.absent_asked;
  names.absent_took += took;
  bool wanted = names.absent_asked > kAskedMax && names.absent_took >= names.listing_took &&
                core_.options.attr_ttl > Duration(0);
  if (!wanted || names.listing != nullptr) return;
  names.absent_asked = 0;
  names.absent_took = Duration(0);
  names.listing =
      Listing::start(core_, tree_.path(directory), core_.background(), Listing::For::kLookups);
}

// The inode of a name, from what is known locally or else from the origin.
Task<Result<Inode*>> FileSystemImpl::resolve(Inode& directory, std::string name, Context context) {
  if (name.size() > kNameBytesMax) co_return fail(Code::kNameTooLong, name);
  InodeUse keep(tree_, directory);
  std::string path = join_path(tree_.path(directory), name);
  if (path == ".shoal" || path.starts_with(".shoal/")) {
    co_return fail(Code::kNotFound, "the prefix .shoal belongs to Shoal");
  }
  SHOAL_CO_RETURN_IF_ERROR(validate_object_name(path));
  Inode* child = tree_.child(directory, name);
  if (child != nullptr && (child->staged || child->fresh_until > core_.now())) co_return child;
  if (auto version = write_back_.find(path)) co_return &adopt_staged(directory, name, version);
  if (write_back_.any_below(path)) {
    ObjectInfo implied;
    implied.metadata["hdi_isfolder"] = "true";
    co_return &adopt(directory, name, implied);
  }
  DirectoryPart& names = directory.names();
  auto absent = names.absent_until.find(name);
  if (absent != names.absent_until.end()) {
    if (absent->second > core_.now()) co_return fail(Code::kNotFound, path);
    names.absent_until.erase(absent);
  }
  if (auto listed = find_listed(directory, name, path)) co_return std::move(*listed);
  bool known = child != nullptr || (core_.options.create_during_outage && names.written_here &&
                                    !names.forgotten.contains(name));
  bool may_be_stale = known && core_.options.attr_ttl > Duration(0);
  if (may_be_stale && origin_away_until_ > core_.now()) co_return answer_old(child, path);
  bool outdated = false;
  bool knew_attributes = child != nullptr;
  SteadyTime began = core_.now();
  auto info = may_be_stale ? co_await revalidate(directory, name, path, context, &outdated)
                           : co_await ask_origin(path, context, &outdated);
  if (!directory.attached()) co_return fail(Code::kNotFound, path);
  // What happened locally meanwhile wins over the origin's answer.
  if (auto version = write_back_.find(path)) co_return &adopt_staged(directory, name, version);
  child = tree_.child(directory, name);
  if (outdated && child != nullptr) co_return child;
  if (info) {
    origin_away_until_ = SteadyTime{};
    if (outdated) info->age = core_.options.attr_ttl;  // serves this look-up, and no other
    co_return &adopt(directory, name, *info);
  }
  if (info.error().code() == Code::kNotFound) {
    if (child != nullptr && child->staged == nullptr && !write_back_.any_below(path)) {
      tree_.detach(*child);
      tree_.drop_if_unused(*child);
    }
    list_for_lookups(directory, core_.now() - began);
    if (names.absent_until.size() >= kAbsentNamesMax) names.absent_until.clear();
    if (core_.options.negative_ttl > Duration(0) && !outdated) {
      names.absent_until[name] = core_.now() + core_.negative_ttl_here();
    }
  } else if (is_outage(info.error()) && may_be_stale && (child != nullptr || !knew_attributes)) {
    origin_away_until_ = core_.now() + kRevalidateLimit;
    core_.log.warning("{}: {}; answering from what is known here", path, info.error().to_string());
    co_return answer_old(child, path);
  }
  co_return fail(std::move(info).error());
}

}  // namespace shoal
