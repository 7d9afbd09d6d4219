// Listing a directory origin, and looking after it.
#include <fmt/format.h>

#include <algorithm>

#include "async/disk_io.h"
#include "async/gate.h"
#include "base/object_name.h"
#include "origin/directory_origin.h"

namespace shoal {

namespace {
constexpr uint32_t kListEntriesMax = 5000;
constexpr size_t kLookUpsAtOnce = 16;
constexpr auto kUploadAgeMax = std::chrono::hours(7 * 24);  // as Azure keeps staged blocks
constexpr auto kTemporaryAgeMax = std::chrono::hours(24);
}  // namespace

Task<Result<std::optional<DirectoryOrigin::Level>>> DirectoryOrigin::list_level(
    std::string directory, std::string prefix) {
  Result<std::vector<DirectoryEntry>> entries =
      co_await disk_io::list(world_.disk, layout_.path_of(directory));
  if (!entries) {
    Code code = entries.error().code();
    bool gone = code == Code::kNotFound || code == Code::kNotDirectory;
    if (gone && !directory.empty()) co_return std::optional<Level>();
    co_return fail(std::move(entries).error());
  }
  Level level{directory, {}, 0};
  for (const DirectoryEntry& entry : *entries) {
    if (entry.is_other || !is_listed(directory, entry.name, prefix)) continue;
    std::string name = join_path(directory, entry.name);
    if (entry.is_directory) name += "/";
    // A directory is on the way to the prefix, or below it.
    bool wanted = name.starts_with(prefix) || (entry.is_directory && prefix.starts_with(name));
    if (wanted) level.entries.push_back({std::move(name), entry.is_directory});
  }
  std::sort(level.entries.begin(), level.entries.end(),
            [](const Level::Entry& a, const Level::Entry& b) { return a.name < b.name; });
  co_return std::optional<Level>(std::move(level));
}

// Walks the tree in the order of full names, from behind the marker, until the page is full. The
// marker is the last name that was reported.
Task<Result<ListPage>> DirectoryOrigin::collect(ListOptions options, Context context) {
  uint32_t entries_max = std::clamp<uint32_t>(options.entries_max, 1, kListEntriesMax);
  ListPage page;
  std::string last;
  std::vector<Level> levels;
  std::string start(parent_of(options.prefix));
  SHOAL_CO_ASSIGN_OR_RETURN(std::optional<Level> first, co_await list_level(start, options.prefix));
  if (first) levels.push_back(std::move(*first));
  auto report = [&](std::vector<std::string>* prefixes, const std::string& name) {
    if (page.objects.size() + page.prefixes.size() == entries_max) {
      page.next_marker = last;
      return false;
    }
    last = name;
    if (prefixes != nullptr) {
      prefixes->push_back(name);
    } else {
      page.objects.emplace_back().name = name;
    }
    return true;
  };
  while (!levels.empty()) {
    SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
    Level& level = levels.back();
    if (level.next == level.entries.size()) {
      levels.pop_back();
      continue;
    }
    Level::Entry entry = std::move(level.entries[level.next++]);
    bool behind = entry.name <= options.marker;
    if (!entry.is_directory) {
      if (!behind && !report(nullptr, entry.name)) break;
      continue;
    }
    // Of "d/" everything may have been reported, or only the part up to the marker.
    bool partly =
        options.marker.size() > entry.name.size() && options.marker.starts_with(entry.name);
    if (behind && !partly) continue;
    bool folded = !options.recursive && entry.name.starts_with(options.prefix);
    if (folded) {
      if (!behind && !report(&page.prefixes, entry.name)) break;
      continue;
    }
    SHOAL_CO_ASSIGN_OR_RETURN(
        std::optional<Level> below,
        co_await list_level(entry.name.substr(0, entry.name.size() - 1), options.prefix));
    if (!below) continue;
    bool is_empty = below->entries.empty() && entry.name.starts_with(options.prefix);
    if (is_empty && !behind && !report(&page.prefixes, entry.name)) break;
    levels.push_back(std::move(*below));
  }
  co_return std::move(page);
}

Task<Status> DirectoryOrigin::fill_object(ObjectInfo& info, uint64_t& unserved) {
  Result<Found> found = co_await find(info.name);
  if (found && !found->stat.is_directory) {
    info = std::move(found->info);
    co_return Status();
  }
  info.name.clear();  // gone, or something else now
  if (found || found.error().code() == Code::kNotFound) co_return Status();
  if (found.error().code() != Code::kNotSupported) co_return fail(std::move(found).error());
  ++unserved;
  co_return Status();
}

Task<Status> DirectoryOrigin::fill_objects(ListPage& page, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  uint64_t unserved = 0;
  std::vector<Task<Status>> tasks;
  tasks.reserve(page.objects.size());
  for (ObjectInfo& info : page.objects) tasks.push_back(fill_object(info, unserved));
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(world_.executor, std::move(tasks), kLookUpsAtOnce));
  std::erase_if(page.objects, [](const ObjectInfo& info) { return info.name.empty(); });
  if (unserved > 0) {
    log_.info("{} links or special files in {} are not served", unserved, layout_.root());
  }
  co_return Status();
}

Task<Result<ListPage>> DirectoryOrigin::list(ListOptions options, Context context) {
  metrics_.lists.add();
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await collect(options, context));
    SHOAL_CO_RETURN_IF_ERROR(co_await fill_objects(page, context));
    bool empty = page.objects.empty() && page.prefixes.empty();
    if (!empty || page.next_marker.empty()) co_return std::move(page);
    options.marker = page.next_marker;
  }
}

Task<Status> DirectoryOrigin::probe(bool write, Context context) {
  SHOAL_CO_RETURN_IF_ERROR(context.check(world_.executor));
  const std::string& root = layout_.root();
  Result<FileStat> stat = co_await stat_of(layout_.path_of(""));
  if (!stat) {
    Code code = stat.error().code();
    if (code == Code::kNotFound) {
      co_return fail(code, fmt::format("the directory {} does not exist; create it or correct the "
                                       "path",
                                       root));
    }
    co_return fail(std::move(stat).error());
  }
  if (!stat->is_directory) {
    co_return fail(Code::kNotDirectory, fmt::format("{} is not a directory; name one", root));
  }
  Result<std::vector<DirectoryEntry>> entries =
      co_await disk_io::list(world_.disk, layout_.path_of(""));
  if (!entries) co_return fail(std::move(entries).error());
  if (!write) co_return Status();
  Result<Turn> turn = co_await begin_write(context);
  if (!turn) {
    co_return fail(std::move(turn).error().with_context(
        fmt::format("writing to {} (mount with --read-only if that is meant)", root)));
  }
  co_await end_write(std::move(*turn));
  SHOAL_CO_ASSIGN_OR_RETURN(NewFile file, co_await write_temporary(as_bytes("shoal"), false));
  co_await drop_temporary(std::move(file.path));
  co_await sweep();
  co_return Status();
}

// Drops what crashes left behind long ago.
Task<void> DirectoryOrigin::sweep() {
  WallTime now = world_.executor.wall_now();
  if (now.time_since_epoch() <= kUploadAgeMax) co_return;
  co_await uploads_.discard_older_than(now - kUploadAgeMax);
  auto limit = static_cast<uint64_t>((now - kTemporaryAgeMax).time_since_epoch().count());
  Result<std::vector<DirectoryEntry>> entries =
      co_await disk_io::list(world_.disk, layout_.temporary());
  if (!entries) co_return;
  for (const DirectoryEntry& entry : *entries) {
    std::string path = layout_.temporary() + "/" + entry.name;
    Result<FileStat> stat = co_await stat_of(path);
    if (stat && stat->mtime_ns < limit) co_await drop_temporary(path);
  }
}

}  // namespace shoal
