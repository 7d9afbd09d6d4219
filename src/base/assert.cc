#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace shoal {

void assertion_failed(const char* condition, const char* file, int line, const char* message) {
  std::fprintf(stderr, "shoal: assertion failed: %s at %s:%d %s\n", condition, file, line, message);
  std::fflush(stderr);
  std::abort();
}

}  // namespace shoal
