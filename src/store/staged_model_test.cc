// Staged files against std::string: random writes (of which half are over for their author as soon
// as they are accepted), truncations, zeros and syncs, with process crashes and power losses at
// random moments, in the middle of operations too.
#include <gtest/gtest.h>

#include "base/checksum.h"
#include "store/test_support.h"

namespace shoal {
namespace {

constexpr uint64_t kSizeMax = 600 * kKiB;

// What the file may look like after a crash: every state since the last sync that returned.
struct Model {
  std::string now;
  std::vector<std::string> since_sync;  // the first is the synced one
  bool synced_once = false;

  void change(std::string next) {
    now = std::move(next);
    since_sync.push_back(now);
  }
  void synced() {
    since_sync = {now};
    synced_once = true;
  }
  void check_survivor(const std::string& found) const {
    ASSERT_TRUE(synced_once);
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;
    for (const std::string& state : since_sync) {
      least = std::min<uint64_t>(least, state.size());
      most = std::max<uint64_t>(most, state.size());
    }
    ASSERT_GE(found.size(), least);
    ASSERT_LE(found.size(), most);
    if (since_sync.size() == 1) ASSERT_TRUE(found == since_sync[0]) << "synced bytes changed";
    for (size_t i = 0; i < found.size(); ++i) {
      bool known = false;
      for (const std::string& state : since_sync) {
        known = known || (i < state.size() ? state[i] : '\0') == found[i];
      }
      ASSERT_TRUE(known) << "byte " << i << " of " << found.size() << " is from nowhere";
    }
  }
};

struct Run {
  explicit Run(uint64_t seed) : m(seed), random(seed * 77 + 5) {}
  StoreMachine m;
  SeededRandom random;
  Model model;
  FileRef file;
  StagedRecord record = StoreMachine::record(1);

  uint64_t offset() {
    // Often at the end, at a piece's edge, or beyond.
    switch (random.below(5)) {
      case 0:
        return model.now.size();
      case 1:
        return std::min(kSizeMax, random.below(10) * kPieceBytes);
      case 2:
        return random.below(kSizeMax);
      default:
        return random.below(model.now.size() + 1);
    }
  }
  // The next operation and what it makes of the content.
  Task<Status> next(std::string& bytes, std::string& after) {
    after = model.now;
    uint64_t at = offset();
    switch (random.below(10)) {
      case 0: {
        uint64_t size = random.below(3) == 0 ? at : random.below(kSizeMax);
        after.resize(size, '\0');
        return file->set_size(size);
      }
      case 1: {
        uint64_t length = random.below(200 * kKiB);
        if (at < after.size()) {
          std::fill_n(after.begin() + static_cast<ptrdiff_t>(at),
                      std::min<uint64_t>(length, after.size() - at), '\0');
        }
        return file->zero({at, length});
      }
      case 2:
        return file->sync(record);
      default: {
        uint64_t length = random.below(2) == 0 ? random.below(3000) : random.below(150 * kKiB);
        bool direct = random.below(2) == 0;
        if (direct) at &= ~uint64_t{4095};
        bytes = pattern(length, random.next());
        if (length > 0 && after.size() < at + length) after.resize(at + length, '\0');
        if (length > 0) after.replace(at, length, bytes);
        if (!direct && random.below(2) == 0) {
          return m.answer_of(&m.start_write(*file, at, bytes));
        }
        if (!direct) return file->write(at, as_bytes(bytes));
        auto aligned = std::make_shared<Buffer>(Buffer::copy_of(as_bytes(bytes)));
        m.machine.process().owned.push_back(aligned);
        return file->write(at, aligned->span(), {}, CachedFile::Way::kDirect, {});
      }
    }
  }
};

void run_seed(uint64_t seed) {
  SCOPED_TRACE(seed);
  Run run(seed);
  StoreMachine& m = run.m;
  ASSERT_TRUE(m.open());
  run.file = m.run(m.store().create_staged(run.record)).value();
  for (int step = 0; step < 60; ++step) {
    auto bytes = std::make_shared<std::string>();  // a crashed write still points to them
    m.machine.process().owned.push_back(bytes);
    std::string after;
    bool crash = run.random.below(12) == 0;
    Task<Status> task = run.next(*bytes, after);
    bool is_sync = after == run.model.now && bytes->empty();
    std::optional<Status> done;
    if (crash) {
      done = m.run_for(std::move(task), std::chrono::microseconds(run.random.below(3000)));
    } else {
      done = m.run(std::move(task));
    }
    if (done) ASSERT_TRUE(*done) << done->error().to_string();
    if (after != run.model.now) run.model.change(after);
    // A no-op change and a sync look alike here; asking the store tells them apart.
    if (done && is_sync && run.random.below(2) == 0) {
      ASSERT_TRUE(m.run(run.file->sync(run.record)));
      run.model.synced();
      ASSERT_EQ(run.file->crc({0, run.model.now.size()}), crc32c(as_bytes(run.model.now)));
    }
    if (!crash) {
      ASSERT_EQ(run.file->size(), run.model.now.size());
      if (step % 5 == 0) ASSERT_TRUE(m.read_all(run.file).value() == run.model.now) << step;
      continue;
    }
    m.bury(std::move(run.file));
    m.crash(run.random.below(3) == 0 ? CrashKind::kProcess : CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    run.file = m.run(m.store().find_staged(run.record.write_id)).value();
    if (run.file == nullptr) {
      ASSERT_FALSE(run.model.synced_once) << "a synced version is gone";
      run.file = m.run(m.store().create_staged(run.record)).value();
      run.model = Model();
      continue;
    }
    auto found = m.read_all(run.file);
    ASSERT_TRUE(found) << found.error().to_string();
    if (run.model.synced_once) run.model.check_survivor(*found);
    run.model = Model();
    run.model.now = *found;
    ASSERT_TRUE(m.run(run.file->sync(run.record)));
    run.model.synced();
  }
  ASSERT_TRUE(m.run(run.file->sync(run.record)));
  run.file.reset();
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.open());
  run.file = m.run(m.store().find_staged(run.record.write_id)).value();
  ASSERT_TRUE(m.read_all(run.file).value() == run.model.now);
  uint64_t stored = run.file->allocated();
  ASSERT_EQ(m.store().stats().files_bytes, stored);
  ASSERT_TRUE(m.run(m.store().drop_staged(run.file)));
  run.file.reset();
  m.settle();
  ASSERT_EQ(m.store().stats().files_bytes, 0u);
  ASSERT_TRUE(m.close());
}

TEST(StagedModel, survives_crashes_at_any_moment) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    run_seed(seed);
    if (HasFatalFailure()) return;
  }
}

// Checksums that come with the bytes are believed, and found wrong when they are.
void expect_past_the_page_cache(uint64_t direct_block) {
  for (bool wrong : {false, true}) {
    SimDiskOptions disk;
    disk.direct_block = direct_block;
    StoreMachine m(1, disk);
    ASSERT_TRUE(m.open());
    Buffer bytes = Buffer::copy_of(as_bytes(pattern(kMiB + 5000, 6)));
    std::vector<uint32_t> crcs;
    for (uint64_t at = 0; at < bytes.size(); at += kPieceBytes) {
      crcs.push_back(crc32c(bytes.part(at, std::min(kPieceBytes, bytes.size() - at))));
    }
    if (wrong) ++crcs[3];
    StagedRecord record = m.record(1);
    FileRef file = m.run(m.store().create_staged(record)).value();
    ASSERT_TRUE(m.run(file->write(0, bytes.span(), crcs, CachedFile::Way::kDirect, {})));
    ASSERT_TRUE(m.run(file->sync(record)));
    m.bury(std::move(file));
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    file = m.run(m.store().find_staged(record.write_id)).value();
    Buffer into(bytes.size());
    Status read = m.run(file->read(0, into.span(), CachedFile::Way::kDirect));
    EXPECT_EQ(read.has_value(), !wrong);
    if (read) EXPECT_TRUE(std::ranges::equal(into.span(), bytes.span()));
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

TEST(Staged, bytes_go_past_the_page_cache) { expect_past_the_page_cache(4 * kKiB); }

TEST(Staged, bytes_go_through_the_page_cache_where_there_is_no_way_past_it) {
  expect_past_the_page_cache(0);
  expect_past_the_page_cache(8 * kKiB);  // of which 1 MiB + 4 KiB is no multiple
}

Task<Status> write_part(FileRef file, uint64_t offset, ConstByteSpan bytes) {
  co_return co_await file->write(offset, bytes);
}
Task<Status> sync_now(FileRef file, StagedRecord record) { co_return co_await file->sync(record); }

// Disjoint writes in flight together, in the simulator's random order, syncs among them.
TEST(StagedModel, concurrent_writes_end_up_where_they_belong) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    StoreMachine m(seed);
    ASSERT_TRUE(m.open());
    SeededRandom random(seed);
    StagedRecord record = m.record(1);
    FileRef file = m.run(m.store().create_staged(record)).value();
    std::string bytes = pattern(kMiB + 999, seed);
    std::vector<Task<Status>> tasks;
    for (uint64_t at = 0; at < bytes.size();) {
      uint64_t length = std::min<uint64_t>(1 + random.below(50000), bytes.size() - at);
      tasks.push_back(write_part(file, at, as_bytes(bytes).subspan(at, length)));
      if (random.below(8) == 0) tasks.push_back(sync_now(file, record));
      at += length;
    }
    ASSERT_TRUE(m.run(run_all(m.machine.world().executor, std::move(tasks), 12)));
    ASSERT_TRUE(m.read_all(file).value() == bytes);
    ASSERT_TRUE(m.run(file->sync(record)));
    ASSERT_EQ(file->crc({0, bytes.size()}), crc32c(as_bytes(bytes)));
    m.bury(std::move(file));
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    file = m.run(m.store().find_staged(record.write_id)).value();
    ASSERT_TRUE(m.read_all(file).value() == bytes);
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

// Editing a cached version with pieces missing: what the base holds must not be lost or invented.
TEST(StagedModel, a_partly_cached_base_keeps_its_holes) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    StoreMachine m(seed);
    ASSERT_TRUE(m.open());
    SeededRandom random(seed);
    std::string base = pattern(kMiB, seed);
    std::string now = base;
    FileRef file = m.open_file("o", "e", base.size());
    for (uint64_t i = 0; i < 16; ++i) {
      if (random.below(2) == 0) continue;
      ASSERT_TRUE(
          m.run(file->fill(i * kPieceBytes, as_bytes(base).subspan(i * kPieceBytes, kPieceBytes))));
    }
    StagedRecord record = m.record(1, "o", "e");
    ASSERT_TRUE(m.run(m.store().convert_to_staged(file, record)));
    for (int round = 0; round < 4; ++round) {
      uint64_t i = random.below(16);
      std::string piece = pattern(kPieceBytes, random.next());
      ASSERT_TRUE(m.run(file->write(i * kPieceBytes, as_bytes(piece))));
      now.replace(i * kPieceBytes, kPieceBytes, piece);
      ASSERT_TRUE(m.run(file->sync(record)));
    }
    // One more change, and the power goes while it is synced.
    uint64_t last = random.below(16);
    auto piece = std::make_shared<std::string>(pattern(kPieceBytes, random.next()));
    m.machine.process().owned.push_back(piece);
    ASSERT_TRUE(m.run(file->write(last * kPieceBytes, as_bytes(*piece))));
    (void)m.run_for(file->sync(record), std::chrono::microseconds(random.below(2500)));
    m.bury(std::move(file));
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    ASSERT_EQ(m.store().staged().size(), 1u);
    file = m.run(m.store().find_staged(record.write_id)).value();
    Range changed{last * kPieceBytes, kPieceBytes};
    if (file->missing(changed).empty()) {  // old, new or mixed: all are right
      std::string found = m.read(file, changed.offset, changed.length).value();
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_TRUE(found[i] == now[changed.offset + i] || found[i] == (*piece)[i]) << i;
      }
      now.replace(changed.offset, changed.length, found);
    }
    for (uint64_t i = 0; i < 16; ++i) {
      Range range{i * kPieceBytes, kPieceBytes};
      if (!file->missing(range).empty()) {
        ASSERT_EQ(now.substr(range.offset, range.length), base.substr(range.offset, range.length));
        ASSERT_TRUE(
            m.run(file->fill(range.offset, as_bytes(base).subspan(range.offset, range.length))));
      }
    }
    ASSERT_TRUE(m.read_all(file).value() == now);
    ASSERT_TRUE(m.run(file->sync(record)));
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

}  // namespace
}  // namespace shoal
