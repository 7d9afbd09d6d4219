// Assertions that stay on in release. Outside input gets errors, never assertions.
#pragma once

namespace shoal {
// Prints the failed condition, place and message to stderr and aborts.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const char* message);
}  // namespace shoal

// SHOAL_ASSERT(condition) or SHOAL_ASSERT(condition, "what it means").
#define SHOAL_ASSERT(condition, ...)                                             \
  do {                                                                           \
    if (!(condition)) [[unlikely]]                                               \
      ::shoal::assertion_failed(#condition, __FILE__, __LINE__, "" __VA_ARGS__); \
  } while (false)

#ifdef SHOAL_SLOW_ASSERTS
#define SHOAL_ASSERT_SLOW(condition, ...) SHOAL_ASSERT(condition, __VA_ARGS__)
#else
#define SHOAL_ASSERT_SLOW(condition, ...) \
  do {                                    \
  } while (false)
#endif
