#pragma once

#include <cstdint>

#include "base/hash.h"

namespace shoal {

// Random numbers: from the kernel in the real world, from the seed in simulation. Shard's thread.
class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t next() = 0;

  // Uniform in [0, bound); bound >= 1.
  uint64_t below(uint64_t bound) { return next() % bound; }
  // Uniform in [0, 1).
  double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  Hash128 id128() { return {next(), next()}; }
};

}  // namespace shoal
