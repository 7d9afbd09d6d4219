#include "mount/channel.h"

#include <sys/uio.h>

#include <cerrno>

#include "base/assert.h"
#include "mount/fuse_abi.h"

namespace shoal::fuse {

bool send_reply(int descriptor, uint64_t unique, int error, ConstByteSpan first,
                ConstByteSpan second) {
  SHOAL_ASSERT(error >= 0 && (error == 0 || (first.empty() && second.empty())));
  OutHeader header{};
  size_t length = sizeof(header) + first.size() + second.size();
  SHOAL_ASSERT(length <= UINT32_MAX);
  header.length = static_cast<uint32_t>(length);
  header.error = -error;
  header.unique = unique;
  iovec parts[3] = {{&header, sizeof(header)}, {}, {}};
  int count = 1;
  for (ConstByteSpan part : {first, second}) {
    if (part.empty()) continue;
    parts[count++] = {const_cast<std::byte*>(part.data()), part.size()};
  }
  ssize_t wrote;
  do {
    wrote = ::writev(descriptor, parts, count);
  } while (wrote < 0 && errno == EINTR);
  return wrote == static_cast<ssize_t>(length);
}

Metrics::Metrics(Registry& registry)
    : requests(registry.counter("shoal_mount_requests_total", "Requests of the kernel.")),
      read_bytes(registry.counter("shoal_mount_read_bytes_total",
                                  "Bytes read through the daemon (without passthrough).")),
      written_bytes(registry.counter("shoal_mount_written_bytes_total", "Bytes written.")),
      fast_reads(registry.counter("shoal_mount_fast_reads_total",
                                  "Reads answered by the mount's own threads.")),
      passthrough_opens(registry.counter("shoal_mount_passthrough_opens_total",
                                         "Opens that the kernel reads by itself.")),
      errors(registry.counter("shoal_mount_errors_total", "Requests that failed with EIO.")) {}

}  // namespace shoal::fuse
