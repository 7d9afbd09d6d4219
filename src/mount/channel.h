// Writing answers to /dev/fuse, and what all parts of a mount count. Any thread.
#pragma once

#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "observe/metrics.h"

namespace shoal::fuse {

// Sends one answer: an error (a positive errno, no body) or up to two parts of a body. An answer
// must go to the descriptor that its request came from. False: the kernel no longer wants it.
bool send_reply(int descriptor, uint64_t unique, int error, ConstByteSpan first = {},
                ConstByteSpan second = {});
// The same with a body in any number of parts.
bool send_reply(int descriptor, uint64_t unique, std::span<const ConstByteSpan> body);

struct Metrics {
  explicit Metrics(Registry& registry);
  Counter& requests;
  Counter& read_bytes;  // read through us, not by the kernel itself
  Counter& written_bytes;
  Counter& fast_reads;  // answered without the shard
  Counter& passthrough_opens;
  Counter& errors;  // answered with EIO
};

}  // namespace shoal::fuse
