// What the node itself does to files by path, for publications: through the same doors as programs,
// so that kernels, caches and other nodes learn of it.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "async/gate.h"
#include "base/object_name.h"
#include "node/file_system_impl.h"

namespace shoal {

namespace {
constexpr size_t kWriteBytes = kMiB;
constexpr size_t kUnlinksParallel = 16;
constexpr Duration kThereLimit = std::chrono::seconds(5);
}  // namespace

Task<Result<InodeUse>> FileSystemImpl::walk(std::string path, Context context) {
  InodeUse at(tree_, tree_.root());
  std::string_view rest = path;
  while (!rest.empty()) {
    size_t slash = rest.find('/');
    std::string name(rest.substr(0, slash));
    rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    if (!at->is_directory()) co_return fail(Code::kNotDirectory, path);
    SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change still, co_await moves_.change(*at, context));
    SHOAL_CO_ASSIGN_OR_RETURN(Inode * next, co_await resolve(*at, std::move(name), context));
    at = InodeUse(tree_, *next);
  }
  co_return std::move(at);
}

Task<Status> FileSystemImpl::expect_directory(std::string path, Context context) {
  context = core_.patient(context);
  auto inode = co_await walk(path, context);
  if (!inode && inode.error().code() == Code::kNotFound) {
    co_return fail(Code::kNotFound, path + " does not exist");
  }
  if (!inode) co_return fail(std::move(inode).error());
  if (!(*inode)->is_directory()) {
    co_return fail(Code::kInvalidArgument, path + " is a file; name a directory");
  }
  co_return Status();
}

Task<Status> FileSystemImpl::expect_there(std::string path, Context context) {
  if (path.empty() || write_back_.find(path) != nullptr || write_back_.any_below(path)) {
    co_return Status();
  }
  auto inode = co_await walk(path, context.tightened(core_.executor(), kThereLimit));
  if (inode ||
      (inode.error().code() != Code::kNotFound && inode.error().code() != Code::kNotDirectory)) {
    co_return Status();  // or nobody can tell now
  }
  co_return fail(Code::kNotFound, path + " does not exist");
}

Task<Status> FileSystemImpl::write_new(HandleId handle, const std::string& content,
                                       Context context) {
  for (size_t at = 0; at < content.size(); at += kWriteBytes) {
    ConstByteSpan part = as_bytes(content).subspan(at, std::min(kWriteBytes, content.size() - at));
    auto written = co_await write(handle, at, part, {}, context);
    if (!written) co_return fail(std::move(written).error());
  }
  Inode& inode = *handles_.at(static_cast<uint64_t>(handle))->inode;
  SHOAL_CO_ASSIGN_OR_RETURN(Moves::Change change, co_await moves_.change(inode, context));
  auto permit = co_await inode.lock.acquire(1, context);
  if (!permit) co_return fail(std::move(permit).error());
  co_return co_await seal(inode, true, context);
}

Task<Result<WriteBack::Version>> FileSystemImpl::put_file(std::string path, std::string content,
                                                          std::string gate, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(InodeUse directory,
                            co_await walk(std::string(parent_of(path)), context));
  std::string leaf(leaf_of(path));
  std::string temporary =
      fmt::format(".{}.tmp-{}", leaf, core_.world.random.id128().to_hex().substr(0, 8));
  Caller caller{core_.options.uid, core_.options.gid, 0, 0};
  SHOAL_CO_ASSIGN_OR_RETURN(Created created,
                            co_await create(directory->id, temporary, core_.options.file_mode,
                                            O_CREAT | O_EXCL | O_WRONLY, caller, context));
  HandleId handle = created.open.handle;
  InodeUse inode(tree_, *handles_.at(static_cast<uint64_t>(handle))->inode);
  forget(inode->id, 1);  // create() counted the kernel's look-up
  WriteBack::Version version = inode->staged;
  version->gate = std::move(gate);
  UploadHold hold(write_back_, version);  // not under the temporary name
  Status made = co_await write_new(handle, content, context);
  co_await release(handle);
  if (made) made = co_await rename(directory->id, temporary, directory->id, leaf, 0, context);
  if (!made) {
    Status removed = co_await unlink(directory->id, temporary, core_.background());
    static_cast<void>(removed);  // the first error is the one to tell
    co_return fail(std::move(made).error().with_context("writing " + path));
  }
  co_return std::move(version);
}

Task<Status> FileSystemImpl::replicate_now(WriteBack::Version version, Context context) {
  return replicate_one(std::move(version), context);
}

Task<Status> FileSystemImpl::rename_path(std::string from, std::string to, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(InodeUse directory,
                            co_await walk(std::string(parent_of(from)), context));
  SHOAL_ASSERT(parent_of(from) == parent_of(to));
  co_return co_await rename(directory->id, std::string(leaf_of(from)), directory->id,
                            std::string(leaf_of(to)), 0, context);
}

Task<Status> FileSystemImpl::unlink_path(std::string path, Context context) {
  auto directory = co_await walk(std::string(parent_of(path)), context);
  Status status;
  if (directory) {
    status = co_await unlink((*directory)->id, std::string(leaf_of(path)), context);
  } else {
    status = fail(std::move(directory).error());
  }
  if (!status && status.error().code() == Code::kNotFound) status = Status();  // so be it
  co_return status;
}

Task<Status> FileSystemImpl::remove_below(std::string directory, std::string last,
                                          Context context) {
  std::set<std::string> directories{directory};
  std::set<std::string> files;
  auto add = [&](const std::string& object, bool is_directory) {
    for (std::string up(parent_of(object)); up.size() > directory.size();
         up = std::string(parent_of(up))) {
      if (!directories.insert(up).second) break;
    }
    if (object == last) return;
    (is_directory ? directories : files).insert(object);
  };
  for (const WriteBack::Version& version : write_back_.below(directory)) {
    add(version->record.object, false);
  }
  ListOptions options;
  options.prefix = directory + "/";
  options.recursive = true;
  // Of other nodes', what their owner was told of; a removal that misses some is repeated.
  if (core_.replication != nullptr) {
    SHOAL_CO_RETURN_IF_ERROR(co_await await_origin_below(directory, context));
  }
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(ListPage page, co_await core_.origin.list(options, context));
    for (const ObjectInfo& object : page.objects) {
      if (!is_representable(object.name) || object.name.size() <= options.prefix.size()) continue;
      add(object.name, decode_attributes(object.metadata).kind == FileKind::kDirectory);
    }
    for (std::string& prefix : page.prefixes) {  // empty ones of a directory origin
      prefix.pop_back();
      add(prefix, true);
    }
    if (page.next_marker.empty()) break;
    options.marker = page.next_marker;
  }
  std::vector<Task<Status>> tasks;
  for (const std::string& file : files) tasks.push_back(unlink_path(file, context));
  SHOAL_CO_RETURN_IF_ERROR(co_await run_all(core_.executor(), std::move(tasks), kUnlinksParallel));
  SHOAL_CO_RETURN_IF_ERROR(co_await unlink_path(last, context));
  // Those below first.
  for (auto at = directories.rbegin(); at != directories.rend(); ++at) {
    SHOAL_CO_ASSIGN_OR_RETURN(InodeUse parent, co_await walk(std::string(parent_of(*at)), context));
    Status removed = co_await remove_directory(parent->id, std::string(leaf_of(*at)), context);
    if (!removed && removed.error().code() != Code::kNotFound) co_return removed;
  }
  co_return Status();
}

}  // namespace shoal
