// The places that the conformance suite runs against, and its fixture.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "observe/log.h"
#include "origin/make_origin.h"
#include "world_linux/shard.h"

namespace shoal {

enum class BackendKind { kDirectory, kAzurite, kStub, kFaultyStub };

// Where a backend answers differently from Azure, as data: the suite looks here, and nowhere else,
// before it expects less.
enum class Deviation {
  kHeadOfDirectory,      // head() of a name that is only a prefix finds a directory
  kWrongKeyIsForbidden,  // a wrong key is told as missing rights (403 AuthorizationFailure)
  kHasFaults,            // requests fail at times, so that counts of errors are not zero
  kBackslashIsSlash,     // the name "a\\b" is kept as "a/b"
};
struct DeviationRow {
  BackendKind backend;
  Deviation deviation;
};
inline constexpr DeviationRow kDeviations[] = {
    {BackendKind::kDirectory, Deviation::kHeadOfDirectory},
    {BackendKind::kAzurite, Deviation::kWrongKeyIsForbidden},
    {BackendKind::kAzurite, Deviation::kBackslashIsSlash},
    {BackendKind::kFaultyStub, Deviation::kHasFaults},
};

// Started at first use, shared by all tests of the program.
struct Backend {
  std::string location;     // of the container or directory
  std::string skip_reason;  // why it cannot be had here, else empty
  std::string failure;      // it is here, and does not work
};
const Backend& backend(BackendKind kind);
Shard& test_shard();

class OriginConformance : public testing::TestWithParam<BackendKind> {
 protected:
  void SetUp() override;

  // A new instance on the test's own prefix.
  std::unique_ptr<Origin> make(std::string below = "");
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(test_shard(), std::move(task));
  }
  bool deviates(Deviation deviation) const;
  // The options with a write id, by which an origin knows its own success after a lost answer.
  PutOptions named(Condition condition, Metadata metadata = {});
  // Puts, and fails the test if that fails. Conditional puts get a write id.
  ObjectInfo put(const std::string& object, std::string_view text, PutOptions options = {});
  Result<std::string> get(const ObjectInfo& info);
  Result<std::string> get(const ObjectInfo& info, uint64_t offset, uint64_t length);

  uint64_t write_ids_ = 0;
  Registry registry_;
  Log log_;
  std::string location_;
  std::unique_ptr<Origin> origin_;
};

std::string text_of_size(size_t size, unsigned seed);

template <typename T>
Code code_of(const Result<T>& result) {
  if (result.has_value()) {
    ADD_FAILURE() << "expected an error";
    return Code::kInternal;
  }
  return result.error().code();
}

}  // namespace shoal
