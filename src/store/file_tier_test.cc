#include <gtest/gtest.h>

#include "async/disk_io.h"
#include "base/checksum.h"
#include "store/internal/meta_format.h"
#include "store/test_support.h"

namespace shoal {
namespace {

TEST(FileTier, fills_and_reads_by_piece) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(300 * kKiB + 123, 1);
  FileRef file = m.open_file("a/b", "e1", bytes.size());
  EXPECT_FALSE(file->complete());
  EXPECT_EQ(file->missing({0, bytes.size()}), (std::vector<Range>{{0, bytes.size()}}));
  ASSERT_TRUE(m.run(file->fill(64 * kKiB, as_bytes(bytes).subspan(64 * kKiB, 64 * kKiB))));
  EXPECT_EQ(file->missing({0, bytes.size()}),
            (std::vector<Range>{{0, 64 * kKiB}, {128 * kKiB, bytes.size() - 128 * kKiB}}));
  EXPECT_EQ(m.read(file, 70000, 5000).value(), bytes.substr(70000, 5000));
  EXPECT_EQ(code_of(m.read(file, 0, 10)), Code::kCorrupt);
  EXPECT_EQ(code_of(m.read(file, bytes.size(), 1)), Code::kInvalidArgument);
  EXPECT_EQ(code_of(m.run(file->fill(1, as_bytes(bytes).first(64 * kKiB)))),
            Code::kInvalidArgument);
  ASSERT_TRUE(m.run(file->fill(0, as_bytes(bytes))));
  EXPECT_TRUE(file->complete());
  EXPECT_TRUE(file->vouched());
  EXPECT_EQ(m.read_all(file).value(), bytes);
  EXPECT_EQ(m.store().cached_bytes("a/b", "e1"), bytes.size());
  EXPECT_EQ(code_of(m.run(file->write(0, as_bytes(bytes)))), Code::kInvalidArgument);
  EXPECT_EQ(m.run(m.store().find_file("a/b", "e2")).value(), nullptr);
  file.reset();
  m.settle();
  file = m.run(m.store().find_file("a/b", "e1")).value();
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(file->vouched());
  EXPECT_EQ(m.read_all(file).value(), bytes);
  file.reset();
  EXPECT_TRUE(m.close());
}

// From the moment on when the bytes are said to be there.
Task<Status> read_once_present(Executor& executor, FileRef file, uint64_t offset,
                               std::string& into) {
  while (!file->missing({offset, into.size()}).empty()) {
    SHOAL_CO_RETURN_IF_ERROR(co_await sleep_for(executor, std::chrono::microseconds(1), {}));
  }
  co_return co_await file->read(offset, std::as_writable_bytes(std::span(into)));
}

TEST(FileTier, read_waits_for_a_write_of_the_same_bytes) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  m.machine.disk().set_rates(1'000'000'000, 10'000'000'000);  // reads overtake writes
  StagedRecord record = m.record(1, "dir/o", "e");
  record.partial = true;
  FileRef file = m.run(m.store().create_staged(std::move(record))).value();
  ASSERT_TRUE(m.run(file->set_size(16 * kMiB)));
  std::string bytes = pattern(4 * kMiB, 5);
  std::string got(kPieceBytes, '?');
  std::vector<Task<Status>> tasks;
  tasks.push_back(file->write(8 * kMiB, as_bytes(bytes)));
  tasks.push_back(read_once_present(m.machine.world().executor, file, 8 * kMiB, got));
  ASSERT_TRUE(m.run(run_all(m.machine.world().executor, std::move(tasks), 2)));
  EXPECT_TRUE(got == bytes.substr(0, kPieceBytes)) << "a hole was read";
  file.reset();
  EXPECT_TRUE(m.close());
}

TEST(FileTier, stays_open_for_a_while_after_its_last_use) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  m.cache("a", "e", pattern(9 * kMiB, 3));
  auto operations_of_a_find = [&m] {
    uint64_t before = m.machine.disk().operations();
    EXPECT_NE(m.run(m.store().find_file("a", "e")).value(), nullptr);
    return m.machine.disk().operations() - before;
  };
  m.sim.run_for(std::chrono::seconds(1));
  EXPECT_EQ(operations_of_a_find(), 0);
  m.settle();
  EXPECT_GT(operations_of_a_find(), 0) << "its table was still in memory";
  // The last used ones stay, not all.
  for (int i = 0; i < 20; ++i) m.cache("b" + std::to_string(i), "e", pattern(kMiB, 4));
  m.sim.run_for(std::chrono::seconds(1));
  EXPECT_GT(operations_of_a_find(), 0);
  // Who is not in use can be removed at once.
  EXPECT_EQ(m.run(m.store().evict("a", false)).value(), 9 * kMiB);
  EXPECT_TRUE(m.close());
}

TEST(FileTier, restart_is_warm_and_vouched) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(9 * kMiB + 5, 2);
  m.cache("x", "e", bytes);
  ASSERT_TRUE(m.close());
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(m.open());
    FileRef file = m.run(m.store().find_file("x", "e")).value();
    ASSERT_NE(file, nullptr);
    EXPECT_TRUE(file->complete());
    EXPECT_TRUE(file->vouched());
    EXPECT_EQ(m.read_all(file).value(), bytes);
    EXPECT_EQ(m.store().stats().files_bytes, 145 * kPieceBytes);
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

TEST(FileTier, unclean_restart_checks_pieces_before_vouching) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(kMiB, 3);
  m.cache("x", "e", bytes);
  m.settle();
  m.crash(CrashKind::kProcess);
  ASSERT_TRUE(m.open());
  FileRef file = m.run(m.store().find_file("x", "e")).value();
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(file->complete());
  EXPECT_FALSE(file->vouched());
  EXPECT_TRUE(m.run(file->verify()));
  EXPECT_TRUE(file->vouched());
  EXPECT_EQ(m.store().stats().corrupt_pieces, 0u);
  file.reset();
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.open());  // and what was checked is vouched for
  file = m.run(m.store().find_file("x", "e")).value();
  EXPECT_TRUE(file->vouched());
  file.reset();
  ASSERT_TRUE(m.close());
}

TEST(FileTier, power_loss_never_shows_wrong_clean_bytes) {
  uint64_t dropped = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    StoreMachine m(seed);
    ASSERT_TRUE(m.open());
    std::string bytes = pattern(2 * kMiB + 77, seed);
    m.cache("x", "e", bytes);
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    FileRef file = m.run(m.store().find_file("x", "e")).value();
    if (file == nullptr) {
      ++dropped;
      ASSERT_TRUE(m.close());
      continue;
    }
    for (uint64_t at = 0; at < bytes.size(); at += kPieceBytes) {
      uint64_t length = std::min(kPieceBytes, bytes.size() - at);
      if (!file->missing({at, length}).empty()) continue;
      auto got = m.read(file, at, length);
      if (got) {
        EXPECT_EQ(*got, bytes.substr(at, length));
      } else {
        EXPECT_EQ(got.error().code(), Code::kCorrupt);
        EXPECT_FALSE(file->missing({at, length}).empty());
      }
    }
    ASSERT_TRUE(m.run(file->fill(0, as_bytes(bytes))));
    EXPECT_EQ(m.read_all(file).value(), bytes);
    file.reset();
    ASSERT_TRUE(m.close());
  }
  EXPECT_LT(dropped, 30u);
}

TEST(FileTier, a_flipped_bit_is_a_counted_miss) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(kMiB, 4);
  m.cache("x", "e", bytes);
  m.settle();
  m.crash(CrashKind::kProcess);
  ASSERT_TRUE(m.machine.disk().file(m.files(".data").at(0))->flip_bit(200000, 3));
  ASSERT_TRUE(m.open());
  FileRef file = m.run(m.store().find_file("x", "e")).value();
  EXPECT_EQ(m.read(file, 0, 1000).value(), bytes.substr(0, 1000));
  EXPECT_EQ(code_of(m.read_all(file)), Code::kCorrupt);
  EXPECT_EQ(file->missing({0, kMiB}), (std::vector<Range>{{3 * kPieceBytes, kPieceBytes}}));
  EXPECT_EQ(m.store().stats().corrupt_pieces, 1u);
  ASSERT_TRUE(
      m.run(file->fill(3 * kPieceBytes, as_bytes(bytes).subspan(3 * kPieceBytes, kPieceBytes))));
  EXPECT_EQ(m.read_all(file).value(), bytes);
  file.reset();
  ASSERT_TRUE(m.close());
}

TEST(FileTier, damaged_meta_of_a_clean_file_is_a_miss) {
  for (uint64_t at : {0ull, 20ull, 60ull, 32768ull + 8, 32768ull + 100}) {
    StoreMachine m;
    ASSERT_TRUE(m.open());
    std::string bytes = pattern(kMiB, 5);
    m.cache("x", "e", bytes);
    m.settle();
    m.crash(CrashKind::kProcess);
    SimFile* meta = m.machine.disk().file(m.files(".meta").at(0));
    ASSERT_TRUE(meta->flip_bit(at, 1)) << at;
    ASSERT_TRUE(m.open());
    FileRef file = m.open_file("x", "e", bytes.size());
    EXPECT_FALSE(file->complete());
    ASSERT_TRUE(m.run(file->fill(0, as_bytes(bytes))));
    EXPECT_EQ(m.read_all(file).value(), bytes);
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

TEST(FileTier, truncated_meta_and_lost_data_are_misses) {
  for (bool meta : {true, false}) {
    StoreMachine m;
    ASSERT_TRUE(m.open());
    m.cache("x", "e", pattern(kMiB, 5));
    m.settle();
    m.crash(CrashKind::kProcess);
    SimFile* file = m.machine.disk().file(m.files(meta ? ".meta" : ".data").at(0));
    file->set_size(meta ? 100 : 1000);
    ASSERT_TRUE(m.open());
    FileRef found = m.run(m.store().find_file("x", "e")).value();
    if (meta) {
      EXPECT_EQ(found, nullptr);
      EXPECT_TRUE(m.files(".data").empty());
    } else {
      EXPECT_EQ(code_of(m.run(found->verify())), Code::kCorrupt);
      EXPECT_EQ(found->missing({0, kMiB}).size(), 1u);
    }
    found.reset();
    ASSERT_TRUE(m.close());
  }
}

// --- staged ---

TEST(FileTier, a_synced_staged_version_survives_power_loss) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    StoreMachine m(seed);
    ASSERT_TRUE(m.open());
    std::string bytes = pattern(kMiB + 12345, seed);
    FileRef file = m.run(m.store().create_staged(m.record(seed))).value();
    for (uint64_t at = 0; at < bytes.size(); at += 100000) {
      uint64_t length = std::min<uint64_t>(100000, bytes.size() - at);
      ASSERT_TRUE(m.run(file->write(at, as_bytes(bytes).subspan(at, length))));
    }
    StagedRecord record = m.record(seed);
    record.sealed = true;
    ASSERT_TRUE(m.run(file->sync(record)));
    EXPECT_EQ(file->crc({0, bytes.size()}), crc32c(as_bytes(bytes)));
    EXPECT_EQ(file->record().size, bytes.size());
    EXPECT_EQ(code_of(m.run(file->write(0, as_bytes(bytes).first(5)))), Code::kInvalidArgument);
    m.bury(std::move(file));
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    auto staged = m.store().staged();
    ASSERT_EQ(staged.size(), 1u);
    EXPECT_EQ(staged[0].record.object, "dir/o");
    EXPECT_EQ(staged[0].record.size, bytes.size());
    EXPECT_TRUE(staged[0].record.sealed);
    EXPECT_EQ(staged[0].record.metadata.at("mode"), "33188");
    file = m.run(m.store().find_staged(record.write_id)).value();
    EXPECT_EQ(m.read_all(file).value(), bytes);
    EXPECT_TRUE(m.run(file->verify()));
    EXPECT_EQ(file->crc({0, bytes.size()}), crc32c(as_bytes(bytes)));
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

TEST(FileTier, a_staged_version_never_synced_is_forgotten) {
  for (CrashKind kind : {CrashKind::kProcess, CrashKind::kPowerLoss}) {
    StoreMachine m;
    ASSERT_TRUE(m.open());
    FileRef file = m.run(m.store().create_staged(m.record(1))).value();
    ASSERT_TRUE(m.run(file->write(0, as_bytes("hello"))));
    m.bury(std::move(file));
    m.crash(kind);
    ASSERT_TRUE(m.open());
    EXPECT_TRUE(m.store().staged().empty());
    EXPECT_TRUE(m.files("").empty());
    EXPECT_EQ(m.store().stats().files_bytes, 0u);
    ASSERT_TRUE(m.close());
  }
}

// Begun while a large file is written, so that the sync at close finds little left.
TEST(FileTier, an_early_sync_that_fails_is_not_forgotten) {
  for (bool fails : {false, true}) {
    StoreMachine m;
    ASSERT_TRUE(m.open());
    FileRef file = m.run(m.store().create_staged(m.record(1, "dir/o", ""))).value();
    std::string bytes = pattern(8 * kMiB, 5);
    if (fails) m.machine.disk().options().faults.sync_error = 1;
    for (uint64_t at = 0; at < 40 * kMiB; at += bytes.size()) {
      ASSERT_TRUE(m.run(file->write(at, as_bytes(bytes))));
    }
    m.machine.disk().options().faults = {};
    Status synced = m.run(file->sync(m.record(1, "dir/o", "")));
    EXPECT_EQ(synced.has_value(), !fails) << "what was lost counts as synced";
    file.reset();
    EXPECT_TRUE(m.close());
  }
}

TEST(FileTier, damaged_staged_bytes_are_never_dropped_nor_read) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(kMiB, 6);
  FileRef file = m.run(m.store().create_staged(m.record(1))).value();
  ASSERT_TRUE(m.run(file->write(0, as_bytes(bytes))));
  ASSERT_TRUE(m.run(file->sync(m.record(1))));
  file.reset();
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.machine.disk().file(m.files(".data").at(0))->flip_bit(70000, 0));
  ASSERT_TRUE(m.open());
  file = m.run(m.store().find_staged(m.record(1).write_id)).value();
  EXPECT_EQ(code_of(m.read(file, 65536, 10)), Code::kCorrupt);
  EXPECT_EQ(code_of(m.read(file, 65536, 10)), Code::kCorrupt);
  EXPECT_EQ(code_of(m.run(file->write(70001, as_bytes("x")))), Code::kCorrupt);
  EXPECT_EQ(m.read(file, 0, 65536).value(), bytes.substr(0, 65536));
  file.reset();
  ASSERT_TRUE(m.close());
}

TEST(FileTier, a_staged_file_with_a_damaged_header_is_moved_away) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  FileRef file = m.run(m.store().create_staged(m.record(1))).value();
  ASSERT_TRUE(m.run(file->write(0, as_bytes("precious"))));
  ASSERT_TRUE(m.run(file->sync(m.record(1))));
  file.reset();
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.machine.disk().file(m.files(".staged").at(0))->flip_bit(40, 0));
  ASSERT_TRUE(m.open());
  EXPECT_TRUE(m.store().staged().empty());
  auto lost = m.machine.disk().tree().find("/cache/lost");
  ASSERT_NE(lost, nullptr);
  EXPECT_EQ(lost->seen.size(), 2u);
  ASSERT_TRUE(m.close());
}

TEST(FileTier, converts_commits_clones_and_drops) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(kMiB, 7);
  FileRef file = m.open_file("o", "e1", bytes.size());
  ASSERT_TRUE(m.run(file->fill(0, as_bytes(bytes).first(512 * kKiB))));
  StagedRecord record = m.record(1, "o", "e1");
  ASSERT_TRUE(m.run(m.store().convert_to_staged(file, record)));
  EXPECT_TRUE(file->staged());
  EXPECT_EQ(file->missing({0, kMiB}), (std::vector<Range>{{512 * kKiB, 512 * kKiB}}));
  EXPECT_EQ(code_of(m.run(file->write(600 * kKiB, as_bytes("x")))), Code::kInternal);
  ASSERT_TRUE(m.run(file->fill(512 * kKiB, as_bytes(bytes).subspan(512 * kKiB))));
  ASSERT_TRUE(m.run(file->write(600 * kKiB, as_bytes("edited"))));
  bytes.replace(600 * kKiB, 6, "edited");
  ASSERT_TRUE(m.run(file->sync(record)));

  FileRef copy = m.run(m.store().clone_staged(file, m.record(2, "o2"))).value();
  ASSERT_TRUE(m.run(copy->write(0, as_bytes("copy"))));
  ASSERT_TRUE(m.run(copy->sync(m.record(2, "o2"))));
  EXPECT_EQ(m.read_all(file).value(), bytes);
  EXPECT_EQ(m.read_all(copy).value(), "copy" + bytes.substr(4));
  EXPECT_EQ(m.store().staged().size(), 2u);

  ASSERT_TRUE(m.run(m.store().commit_staged(file, "e2")));
  EXPECT_FALSE(file->staged());
  EXPECT_EQ(file->version(), "e2");
  EXPECT_EQ(m.run(m.store().find_file("o", "e2")).value(), file);
  ASSERT_TRUE(m.run(m.store().drop_staged(copy)));
  EXPECT_EQ(m.read(copy, 0, 4).value(), "copy");
  EXPECT_TRUE(m.store().staged().empty());
  copy.reset();
  file.reset();
  m.settle();
  EXPECT_EQ(m.files(".data").size(), 1u);
  m.crash(CrashKind::kPowerLoss);
  ASSERT_TRUE(m.open());
  // The commit was not synced: either state is right, with the same bytes.
  auto staged = m.store().staged();
  file = staged.empty() ? m.run(m.store().find_file("o", "e2")).value()
                        : m.run(m.store().find_staged(record.write_id)).value();
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(m.read_all(file).value(), bytes);
  file.reset();
  ASSERT_TRUE(m.close());
}

TEST(FileTier, a_converted_version_in_use_is_refused) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  m.cache("o", "e1", pattern(kMiB, 7));
  FileRef one = m.run(m.store().find_file("o", "e1")).value();
  FileRef two = m.run(m.store().find_file("o", "e1")).value();
  EXPECT_EQ(code_of(m.run(m.store().convert_to_staged(one, m.record(1, "o", "e1")))), Code::kBusy);
  two.reset();
  one->hold();
  EXPECT_EQ(code_of(m.run(m.store().convert_to_staged(one, m.record(1, "o", "e1")))), Code::kBusy);
  one->unhold();
  EXPECT_TRUE(m.run(m.store().convert_to_staged(one, m.record(1, "o", "e1"))));
  one.reset();
  ASSERT_TRUE(m.close());
}

TEST(FileTier, zero_allocate_and_seek) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(kMiB, 8);
  FileRef file = m.run(m.store().create_staged(m.record(1))).value();
  ASSERT_TRUE(m.run(file->write(0, as_bytes(bytes))));
  ASSERT_TRUE(m.run(file->zero({100000, 300000})));
  std::fill_n(bytes.begin() + 100000, 300000, '\0');
  EXPECT_EQ(m.read_all(file).value(), bytes);
  EXPECT_EQ(file->allocated(), 12 * kPieceBytes);
  EXPECT_EQ(m.run(file->seek(0, false)).value(), 2 * kPieceBytes);
  EXPECT_EQ(m.run(file->seek(2 * kPieceBytes, true)).value(), 6 * kPieceBytes);
  ASSERT_TRUE(m.run(file->set_size(3 * kMiB)));
  bytes.resize(3 * kMiB);
  EXPECT_EQ(m.run(file->seek(kMiB, true)).value(), 3 * kMiB);
  uint64_t before = m.store().stats().files_bytes;
  ASSERT_TRUE(m.run(file->allocate({0, 4 * kMiB})));
  EXPECT_EQ(m.store().stats().files_bytes, before + 4 * kMiB - 12 * kPieceBytes);
  ASSERT_TRUE(m.run(file->write(2 * kMiB, as_bytes("x"))));
  bytes[2 * kMiB] = 'x';
  EXPECT_EQ(m.store().stats().files_bytes, before + 4 * kMiB - 12 * kPieceBytes);
  ASSERT_TRUE(m.run(file->sync(m.record(1))));
  EXPECT_EQ(file->crc({0, bytes.size()}), crc32c(as_bytes(bytes)));
  ASSERT_TRUE(m.run(m.store().drop_staged(file)));
  file.reset();
  m.settle();
  EXPECT_EQ(m.store().stats().files_bytes, 0u);
  EXPECT_TRUE(m.files("").empty());
  ASSERT_TRUE(m.close());
}

// --- space ---

TEST(FileTier, evicts_by_chunk_and_never_exceeds_its_budget) {
  StoreMachine m;
  m.options.capacity = 128 * kMiB;  // 64 MiB for files
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(8 * kMiB, 9);
  for (int i = 0; i < 40; ++i) {
    FileRef file = m.open_file("f" + std::to_string(i / 2), "e", 16 * kMiB);
    ASSERT_TRUE(m.run(file->fill(static_cast<uint64_t>(i % 2) * 8 * kMiB, as_bytes(bytes))));
    EXPECT_LE(m.store().stats().files_bytes, 64 * kMiB);
    EXPECT_LE(m.machine.disk().used(), 68 * kMiB);
    // The first one is read all the time and stays.
    FileRef first = m.run(m.store().find_file("f0", "e")).value();
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(m.read(first, 5, 10).value(), bytes.substr(5, 10));
  }
  EXPECT_EQ(m.store().stats().evicted_bytes, 32 * 8 * kMiB);
  EXPECT_EQ(m.store().cached_bytes("f1", "e"), 0u);
  EXPECT_EQ(m.store().cached_bytes("f19", "e"), 16 * kMiB);
  m.settle();
  EXPECT_LE(m.files(".data").size(), 6u);
  ASSERT_TRUE(m.close());
}

TEST(FileTier, pins_holds_and_staged_bytes_are_not_evicted) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(8 * kMiB, 10);
  ASSERT_TRUE(m.run(m.store().set_pins({"keep/this"})));
  for (int i = 0; i < 3; ++i) m.cache("keep/this/" + std::to_string(i), "e", bytes);
  FileRef held = m.open_file("held", "e", 16 * kMiB);
  ASSERT_TRUE(m.run(held->fill(0, as_bytes(bytes))));
  ASSERT_TRUE(m.run(held->fill(8 * kMiB, as_bytes(bytes))));
  held->hold();
  FileRef staged = m.run(m.store().create_staged(m.record(1))).value();
  ASSERT_TRUE(m.run(staged->write(0, as_bytes(bytes))));
  ASSERT_TRUE(m.run(staged->write(8 * kMiB, as_bytes(bytes))));
  for (int i = 0; i < 5; ++i) m.cache("others" + std::to_string(i), "e", bytes);
  EXPECT_TRUE(held->complete());
  EXPECT_EQ(m.store().cached_bytes("keep/this/0", "e"), 8 * kMiB);
  ASSERT_TRUE(m.run(staged->write(16 * kMiB, as_bytes(bytes))));  // evicts the last of the others
  Status full = m.run(staged->write(24 * kMiB, as_bytes(bytes)));
  EXPECT_EQ(code_of(full), Code::kNoSpace);
  EXPECT_NE(full.error().message().find("--cache-size"), std::string::npos);
  held->unhold();
  ASSERT_TRUE(m.run(staged->write(24 * kMiB, as_bytes(bytes))));
  held.reset();
  staged.reset();
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.open());
  EXPECT_EQ(m.store().pins(), std::vector<std::string>{"keep/this"});
  ASSERT_TRUE(m.close());
}

TEST(FileTier, a_full_disk_is_no_space_and_later_writes_work) {
  SimDiskOptions disk;
  disk.capacity = 40 * kMiB;
  StoreMachine m(1, disk);
  m.options.disk_reserve = 8 * kMiB;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(8 * kMiB, 11);
  FileRef staged = m.run(m.store().create_staged(m.record(1))).value();
  Status status;
  uint64_t at = 0;
  while (status && at < 64 * kMiB) {
    m.sim.run_for(std::chrono::seconds(3));
    status = m.run(staged->write(at, as_bytes(bytes)));
    if (status) at += bytes.size();
  }
  EXPECT_EQ(code_of(status), Code::kNoSpace);
  EXPECT_EQ(staged->size(), at);
  m.machine.disk().set_capacity(kGiB);
  m.sim.run_for(std::chrono::seconds(3));
  ASSERT_TRUE(m.run(staged->write(at, as_bytes(bytes))));
  EXPECT_EQ(m.read(staged, at, bytes.size()).value(), bytes);
  EXPECT_TRUE(m.run(staged->sync(m.record(1))));
  staged.reset();
  ASSERT_TRUE(m.close());
}

TEST(FileTier, evicts_by_name_and_renames) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  std::string bytes = pattern(kMiB, 12);
  for (const char* name : {"a", "a/x", "a/y/z", "ab"}) m.cache(name, "e", bytes);
  m.settle();
  ASSERT_TRUE(m.run(m.store().rekey("a/x", "e", "b", "e2")));
  EXPECT_EQ(m.store().cached_bytes("a/x", "e"), 0u);
  EXPECT_EQ(m.store().cached_bytes("b", "e2"), kMiB);
  EXPECT_EQ(m.run(m.store().evict("a", true)).value(), kMiB);
  EXPECT_EQ(m.store().cached_bytes("a", "e"), kMiB);
  EXPECT_EQ(m.run(m.store().evict("a", false)).value(), kMiB);
  EXPECT_EQ(m.store().cached_bytes("ab", "e"), kMiB);
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.open());
  FileRef file = m.run(m.store().find_file("b", "e2")).value();
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(m.read_all(file).value(), bytes);
  FileRef other = m.run(m.store().find_file("ab", "e")).value();
  EXPECT_EQ(m.run(m.store().evict("", true)).value(), 0u);  // both in use
  EXPECT_EQ(m.read_all(other).value(), bytes);
  file.reset();
  other.reset();
  m.settle();
  EXPECT_EQ(m.store().stats().files_bytes, 0u);
  EXPECT_TRUE(m.files("").empty());
  ASSERT_TRUE(m.close());
}

// --- the directory ---

TEST(Store, refuses_what_is_not_its_own) {
  StoreMachine m;
  ASSERT_TRUE(m.open());
  StoreMachine* self = &m;
  auto second = m.run(Store::open(self->machine.world(), m.registry, m.log, m.options));
  EXPECT_EQ(code_of(second), Code::kBusy);
  ASSERT_TRUE(m.close());
  m.options.identity = "az://account/other";
  Status other = m.open();
  EXPECT_EQ(code_of(other), Code::kInvalidArgument);
  EXPECT_NE(other.error().message().find("az://account/container"), std::string::npos);
  EXPECT_NE(other.error().message().find("az://account/other"), std::string::npos);
  m.options.identity = "az://account/container";
  m.options.directory = "/";  // holds "cache"
  EXPECT_EQ(code_of(m.open()), Code::kInvalidArgument);
  m.options.directory = "/deep/er/cache";
  EXPECT_TRUE(m.open());
  ASSERT_TRUE(m.close());
  m.options.capacity = kMiB;
  EXPECT_EQ(code_of(m.open()), Code::kInvalidArgument);
}

TEST(ReadView, covers_only_what_was_set) {
  ReadView view(3, 100 * kMiB);
  EXPECT_FALSE(view.covers(0, 1));
  for (uint64_t i = 0; i < 1500; ++i) view.set_present(i, true);
  EXPECT_TRUE(view.covers(0, 1500 * kPieceBytes));
  EXPECT_FALSE(view.covers(0, 1500 * kPieceBytes + 1));
  EXPECT_TRUE(view.covers(100 * kMiB, 5));
  uint64_t epoch = view.epoch();
  view.set_present(700, false);
  EXPECT_GT(view.epoch(), epoch);
  EXPECT_FALSE(view.covers(699 * kPieceBytes, 2 * kPieceBytes));
  EXPECT_TRUE(view.covers(701 * kPieceBytes, 10 * kPieceBytes));
  view.set_size(701 * kPieceBytes);
  EXPECT_TRUE(view.covers(701 * kPieceBytes, 1));
}

}  // namespace
}  // namespace shoal
