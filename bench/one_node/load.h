// What users of a file system do, timed: the same code runs on the mount and on the native disk.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace shoal::bench {

double seconds_now();  // of the monotonic clock
double cpu_seconds_of_this_process();

// pread again and again for a while: each job in its own part of the file through its own
// descriptor, in order or (random) at aligned places.
struct ReadLoad {
  std::string path;
  uint64_t size = 0;
  unsigned jobs = 1;
  uint64_t block = kMiB;
  bool random = false;
  double seconds = 1;
  std::optional<uint64_t> seed = {};  // compares samples with the synthetic bytes
};
struct ReadRate {
  double bytes_per_second = 0;
  double bytes = 0;
};
Result<ReadRate> read_for_a_while(const ReadLoad& load);

// Opens, reads once from begin to end in blocks of 1 MiB, closes. Answers the seconds.
Result<double> read_once(const std::string& path, uint64_t size, std::optional<uint64_t> seed);

// Creates `jobs` files PATH.N of size / jobs each, writes the synthetic bytes in blocks of 1 MiB,
// fsyncs if asked to, closes. Answers the seconds until all are closed.
struct WriteLoad {
  std::string path;
  uint64_t size = 0;
  unsigned jobs = 1;
  bool fsync = false;
  uint64_t seed = 0;
};
std::string written_path(const WriteLoad& load, unsigned job);
Result<double> write_files(const WriteLoad& load);

// One file with synthetic bytes, synced: the native twin of a blob.
Status make_native_file(const std::string& path, uint64_t size, uint64_t seed);
// Compares the whole file with the synthetic bytes.
Status verify_file(const std::string& path, uint64_t size, uint64_t seed);

// Writes dirty pages back, so that the next measure pays for its own only.
void settle_disk();
// Forgets clean pages and names of the whole machine. False: not permitted.
bool drop_page_cache();

// Small files DIR/f00000000...: seconds for all of them.
struct SmallFiles {
  std::string directory;
  uint64_t count = 0;
  uint64_t bytes = 4 * kKiB;
};
std::string small_file(const SmallFiles& files, uint64_t index);
Result<double> create_small(const SmallFiles& files, bool fsync);
Result<double> stat_small(const SmallFiles& files);
Result<double> read_small(const SmallFiles& files);
// Reads every name; fails if their number is not `expected`.
Result<double> list_directory(const std::string& path, uint64_t expected);

}  // namespace shoal::bench
