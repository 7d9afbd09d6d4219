#include "mount/negotiate.h"

#include <fmt/format.h>

#include <algorithm>

namespace shoal::fuse {
namespace {

constexpr uint16_t kBackgroundMax = 64;
constexpr uint16_t kCongestion = 48;
constexpr uint32_t kPageBytes = 4096;

// Not taken: WRITEBACK_CACHE (what was written must reach us before close says so), locks (the
// kernel keeps those of one machine by itself), NO_OPENDIR and EXPORT.
constexpr uint64_t kWanted = kInitAsyncRead | kInitAtomicTruncate | kInitBigWrites |
                             kInitReaddirplus | kInitReaddirplusAuto | kInitAsyncDirectIo |
                             kInitParallelDirectoryOps | kInitMaxPages | kInitCacheSymlinks |
                             kInitHandleKillPrivV2 | kInitExt | kInitDirectIoAllowMmap;

}  // namespace

Result<Negotiated> negotiate(const InitIn& in, bool want_passthrough) {
  if (in.major != kMajor || in.minor < kMinorMin) {
    return fail(Code::kNotSupported,
                fmt::format("the kernel speaks FUSE {}.{}, Shoal needs {}.{} or later (Linux 5.4)",
                            in.major, in.minor, kMajor, kMinorMin));
  }
  uint64_t offered = in.flags;
  if (offered & kInitExt) offered |= uint64_t{in.flags2} << 32;
  Negotiated result;
  result.minor = std::min(in.minor, kMinor);
  result.flags = (kWanted | (want_passthrough ? kInitPassthrough : 0)) & offered;

  InitOut& out = result.answer;
  out.major = kMajor;
  out.minor = result.minor;
  out.max_readahead = std::min(in.max_readahead, kReadAheadBytes);
  out.flags = static_cast<uint32_t>(result.flags);
  out.flags2 = static_cast<uint32_t>(result.flags >> 32);
  out.max_background = kBackgroundMax;
  out.congestion_threshold = kCongestion;
  out.max_write = kWriteBytesMax;
  out.time_granularity = 1;
  out.max_pages = static_cast<uint16_t>(kWriteBytesMax / kPageBytes);
  // Backing files may lie on a plain file system, not on one stacked over another.
  out.max_stack_depth = result.passthrough() ? 1 : 0;
  return result;
}

}  // namespace shoal::fuse
