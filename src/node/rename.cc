// Rename: of files with their staged and clean bytes, and of directories object by object.
#include <fmt/format.h>

#include <algorithm>

#include "base/object_name.h"
#include "node/fetcher.h"
#include "node/file_system_impl.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

namespace shoal {

namespace {
constexpr size_t kRenamesParallel = 16;
constexpr size_t kStagedRenamesParallel = 256;
constexpr size_t kRenamesBatch = 4096;  // of which each takes memory at one time
}  // namespace

void FileSystemImpl::rename_in_tree(Inode& inode, Inode& directory, const std::string& name) {
  Inode* old_parent = inode.parent;
  SHOAL_ASSERT(old_parent != nullptr);
  InodeUse keep(tree_, *old_parent);
  std::string old_name = inode.name;
  // What stood there, or what a look-up has found there meanwhile: another node's.
  Inode* other = tree_.child(directory, name);
  if (other != nullptr && other != &inode) {
    tree_.detach(*other);
    tree_.drop_if_unused(*other);
  }
  tree_.move(inode, directory, name);
  changed_names(*old_parent, old_name);
  changed_names(directory, name);
  inode.changed = core_.world.executor.wall_now();
  inode.fresh_until = core_.now() + core_.options.attr_ttl;
}

// The origin has the bytes under the new name; a cache that cannot follow only costs a fetch.
Task<void> FileSystemImpl::rekey(std::string from, std::string etag, std::string to,
                                 std::string new_etag) {
  Status status = co_await core_.store.rekey(from, std::move(etag), to, std::move(new_etag));
  if (!status) {
    core_.log.warning("the cache of {} is lost to its new name {}: {}", from, to,
                      status.error().to_string());
  }
}

// Makes the record that of a version which is durable already.
Task<Status> FileSystemImpl::save_record(WriteBack::Version version, StagedRecord record) {
  if (!version->durable) co_return Status();
  if (version->small) {
    SHOAL_CO_ASSIGN_OR_RETURN(Buffer bytes,
                              co_await core_.store.read_staged_small(record.write_id));
    co_return co_await core_.store.stage_small(std::move(record), bytes.span());
  }
  if (!version->file) {
    SHOAL_CO_ASSIGN_OR_RETURN(version->file, co_await core_.store.find_staged(record.write_id));
  }
  co_return co_await version->file->sync(std::move(record));
}

Task<Status> FileSystemImpl::rename_staged(Inode& source, std::string from, std::string to,
                                           Inode* target, Context context) {
  WriteBack::Version version = source.staged;
  if (version->ask_ledger) co_await write_back_.ask_ledger(version);
  bool maybe_there = !source.etag.empty() || version->tried;
  // What is acknowledged under the old name must not stay behind, and must not go first.
  if (version->supersedes || (maybe_there && !version->durable)) {
    SHOAL_CO_RETURN_IF_ERROR(co_await seal(source, version->record.sealed, context));
  }
  if (source.content.fetcher) {  // the base's name goes away: bring what is still missing
    SHOAL_CO_RETURN_IF_ERROR(co_await source.content.fetcher->complete(
        {0, source.content.file->size()}, FetchRole::kReader, {}, context));
  }
  if (maybe_there) {
    co_await write_back_.let_late_commits_pass(from);
    // Should the rename end here, the version is uploaded under the old name again.
    Status removed = co_await core_.origin.remove(from, Condition::none(), context);
    if (!removed && removed.error().code() != Code::kNotFound) co_return removed;
    source.etag.clear();
    version->record.base_etag.clear();
    version->record.must_be_absent = true;
  }
  StagedRecord record = version->record.unpack();
  record.object = to;
  record.changed = core_.world.executor.wall_now();
  record.base_etag = target != nullptr ? target->etag : "";
  record.must_be_absent = record.base_etag.empty();
  version->base_write = target != nullptr ? target->attributes.write_id : "";
  if (target != nullptr && target->staged) {
    version->add_ancestor(*target->staged);  // its upload may have been cut short
    record.metadata[kAncestorsName] = version->ancestors;
  }
  if (version->recorded) record.metadata[kRenamedFromName] = from;
  SHOAL_CO_RETURN_IF_ERROR(co_await save_record(version, record));
  version->record = VersionRecord(record);
  source.etag = record.base_etag;
  co_return Status();
}

// What is staged under the new name goes on if the rename fails, and the origin may have the copy
// all the same: that is no other writer's.
Task<Status> FileSystemImpl::expect_copy(Inode& source, Inode* target, Context context) {
  if (target == nullptr) co_return Status();
  auto permit = co_await target->lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  WriteBack::Version version = target->staged;
  if (version == nullptr) co_return Status();
  FileAttributes& attributes = source.attributes;
  if (attributes.write_id.empty()) {
    attributes.write_id = WriteName{core_.world.random.id128(), 0}.text();
  }
  if (version->descends_from(attributes.write_id)) co_return Status();
  version->add_ancestors(attributes.write_id.substr(0, attributes.write_id.find('.')));
  StagedRecord record = version->record.unpack();
  record.metadata[kAncestorsName] = version->ancestors;
  SHOAL_CO_RETURN_IF_ERROR(co_await save_record(version, record));
  version->record = VersionRecord(std::move(record));
  co_return Status();
}

Task<Status> FileSystemImpl::rename_clean(Inode& source, std::string from, std::string to,
                                          Context context) {
  SHOAL_CO_RETURN_IF_ERROR(co_await await_origin(source, context));
  co_await write_back_.let_late_commits_pass(from);
  std::string old_etag = source.etag;
  ObjectInfo info;
  if (core_.origin.has_rename()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.origin.rename(from, to, context));
    SHOAL_CO_ASSIGN_OR_RETURN(info, co_await core_.origin.head(to, context));
  } else {
    SHOAL_CO_ASSIGN_OR_RETURN(Metadata metadata, encode_attributes(source.attributes));
    core_.sign(metadata);
    SHOAL_CO_ASSIGN_OR_RETURN(
        info,
        co_await core_.origin.copy(from, old_etag, to, {Condition::none(), metadata}, context));
    Status removed = co_await core_.origin.remove(from, Condition::match(old_etag), context);
    if (!removed && removed.error().code() != Code::kNotFound) co_return removed;
  }
  source.etag = info.etag;
  if (source.content.fetcher) source.content.fetcher->renamed(to, info.etag);
  co_await rekey(from, old_etag, to, info.etag);
  co_return Status();
}

Task<Status> FileSystemImpl::rename_file(Inode& source, Inode& to_directory, std::string to,
                                         Inode* target, Context context) {
  Status status = co_await rename_file_locked(source, to_directory, std::move(to), target, context);
  if (!status) {
    resume(source);
    if (target != nullptr) resume(*target);
  }
  co_return status;
}

Task<Status> FileSystemImpl::rename_file_locked(Inode& source, Inode& to_directory, std::string to,
                                                Inode* target, Context context) {
  std::string from_path = tree_.path(source);
  std::string to_path = join_path(tree_.path(to_directory), to);
  Inode& from_directory = *source.parent;
  SHOAL_CO_RETURN_IF_ERROR(co_await keep_directory(from_directory, context));
  auto permit = co_await source.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  UploadHold hold_source(write_back_, source.staged);
  UploadHold hold_target(write_back_, target != nullptr ? target->staged : nullptr);
  if (source.staged) co_await write_back_.halt(source.staged);
  if (target != nullptr && target->staged) co_await write_back_.halt(target->staged);
  SHOAL_CO_RETURN_IF_ERROR(co_await await_ends(from_path, context));
  WriteBack::Version version = source.staged;
  auto left = left_behind(source);
  Status told;  // an error when other nodes may know the old name only
  if (version != nullptr) {
    SHOAL_CO_RETURN_IF_ERROR(co_await rename_staged(source, from_path, to_path, target, context));
    told = co_await replicate_renamed(version, context);
  } else {
    SHOAL_CO_RETURN_IF_ERROR(co_await expect_copy(source, target, context));
    SHOAL_CO_RETURN_IF_ERROR(co_await rename_clean(source, from_path, to_path, context));
  }
  if (told) told = co_await end_left_behind(std::move(left), context);
  if (target != nullptr) {
    WriteBack::Version replaced = target->staged;
    Status removed = co_await remove_file(to_directory, *target, false, context);
    if (!removed) core_.log.warning("replacing {}: {}", to_path, removed.error().to_string());
    // Its end may have told that another node has put it into the origin.
    if (version != nullptr && replaced != nullptr && replaced->tried) version->tried = true;
  }
  if (version != nullptr) {
    if (auto other = write_back_.find(to_path)) write_back_.remove_name(other);
    write_back_.renamed(version, from_path);
    // Its name says something new: after what was closed until now.
    if (version->record.sealed) write_back_.closed(version);
    if (version->record.sealed && version->durable && source.writers == 0) {
      write_back_.enqueue(version, version->forced);
    }
  }
  rename_in_tree(source, to_directory, to);
  co_return told;
}

Task<Status> FileSystemImpl::rename_one_object(ObjectInfo info, std::string to, Context context) {
  Metadata metadata = info.metadata;
  core_.sign(metadata);
  SHOAL_CO_ASSIGN_OR_RETURN(
      ObjectInfo copied,
      co_await core_.origin.copy(info.name, info.etag, to, {Condition::none(), metadata}, context));
  Inode* inode = tree_.find_path(info.name);
  if (inode != nullptr && inode->etag == info.etag) {
    inode->etag = copied.etag;
    if (inode->content.fetcher && !inode->staged) {
      inode->content.fetcher->renamed(to, copied.etag);
    }
  }
  if (auto version = write_back_.find(info.name);
      version != nullptr && version->record.base_etag == info.etag) {
    version->record.base_etag = copied.etag;
  }
  co_await rekey(info.name, info.etag, to, copied.etag);
  Status removed = co_await core_.origin.remove(info.name, Condition::match(info.etag), context);
  if (!removed && removed.error().code() == Code::kNotFound) co_return Status();
  co_return removed;
}

// `told`: an error where other nodes may know the old name only.
Task<Status> FileSystemImpl::rename_waiting(WriteBack::Version version, std::string to,
                                            Status* told, Context context) {
  if (version->committed || version->dropped) co_return Status();
  std::string from = version->record.object;
  StagedRecord record = version->record.unpack();
  record.object = std::move(to);
  if (version->recorded) record.metadata[kRenamedFromName] = from;
  SHOAL_CO_RETURN_IF_ERROR(co_await save_record(version, record));
  version->record = VersionRecord(std::move(record));
  write_back_.renamed(version, from);
  Status known = co_await replicate_renamed(version, context);
  if (!known) *told = std::move(known);
  if (version->inode != nullptr && version->inode->writers > 0) co_return Status();
  if (version->record.sealed && version->durable) write_back_.enqueue(version, false);
  co_return Status();
}

// Side by side, since each waits for the disk: they share its syncs.
Task<Status> FileSystemImpl::rename_all_waiting(std::vector<WriteBack::Version> staged,
                                                std::string from, std::string to, Status* told,
                                                Context context) {
  for (size_t at = 0; at < staged.size();) {
    std::vector<Task<Status>> tasks;
    for (; at < staged.size() && tasks.size() < kRenamesBatch; ++at) {
      const WriteBack::Version& version = staged[at];
      if (version->committed || version->dropped) continue;
      std::string name = to + version->record.object.substr(from.size());
      tasks.push_back(rename_waiting(version, std::move(name), told, context));
    }
    SHOAL_CO_RETURN_IF_ERROR(
        co_await run_all(core_.executor(), std::move(tasks), kStagedRenamesParallel));
  }
  co_return Status();
}

Task<Status> FileSystemImpl::rename_directory(Inode& source, Inode& to_directory, std::string to,
                                              Context context) {
  Inode* from_directory = source.parent;
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Move move, co_await moves_.move(source, context));
  // Another rename of it came first.
  if (from_directory == nullptr || source.parent != from_directory) {
    co_return fail(Code::kNotFound, source.name);
  }
  std::vector<WriteBack::Version> staged = write_back_.below(tree_.path(source));
  Status status =
      co_await rename_directory_of(source, to_directory, std::move(to), staged, context);
  forget_listings(source);  // they tell of the old objects
  if (!status) {
    for (const auto& version : staged) {
      bool open = version->inode != nullptr && version->inode->writers > 0;
      if (version->record.sealed && version->durable && !open) write_back_.enqueue(version, false);
    }
  }
  co_return status;
}

Task<Status> FileSystemImpl::rename_directory_of(Inode& source, Inode& to_directory, std::string to,
                                                 std::vector<WriteBack::Version> staged,
                                                 Context context) {
  std::string from_path = tree_.path(source);
  std::string to_path = join_path(tree_.path(to_directory), to);
  std::vector<UploadHold> holds;
  holds.reserve(staged.size());
  for (const auto& version : staged) holds.emplace_back(write_back_, version);
  // First, without a wait, those that are queued: they would begin while others are halted.
  for (const auto& version : staged) {
    if (!version->uploading) co_await write_back_.halt(version);
  }
  for (const auto& version : staged) {
    co_await write_back_.halt(version);
    Inode* inode = version->inode;
    if (!version->committed && inode != nullptr && inode->content.fetcher) {
      SHOAL_CO_RETURN_IF_ERROR(co_await inode->content.fetcher->complete(
          {0, inode->content.file->size()}, FetchRole::kReader, {}, context));
    }
  }
  co_await write_back_.let_late_commits_pass(from_path);
  SHOAL_CO_RETURN_IF_ERROR(co_await await_origin_below(from_path, context));
  // Everything below, and the marker itself.
  std::vector<ObjectInfo> objects;
  ListOptions all;
  all.prefix = from_path + "/";
  all.recursive = true;
  do {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(all, context));
    std::move(page.objects.begin(), page.objects.end(), std::back_inserter(objects));
    all.marker = page.next_marker;
  } while (!all.marker.empty());
  auto renamed = [&](const std::string& name) { return to_path + name.substr(from_path.size()); };
  if (core_.origin.has_rename()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await core_.origin.rename(from_path, to_path, context));
    for (const ObjectInfo& info : objects) {
      co_await rekey(info.name, info.etag, renamed(info.name), info.etag);
    }
  } else {
    if (source.marker) {
      auto marker = co_await core_.origin.head(from_path, context);
      if (marker) objects.push_back(std::move(*marker));
    }
    Status status;
    for (size_t at = 0; status && at < objects.size();) {
      std::vector<Task<Status>> tasks;
      for (; at < objects.size() && tasks.size() < kRenamesBatch; ++at) {
        std::string name = renamed(objects[at].name);
        tasks.push_back(rename_one_object(std::move(objects[at]), std::move(name), context));
      }
      status = co_await run_all(core_.executor(), std::move(tasks), kRenamesParallel);
    }
    if (!status) {
      co_return fail(std::move(status).error().with_context(fmt::format(
          "renaming the directory {} (objects that were reached are below {} already; repeat the "
          "rename)",
          from_path, to_path)));
    }
  }
  Status told;
  SHOAL_CO_RETURN_IF_ERROR(
      co_await rename_all_waiting(std::move(staged), from_path, to_path, &told, context));
  rename_in_tree(source, to_directory, to);
  co_return told;
}

Task<Status> FileSystemImpl::rename(InodeId from_parent, std::string from, InodeId to_parent,
                                    std::string to, uint32_t flags, Context context) {
  if ((flags & ~uint32_t{RENAME_NOREPLACE}) != 0) {
    co_return fail(Code::kInvalidArgument, "only RENAME_NOREPLACE is offered");
  }
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * from_directory, directory_of(from_parent));
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * to_directory, directory_of(to_parent));
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change,
                            co_await moves_.change(*from_directory, context, to_directory));
  SHOAL_CO_RETURN_IF_ERROR(co_await check_name(*from_directory, from));
  SHOAL_CO_RETURN_IF_ERROR(co_await check_name(*to_directory, to));
  SHOAL_CO_ASSIGN_OR_RETURN(Inode * source, co_await resolve(*from_directory, from, context));
  InodeUse keep_source(tree_, *source);
  auto found = co_await resolve(*to_directory, to, context);
  Inode* target = found ? *found : nullptr;
  if (!found && found.error().code() != Code::kNotFound) co_return fail(std::move(found).error());
  if (target == source) co_return Status();
  if (target != nullptr && (flags & RENAME_NOREPLACE)) co_return fail(Code::kAlreadyExists, to);
  InodeUse keep_target;
  if (target != nullptr) keep_target = InodeUse(tree_, *target);
  if (source->is_directory()) {
    std::string from_path = tree_.path(*source);
    std::string to_path = join_path(tree_.path(*to_directory), to);
    if (to_path.starts_with(from_path + "/")) {
      co_return fail(Code::kInvalidArgument, "a directory cannot move into itself");
    }
    if (target != nullptr) {
      if (!target->is_directory()) co_return fail(Code::kNotDirectory, to);
      SHOAL_CO_RETURN_IF_ERROR(co_await remove_empty(*to_directory, to, context));
    }
    co_return co_await rename_directory(*source, *to_directory, to, context);
  }
  if (target != nullptr && target->is_directory()) co_return fail(Code::kIsDirectory, to);
  if (source->parent != from_directory) co_return fail(Code::kNotFound, from);
  co_return co_await rename_file(*source, *to_directory, to, target, context);
}

}  // namespace shoal
