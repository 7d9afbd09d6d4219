#include "mount/channel.h"

#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/assert.h"
#include "mount/fuse_abi.h"

namespace shoal::fuse {

namespace {

// `iovecs`: room for the header, which is its first, and the body.
bool send_parts(int descriptor, OutHeader header, std::span<const ConstByteSpan> body,
                std::span<iovec> iovecs) {
  size_t length = sizeof(header);
  size_t count = 1;
  for (ConstByteSpan part : body) {
    if (part.empty()) continue;
    length += part.size();
    iovecs[count++] = {const_cast<std::byte*>(part.data()), part.size()};
  }
  SHOAL_ASSERT(length <= UINT32_MAX);
  header.length = static_cast<uint32_t>(length);
  iovecs[0] = {&header, sizeof(header)};
  ssize_t wrote;
  do {
    wrote = ::writev(descriptor, iovecs.data(), static_cast<int>(count));
  } while (wrote < 0 && errno == EINTR);
  return wrote == static_cast<ssize_t>(length);
}

}  // namespace

bool send_reply(int descriptor, uint64_t unique, int error, ConstByteSpan first,
                ConstByteSpan second) {
  SHOAL_ASSERT(error >= 0 && (error == 0 || (first.empty() && second.empty())));
  OutHeader header{};
  header.error = -error;
  header.unique = unique;
  std::array<iovec, 3> iovecs{};
  return send_parts(descriptor, header, std::array{first, second}, iovecs);
}

bool send_reply(int descriptor, uint64_t unique, std::span<const ConstByteSpan> body) {
  OutHeader header{};
  header.unique = unique;
  std::vector<iovec> iovecs(body.size() + 1);
  return send_parts(descriptor, header, body, iovecs);
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
