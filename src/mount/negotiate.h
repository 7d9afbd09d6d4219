// The first exchange with the kernel: what it offers, what we take. Pure.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "mount/fuse_abi.h"

namespace shoal::fuse {

inline constexpr uint32_t kWriteBytesMax = 1u << 20;  // of one READ or WRITE
inline constexpr uint32_t kReadAheadBytes = 1u << 20;

struct Negotiated {
  uint32_t minor = 0;
  uint64_t flags = 0;  // kInit*: offered by the kernel and taken by us
  InitOut answer{};

  bool passthrough() const { return (flags & kInitPassthrough) != 0; }
  bool direct_mmap() const { return (flags & kInitDirectIoAllowMmap) != 0; }
};

// kNotSupported: the kernel is too old, or speaks another major version.
Result<Negotiated> negotiate(const InitIn& in, bool want_passthrough);

}  // namespace shoal::fuse
