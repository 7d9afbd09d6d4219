// For this room's tests: a directory of their own beside the test program, and a shard.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "world_linux/shard.h"

namespace shoal {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::current_path() / "world_linux_XXXXXX").string();
    SHOAL_ASSERT(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::unique_ptr<Shard> start_test_shard(ShardOptions options = {}) {
  auto shard = Shard::start(std::move(options));
  if (!shard) ADD_FAILURE() << shard.error().to_string();
  return shard ? std::move(*shard) : nullptr;
}

inline Code code_of(const Status& status) {
  SHOAL_ASSERT(!status.has_value(), "expected an error");
  return status.error().code();
}
template <typename T>
Code code_of(const Result<T>& result) {
  SHOAL_ASSERT(!result.has_value(), "expected an error");
  return result.error().code();
}

}  // namespace shoal
