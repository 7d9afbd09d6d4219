// Random numbers from a seed (splitmix64): equal seeds, equal numbers, on every machine.
#pragma once

#include "world/random.h"

namespace shoal {

class SeededRandom final : public Random {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t next() override {
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  }
  // True with the probability given. Draws nothing when it is zero, so that a fault that is
  // switched off leaves the other numbers as they are.
  bool chance(double probability) { return probability > 0 && unit() < probability; }
  // An independent stream.
  SeededRandom fork() { return SeededRandom(next() ^ 0xD1B54A32D192ED03ull); }

 private:
  uint64_t state_;
};

}  // namespace shoal
