#include "simulate/kernel.h"

#include <fcntl.h>

#include "base/object_name.h"

namespace shoal::simulate {

namespace {

constexpr int kLooksAfterStale = 3;
constexpr Caller kCaller{1000, 1000, 1, 022};

}  // namespace

void Walk::release() {
  for (auto at = held_.rbegin(); at != held_.rend(); ++at) {
    file_system_->forget(at->attributes.inode, 1);
  }
  held_.clear();
}

Task<Result<Walk>> Kernel::walk(std::string path, Context context) {
  Walk walk(fs);
  std::string_view rest = path;
  while (!rest.empty()) {
    size_t slash = rest.find('/');
    std::string name(rest.substr(0, slash));
    rest = slash == std::string_view::npos ? "" : rest.substr(slash + 1);
    SHOAL_CO_ASSIGN_OR_RETURN(Entry entry, co_await fs.lookup(walk.inode(), name, context));
    walk.hold(entry);
  }
  co_return walk;
}

Task<Result<OpenFile>> Kernel::open_once(std::string path, uint32_t flags, Context context) {
  OpenFile file;
  if ((flags & O_CREAT) == 0) {
    SHOAL_CO_ASSIGN_OR_RETURN(file.walk, co_await walk(path, context));
    SHOAL_CO_ASSIGN_OR_RETURN(OpenResult opened,
                              co_await fs.open(file.walk.inode(), flags, false, context));
    file.handle = opened.handle;
    co_return file;
  }
  SHOAL_CO_ASSIGN_OR_RETURN(file.walk, co_await walk(std::string(parent_of(path)), context));
  std::string name(leaf_of(path));
  auto there = co_await fs.lookup(file.walk.inode(), name, context);
  if (there) {
    file.walk.hold(*there);
    if (flags & O_EXCL) co_return fail(Code::kAlreadyExists, path);
    SHOAL_CO_ASSIGN_OR_RETURN(
        OpenResult opened,
        co_await fs.open(file.walk.inode(), flags & ~uint32_t{O_CREAT}, false, context));
    file.handle = opened.handle;
    co_return file;
  }
  if (there.error().code() != Code::kNotFound) co_return fail(std::move(there).error());
  SHOAL_CO_ASSIGN_OR_RETURN(
      FileSystem::Created created,
      co_await fs.create(file.walk.inode(), name, 0644, flags, kCaller, context));
  file.walk.hold(created.entry);
  file.handle = created.open.handle;
  co_return file;
}

Task<Result<OpenFile>> Kernel::open(std::string path, uint32_t flags, Context context) {
  for (int look = 0;; ++look) {
    auto opened = co_await open_once(path, flags, context);
    if (opened || opened.error().code() != Code::kStale || look >= kLooksAfterStale) {
      co_return opened;
    }
  }
}

Task<Status> Kernel::unlink(std::string path, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Walk parent, co_await walk(std::string(parent_of(path)), context));
  co_return co_await fs.unlink(parent.inode(), std::string(leaf_of(path)), context);
}

Task<Status> Kernel::make_directory(std::string path, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Walk parent, co_await walk(std::string(parent_of(path)), context));
  SHOAL_CO_ASSIGN_OR_RETURN(
      Entry made, co_await fs.make_directory(parent.inode(), std::string(leaf_of(path)), 0755,
                                             kCaller, context));
  parent.hold(made);
  co_return Status();
}

Task<Status> Kernel::remove_directory(std::string path, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Walk parent, co_await walk(std::string(parent_of(path)), context));
  co_return co_await fs.remove_directory(parent.inode(), std::string(leaf_of(path)), context);
}

Task<Status> Kernel::rename(std::string from, std::string to, uint32_t flags, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Walk source, co_await walk(std::string(parent_of(from)), context));
  SHOAL_CO_ASSIGN_OR_RETURN(Walk target, co_await walk(std::string(parent_of(to)), context));
  co_return co_await fs.rename(source.inode(), std::string(leaf_of(from)), target.inode(),
                               std::string(leaf_of(to)), flags, context);
}

Task<Result<Entry>> Kernel::set_attributes(std::string path, SetAttributes change,
                                           Context context) {
  for (int look = 0;; ++look) {
    SHOAL_CO_ASSIGN_OR_RETURN(Walk there, co_await walk(path, context));
    auto changed = co_await fs.set_attributes(there.inode(), change, kCaller, context);
    if (changed || changed.error().code() != Code::kStale || look >= kLooksAfterStale) {
      co_return changed;
    }
  }
}

Task<Result<std::vector<std::string>>> Kernel::list(std::string path, bool plus, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(Walk directory, co_await walk(path, context));
  SHOAL_CO_ASSIGN_OR_RETURN(HandleId handle,
                            co_await fs.open_directory(directory.inode(), context));
  std::vector<std::string> names;
  std::vector<InodeId> found;
  uint64_t cookie = 0;
  Status status;
  // In batches, as the kernel's buffer forces.
  for (bool more = true; more && status;) {
    size_t taken = 0;
    auto add = [&](const DirectoryItem& item) {
      if (taken == 5) return false;
      ++taken;
      cookie = item.cookie;
      if (item.name != "." && item.name != "..") names.push_back(item.name);
      if (item.entry.attributes.inode != InodeId::kNone) {
        found.push_back(item.entry.attributes.inode);
      }
      return true;
    };
    status = co_await fs.read_directory(handle, cookie, plus, add, context);
    more = taken > 0;
  }
  co_await fs.release_directory(handle);
  for (InodeId inode : found) fs.forget(inode, 1);
  if (!status) co_return fail(std::move(status).error());
  co_return names;
}

Task<Result<size_t>> Kernel::read(HandleId handle, uint64_t offset, ByteSpan into,
                                  Context context) {
  Lent lent;
  SHOAL_CO_ASSIGN_OR_RETURN(size_t count,
                            co_await fs.read_or_lend(handle, offset, into, lent, context));
  if (lent.parts().empty()) co_return count;
  std::string gathered;  // some parts lie in `into`
  for (const Lent::Part& part : lent.parts()) gathered += as_text(part.bytes);
  SHOAL_ASSERT(gathered.size() == count);
  std::ranges::copy(as_bytes(gathered), into.begin());
  co_return count;
}

struct Kernel::WriteRequest {
  WriteRequest(Executor& executor, HandleId handle, uint64_t offset, ConstByteSpan bytes,
               Context context)
      : handle(handle),
        offset(offset),
        bytes(Buffer::copy_of(bytes)),
        context(context),
        answered(executor) {}
  void reply(Result<size_t> with) {
    answer = std::move(with);
    answered.notify_all();
  }

  const HandleId handle;
  const uint64_t offset;
  const Buffer bytes;
  const Context context;
  std::optional<Result<size_t>> answer;
  Signal answered;
};

Task<void> Kernel::serve(FileSystem* fs, std::shared_ptr<WriteRequest> request) {
  ConstByteSpan bytes = request->bytes.span();
  auto wrote = co_await fs->write(
      request->handle, request->offset, bytes, [&] { request->reply(bytes.size()); },
      request->context);
  if (!request->answer) request->reply(std::move(wrote));
}

Task<Result<size_t>> Kernel::write(HandleId handle, uint64_t offset, ConstByteSpan bytes,
                                   Context context) {
  auto request = std::make_shared<WriteRequest>(executor_, handle, offset, bytes, context);
  if (!writes_.spawn(serve(&fs, request))) co_return fail(Code::kCancelled, "unmounted");
  while (!request->answer) (void)co_await request->answered.wait({});
  co_return std::move(*request->answer);
}

Task<Result<std::string>> Kernel::read_all(HandleId handle, uint64_t step, Context context) {
  std::string bytes;
  Buffer buffer(step);
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(size_t count,
                              co_await read(handle, bytes.size(), buffer.span(), context));
    if (count == 0) co_return bytes;
    bytes += as_text(buffer.span().first(count));
  }
}

Task<Result<std::string>> Kernel::read_path(std::string path, uint64_t step, Context context) {
  SHOAL_CO_ASSIGN_OR_RETURN(OpenFile file, co_await open(path, O_RDONLY, context));
  auto bytes = co_await read_all(file.handle, step, context);
  co_await fs.release(file.handle);
  co_return bytes;
}

}  // namespace shoal::simulate
