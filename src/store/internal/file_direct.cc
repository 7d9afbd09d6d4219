// File: how bytes reach its data file and come from it, through the page cache or past it.
#include "store/internal/file.h"
#include "store/internal/file_tier.h"

namespace shoal::store_internal {

namespace {
constexpr uint64_t kBlock = 4 * kKiB;  // that O_DIRECT moves, of disks of today

// How many of the first bytes O_DIRECT can move.
size_t direct_part(uint64_t offset, ConstByteSpan bytes) {
  bool aligned = offset % kBlock == 0 && reinterpret_cast<uintptr_t>(bytes.data()) % kBlock == 0;
  return aligned ? bytes.size() / kBlock * kBlock : 0;
}
}  // namespace

Task<FileId> File::direct_file() {
  if (no_direct_) co_return FileId::kNone;
  if (direct_ != FileId::kNone) co_return direct_;
  auto file =
      co_await disk_io::open(tier_.disk(), data_path(), DiskOp::kOpenWrite | DiskOp::kOpenDirect);
  if (!file) {
    no_direct_ = true;
  } else if (direct_ == FileId::kNone) {
    direct_ = *file;
  } else {  // somebody else was first
    (void)co_await disk_io::close(tier_.disk(), *file);
  }
  co_return direct_;
}

Task<Status> File::move_in(uint64_t offset, ConstByteSpan bytes, Way way) {
  size_t direct = way == Way::kDirect ? direct_part(offset, bytes) : 0;
  FileId file = direct > 0 ? co_await direct_file() : FileId::kNone;
  if (file == FileId::kNone) {
    direct = 0;
  } else {
    Status status = co_await disk_io::write(tier_.disk(), file, offset, bytes.first(direct));
    if (!status && status.error().code() == Code::kInvalidArgument) {  // larger blocks, perhaps
      no_direct_ = true;
      direct = 0;
    } else if (!status) {
      co_return status;
    }
  }
  if (direct == bytes.size()) co_return Status();
  co_return co_await disk_io::write(tier_.disk(), data_, offset + direct, bytes.subspan(direct));
}

Task<Result<size_t>> File::move_out(uint64_t offset, ByteSpan into, Way way) {
  size_t direct = way == Way::kDirect ? direct_part(offset, into) : 0;
  FileId file = direct > 0 ? co_await direct_file() : FileId::kNone;
  if (file == FileId::kNone) {
    direct = 0;
  } else {
    auto got = co_await disk_io::read_some(tier_.disk(), file, offset, into.first(direct));
    if (!got && got.error().code() == Code::kInvalidArgument) {
      no_direct_ = true;
      direct = 0;
    } else if (!got || *got < direct) {
      co_return got;
    }
  }
  if (direct == into.size()) co_return direct;
  auto rest =
      co_await disk_io::read_some(tier_.disk(), data_, offset + direct, into.subspan(direct));
  if (!rest) co_return rest;
  co_return direct + *rest;
}

}  // namespace shoal::store_internal
