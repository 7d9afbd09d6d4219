#include "world_sim/sim_disk.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "async/disk_io.h"
#include "async/gate.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

constexpr uint32_t kCreate = DiskOp::kOpenWrite | DiskOp::kOpenCreate;
const Duration kLong = std::chrono::hours(1);

std::string text_of(char c, size_t size) { return std::string(size, c); }

// Runs one task to its end on the machine's process.
void run(Simulation& sim, SimMachine& machine, Task<void> task) {
  Gate gate(machine.world().executor);
  ASSERT_TRUE(gate.spawn(std::move(task)));
  ASSERT_TRUE(sim.run_until([&] { return gate.count() == 0; }, kLong));
}

Task<void> write_file(Disk& disk, std::string path, std::string content, bool sync,
                      bool sync_name) {
  FileId file = (co_await disk_io::open(disk, path, kCreate)).value();
  SHOAL_ASSERT((co_await disk_io::write(disk, file, 0, as_bytes(content))).has_value());
  if (sync) SHOAL_ASSERT((co_await disk_io::sync(disk, file)).has_value());
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
  if (sync_name) SHOAL_ASSERT((co_await disk_io::sync_directory(disk, "")).has_value());
}

class Machine {
 public:
  explicit Machine(uint64_t seed = 1, SimDiskOptions options = {})
      : sim({.seed = seed}), machine(sim.add_machine("m", options)) {
    machine.boot();
  }
  Disk& disk() { return machine.world().disk; }
  void run(Task<void> task) { shoal::run(sim, machine, std::move(task)); }
  void power_loss() {
    machine.crash(CrashKind::kPowerLoss);
    machine.boot();
  }
  Simulation sim;
  SimMachine& machine;
};

TEST(SimDisk, synced_survives_and_unsynced_may_vanish) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Machine m(seed);
    m.run(write_file(m.disk(), "synced", text_of('a', 20000), true, true));
    m.run(write_file(m.disk(), "unsynced", text_of('b', 20000), false, true));
    m.run(write_file(m.disk(), "nameless", text_of('c', 20000), true, false));
    m.power_loss();
    ASSERT_EQ(m.machine.disk().content("synced"), text_of('a', 20000));
    ASSERT_NE(m.machine.disk().file("unsynced"), nullptr);  // its name was synced
    std::string left = m.machine.disk().content("unsynced");
    ASSERT_LE(left.size(), 20000u);
    for (char c : left) ASSERT_TRUE(c == 'b' || c == '\0');
    SimFile* nameless = m.machine.disk().file("nameless");
    if (nameless) ASSERT_EQ(m.machine.disk().content("nameless"), text_of('c', 20000));
    outcomes.insert(nameless ? "name kept" : "name lost");
    bool all = left == text_of('b', 20000);
    bool none = left.find('b') == std::string::npos;
    outcomes.insert(all ? "data kept" : none ? "data lost" : "data mixed");
    // Torn inside a page: its sectors differ.
    for (size_t at = 0; at + kSimPageBytes <= left.size(); at += kSimPageBytes) {
      std::string_view page = std::string_view(left).substr(at, kSimPageBytes);
      if (page.find('b') != page.npos && page.find('\0') != page.npos) outcomes.insert("torn");
    }
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"name kept", "name lost", "data kept", "data lost",
                                             "data mixed", "torn"}));
}

TEST(SimDisk, a_process_crash_keeps_what_was_written) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Machine m(seed);
    m.run(write_file(m.disk(), "x", text_of('b', 9000), false, false));
    m.machine.crash(CrashKind::kProcess);
    m.machine.boot();
    ASSERT_EQ(m.machine.disk().content("x"), text_of('b', 9000));
  }
}

Task<void> overwrite(Disk& disk, std::string path, uint64_t offset, std::string content) {
  FileId file = (co_await disk_io::open(disk, path, DiskOp::kOpenWrite)).value();
  SHOAL_ASSERT((co_await disk_io::write(disk, file, offset, as_bytes(content))).has_value());
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
}

Task<void> replace(Disk& disk, std::string path, std::string content) {
  SHOAL_ASSERT((co_await disk_io::replace_file(disk, path, content)).has_value());
}

TEST(SimDisk, replacing_a_file_is_atomic_at_any_point) {
  std::map<std::string, int> outcomes;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Machine m(seed);
    m.run(replace(m.disk(), "f", "old"));
    Gate* gate = &m.machine.own(std::make_unique<Gate>(m.machine.world().executor));
    ASSERT_TRUE(gate->spawn(replace(m.disk(), "f", "new!")));
    uint64_t steps = m.sim.random().below(25);
    for (uint64_t i = 0; i < steps && gate->count() > 0; ++i) m.sim.scheduler().step();
    bool ended = gate->count() == 0;
    m.power_loss();
    std::string left = m.machine.disk().content("f");
    ASSERT_TRUE(left == "old" || left == "new!") << left;
    if (ended) ASSERT_EQ(left, "new!");
    ++outcomes[left + (ended ? " ended" : " cut")];
  }
  EXPECT_EQ(outcomes.size(), 3u);  // old cut, new cut, new ended
}

// The mistake that the model is there to find: a rename before the data was synced.
Task<void> replace_without_sync(Disk& disk) {
  co_await write_file(disk, "f.new", "new content", false, false);
  SHOAL_ASSERT((co_await disk_io::rename(disk, "f.new", "f")).has_value());
  SHOAL_ASSERT((co_await disk_io::sync_directory(disk, "")).has_value());
}

TEST(SimDisk, finds_a_missing_sync) {
  int broken = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Machine m(seed);
    m.run(replace(m.disk(), "f", "old"));
    m.run(replace_without_sync(m.disk()));
    m.power_loss();
    std::string left = m.machine.disk().content("f");
    if (left != "old" && left != "new content") ++broken;
  }
  EXPECT_GT(broken, 20);
}

Task<void> concurrent_sync(Disk& disk, Gate& gate) {
  FileId file = (co_await disk_io::open(disk, "x", kCreate)).value();
  SHOAL_ASSERT((co_await disk_io::write(disk, file, 0, as_bytes("1"))).has_value());
  // The second write begins while the sync is on its way, so the sync does not cover it.
  gate.spawn(overwrite(disk, "x", 0, "2"));
  SHOAL_ASSERT((co_await disk_io::sync(disk, file)).has_value());
  SHOAL_ASSERT((co_await disk_io::sync_directory(disk, "")).has_value());
}

TEST(SimDisk, a_sync_covers_only_what_was_before_it) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SimDiskOptions slow;
    slow.sync_latency = std::chrono::milliseconds(50);
    Machine m(seed, slow);
    Gate* gate = &m.machine.own(std::make_unique<Gate>(m.machine.world().executor));
    m.run(concurrent_sync(m.disk(), *gate));
    m.power_loss();
    outcomes.insert(m.machine.disk().content("x"));
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"1", "2"}));
}

Task<void> file_operations(Disk& disk) {
  SHOAL_ASSERT((co_await disk_io::make_directory(disk, "d")).has_value());
  SHOAL_ASSERT((co_await disk_io::make_directory(disk, "d")).has_value());
  FileId file = (co_await disk_io::open(disk, "d/f", kCreate)).value();
  std::string content = text_of('x', 10000);
  SHOAL_ASSERT((co_await disk_io::write(disk, file, 5000, as_bytes(content))).has_value());
  EXPECT_EQ((co_await disk_io::stat(disk, file)).value().size, 15000u);
  EXPECT_EQ((co_await disk_io::stat(disk, file)).value().allocated, 3 * 4096u);
  SHOAL_ASSERT((co_await disk_io::punch(disk, file, 4096, 8192)).has_value());
  EXPECT_EQ((co_await disk_io::stat(disk, file)).value().allocated, 4096u);
  Buffer read(20000);
  EXPECT_EQ((co_await disk_io::read_some(disk, file, 0, read.span())).value(), 15000u);
  EXPECT_EQ(as_text(read.part(0, 12288)), text_of('\0', 12288));
  EXPECT_EQ(as_text(read.part(12288, 2712)), text_of('x', 2712));
  // Cut and grown again: zeros, not what was there.
  SHOAL_ASSERT((co_await disk_io::set_size(disk, file, 12300)).has_value());
  SHOAL_ASSERT((co_await disk_io::set_size(disk, file, 15000)).has_value());
  EXPECT_EQ((co_await disk_io::read_some(disk, file, 12288, read.span())).value(), 2712u);
  EXPECT_EQ(as_text(read.part(0, 2712)), text_of('x', 12) + text_of('\0', 2700));
  FileId other = (co_await disk_io::open(disk, "d/g", kCreate)).value();
  SHOAL_ASSERT((co_await disk_io::copy_range(disk, file, 12290, other, 1, 5)).has_value());
  EXPECT_EQ((co_await disk_io::read_some(disk, other, 0, read.span())).value(), 6u);
  EXPECT_EQ(as_text(read.part(1, 5)), "xxxxx");
  EXPECT_EQ((co_await disk_io::list(disk, "d")).value().size(), 2u);
  EXPECT_EQ((co_await disk_io::remove(disk, "d")).error().code(), Code::kNotEmpty);
  EXPECT_EQ((co_await disk_io::open(disk, "d/none", 0)).error().code(), Code::kNotFound);
  EXPECT_EQ((co_await disk_io::open(disk, "d/f", kCreate | DiskOp::kOpenExclusive)).error().code(),
            Code::kAlreadyExists);
  SHOAL_ASSERT((co_await disk_io::rename(disk, "d/f", "d/h")).has_value());
  SHOAL_ASSERT((co_await disk_io::remove(disk, "d/h")).has_value());
  // An unlinked file lives as long as it is open.
  EXPECT_EQ((co_await disk_io::read_some(disk, file, 0, read.span())).value(), 15000u);
  FileId lock = (co_await disk_io::lock(disk, "lock")).value();
  EXPECT_EQ((co_await disk_io::lock(disk, "lock")).error().code(), Code::kBusy);
  for (FileId id : {file, other, lock})
    SHOAL_ASSERT((co_await disk_io::close(disk, id)).has_value());
  FileId relocked = (co_await disk_io::lock(disk, "lock")).value();
  SHOAL_ASSERT((co_await disk_io::close(disk, relocked)).has_value());
  EXPECT_FALSE((co_await disk_io::write(disk, file, 0, as_bytes("x"))).has_value());
}

TEST(SimDisk, does_what_files_do) {
  Machine m;
  m.run(file_operations(m.disk()));
  EXPECT_EQ(m.machine.disk().used(), 8192u);  // the removal is not durable yet
  m.machine.disk().tree().sync_all();
  EXPECT_EQ(m.machine.disk().used(), 4096u);
}

Task<void> fill(Disk& disk, int& full) {
  FileId file = (co_await disk_io::open(disk, "x", kCreate)).value();
  std::string block = text_of('x', 4096);
  for (uint64_t i = 0; i < 20; ++i) {
    Status status = co_await disk_io::write(disk, file, i * 4096, as_bytes(block));
    if (!status) {
      EXPECT_EQ(status.error().code(), Code::kNoSpace);
      ++full;
    }
  }
  EXPECT_EQ((co_await disk_io::space(disk, "")).value().free, 0u);
  SHOAL_ASSERT((co_await disk_io::set_size(disk, file, 0)).has_value());
  EXPECT_EQ((co_await disk_io::space(disk, "")).value().free, 10 * 4096u);
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
}

TEST(SimDisk, gets_full) {
  SimDiskOptions options;
  options.capacity = 10 * 4096;
  Machine m(1, options);
  int full = 0;
  m.run(fill(m.disk(), full));
  EXPECT_EQ(full, 10);
}

Task<void> read_once(Disk& disk, Result<size_t>& count, std::string& content) {
  FileId file = (co_await disk_io::open(disk, "x", 0)).value();
  Buffer into(8192);
  count = co_await disk_io::read_some(disk, file, 0, into.span());
  if (count) content = as_text(into.part(0, *count));
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
}

TEST(SimDisk, fails_and_flips_bits_when_told) {
  Machine m;
  std::string written = text_of('x', 8192);
  m.run(write_file(m.disk(), "x", written, true, true));
  Result<size_t> count = 0;
  std::string content;
  m.machine.disk().options().faults.read_error = 1;
  m.run(read_once(m.disk(), count, content));
  ASSERT_FALSE(count);
  EXPECT_EQ(count.error().code(), Code::kDiskError);
  m.machine.disk().options().faults = {.bit_flip = 1};
  m.run(read_once(m.disk(), count, content));
  EXPECT_NE(content, written);
  m.machine.disk().options().faults = {};
  std::string again;
  m.run(read_once(m.disk(), count, again));
  EXPECT_EQ(again, content);  // it rotted at rest
}

Task<void> write_and_sync(Disk& disk, Status& status) {
  FileId file = (co_await disk_io::open(disk, "x", DiskOp::kOpenWrite)).value();
  SHOAL_ASSERT((co_await disk_io::write(disk, file, 0, as_bytes("new"))).has_value());
  status = co_await disk_io::sync(disk, file);
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
}
Task<void> only_sync(Disk& disk, Status& status) {
  FileId file = (co_await disk_io::open(disk, "x", DiskOp::kOpenWrite)).value();
  status = co_await disk_io::sync(disk, file);
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
}

TEST(SimDisk, a_failed_sync_is_not_healed_by_the_next) {
  Machine m;
  m.run(write_file(m.disk(), "x", "old", true, true));
  Status status;
  m.machine.disk().options().faults.sync_error = 1;
  m.run(write_and_sync(m.disk(), status));
  EXPECT_FALSE(status);
  m.machine.disk().options().faults.sync_error = 0;
  m.run(only_sync(m.disk(), status));
  EXPECT_TRUE(status);
  EXPECT_EQ(m.machine.disk().content("x"), "new");
  m.power_loss();
  EXPECT_EQ(m.machine.disk().content("x"), "old");
}

// Equal pages of several disks are one in memory, and changing one changes no other.
TEST(SimFile, equal_pages_are_held_once) {
  constexpr uint64_t kPages = 3000;
  auto pool = std::make_shared<SimPagePool>();
  auto space = std::make_shared<SimSpace>();
  space->pool = pool;
  std::string content(kPages * kSimPageBytes, '\0');
  for (size_t i = 0; i < content.size(); i += 8) std::memcpy(content.data() + i, &i, 8);
  std::vector<std::unique_ptr<SimFile>> files;
  for (int i = 0; i < 5; ++i) {
    files.push_back(std::make_unique<SimFile>(space));
    ASSERT_TRUE(files.back()->write(0, as_bytes(content)));
  }
  EXPECT_EQ(pool->size(), kPages);
  EXPECT_EQ(space->pages, 5 * kPages);
  ASSERT_TRUE(files[0]->write(10, as_bytes("x")));
  ASSERT_TRUE(files[1]->flip_bit(5000, 3));
  std::string got(content.size(), '\0');
  auto bytes_of = [&](size_t i) {
    EXPECT_EQ(files[i]->read(0, std::as_writable_bytes(std::span(got))), got.size());
    return got;
  };
  EXPECT_NE(bytes_of(0), content);
  EXPECT_NE(bytes_of(1), content);
  EXPECT_EQ(bytes_of(2), content);
  std::vector<SimPagePtr> pages;
  EXPECT_EQ(files[2]->read_pages(4000, 200, pages), 200u);
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_EQ(files[2]->read_pages(content.size() - 10, 200, pages), 10u);
  EXPECT_EQ(files[2]->read_pages(content.size(), 200, pages), 0u);
  // What no file has any more is forgotten.
  pages.clear();
  files.clear();
  for (uint64_t i = 0; i < 3; ++i) {
    SimFile other(space);
    for (char& c : content) c = static_cast<char>(c + 1);
    ASSERT_TRUE(other.write(0, as_bytes(content)));
  }
  EXPECT_LE(pool->size(), 2 * kPages);
}

Task<void> read_file(Disk& disk, std::string path, size_t size) {
  FileId file = (co_await disk_io::open(disk, path, 0)).value();
  Buffer into(size);
  SHOAL_ASSERT((co_await disk_io::read_exactly(disk, file, 0, into.span())).has_value());
  SHOAL_ASSERT((co_await disk_io::close(disk, file)).has_value());
}

TEST(SimDisk, reads_and_writes_have_rates_and_crumbs_have_none) {
  SimDiskOptions options;
  options.latency = options.sync_latency = Duration(0);
  options.free_bytes = 64 * kKiB;
  Machine m(1, options);
  m.machine.disk().set_rates(10 * kMiB, 40 * kMiB);
  auto seconds_of = [&](Task<void> task) {
    SteadyTime begun = m.sim.now();
    m.run(std::move(task));
    return to_seconds(m.sim.now() - begun);
  };
  EXPECT_NEAR(seconds_of(write_file(m.disk(), "a", text_of('a', 10 * kMiB), true, true)), 1, 0.01);
  EXPECT_NEAR(seconds_of(read_file(m.disk(), "a", 10 * kMiB)), 0.25, 0.01);
  EXPECT_EQ(seconds_of(write_file(m.disk(), "b", text_of('b', 64 * kKiB - 1), true, true)), 0);
  m.machine.disk().set_rates(10 * kMiB, 0);  // reads share the rate of writes
  EXPECT_NEAR(seconds_of(read_file(m.disk(), "a", 10 * kMiB)), 1, 0.01);
}

}  // namespace
}  // namespace shoal
