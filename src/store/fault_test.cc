// A disk that fails now and then: errors are answers, no byte is wrong, and when the disk is well
// again so is the store.
#include <gtest/gtest.h>

#include "store/test_support.h"

namespace shoal {
namespace {

SimDiskFaults some_faults() {
  SimDiskFaults faults;
  faults.read_error = 0.01;
  faults.write_error = 0.03;
  faults.slow = 0.01;
  return faults;
}

bool is_fair(const Status& status) {
  return status || status.error().code() == Code::kDiskError ||
         status.error().code() == Code::kCorrupt || status.error().code() == Code::kNoSpace ||
         status.error().code() == Code::kNotFound;
}

TEST(Faults, clean_files) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    StoreMachine m(seed);
    ASSERT_TRUE(m.open());
    m.machine.disk().options().faults = some_faults();
    m.machine.disk().options().faults.bit_flip = seed % 2 == 0 ? 0.001 : 0;
    SeededRandom random(seed);
    for (int step = 0; step < 150; ++step) {
      uint64_t number = random.below(30);
      std::string bytes = pattern(300 * kKiB + number * 100 * kKiB, number);
      auto opened = m.run(m.store().open_file("f" + std::to_string(number), "e", bytes.size()));
      if (!opened) continue;
      const FileRef& file = *opened;
      Status filled = m.run(file->fill(0, as_bytes(bytes)));
      ASSERT_TRUE(is_fair(filled)) << filled.error().to_string();
      uint64_t at = random.below(bytes.size());
      auto got = m.read(file, at, std::min<uint64_t>(100000, bytes.size() - at));
      // A vouched piece is not checked again, so a flipped bit may show; nothing else may.
      if (got && m.machine.disk().options().faults.bit_flip == 0) {
        ASSERT_EQ(*got, bytes.substr(at, got->size()));
      }
    }
    m.machine.disk().options().faults = {};
    m.settle();
    (void)m.run(m.store().evict("", true));
    m.settle();
    EXPECT_EQ(m.store().stats().files_bytes, 0u);
    EXPECT_TRUE(m.close());
  }
}

TEST(Faults, staged_files) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    StoreMachine m(seed);
    ASSERT_TRUE(m.open());
    SeededRandom random(seed);
    FileRef file = m.run(m.store().create_staged(m.record(1))).value();
    std::string model;
    bool known = true;  // after a failed write the bytes may be either
    m.machine.disk().options().faults = some_faults();
    for (int step = 0; step < 60; ++step) {
      uint64_t at = random.below(500 * kKiB);
      std::string bytes = pattern(1 + random.below(200 * kKiB), random.next());
      Status status;
      switch (random.below(6)) {
        case 0:
          status = m.run(file->sync(m.record(1)));
          break;
        case 1:
          status = m.run(file->set_size(at));
          if (status) model.resize(at, '\0');
          known = known && status;
          break;
        case 2: {
          status = m.run(file->zero({at, bytes.size()}));
          for (size_t i = at; i < std::min(model.size(), at + bytes.size()); ++i) model[i] = '\0';
          known = known && status;
          break;
        }
        default:
          status = m.run(file->write(at, as_bytes(bytes)));
          if (status) {
            if (model.size() < at + bytes.size()) model.resize(at + bytes.size(), '\0');
            model.replace(at, bytes.size(), bytes);
          }
          known = known && status;
      }
      ASSERT_TRUE(is_fair(status)) << status.error().to_string();
    }
    m.machine.disk().options().faults = {};
    if (known) ASSERT_TRUE(m.read_all(file).value() == model);
    ASSERT_TRUE(m.run(file->set_size(100)));
    std::string all = pattern(kMiB, seed);
    ASSERT_TRUE(m.run(file->write(0, as_bytes(all))));
    ASSERT_TRUE(m.run(file->sync(m.record(1))));
    m.bury(std::move(file));
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    file = m.run(m.store().find_staged(m.record(1).write_id)).value();
    ASSERT_TRUE(m.read_all(file).value() == all);
    file.reset();
    ASSERT_TRUE(m.close());
  }
}

TEST(Faults, small_values) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    StoreMachine m(seed);
    m.options.capacity = 16 * kMiB;
    m.options.memory = 0;
    ASSERT_TRUE(m.open());
    m.machine.disk().options().faults = some_faults();
    m.machine.disk().options().faults.sync_error = 0.02;
    SeededRandom random(seed);
    std::map<uint64_t, std::string> staged;
    for (uint64_t id = 1; id <= 200; ++id) {
      std::string bytes = pattern(random.below(100000), id);
      if (random.below(4) == 0) {
        Status status = m.run(m.store().stage_small(m.record(id), as_bytes(bytes)));
        ASSERT_TRUE(is_fair(status)) << status.error().to_string();
        if (status) staged[id] = bytes;
      } else {
        Status status = m.run(m.store().put_small("o" + std::to_string(id), "e", as_bytes(bytes)));
        ASSERT_TRUE(is_fair(status)) << status.error().to_string();
        auto got = m.run(m.store().get_small("o" + std::to_string(id), "e"));
        if (got) ASSERT_EQ(as_text(got->span()), bytes);
      }
    }
    m.machine.disk().options().faults = {};
    for (const auto& [id, bytes] : staged) {
      auto got = m.run(m.store().read_staged_small(m.record(id).write_id));
      ASSERT_TRUE(got) << got.error().to_string();
      ASSERT_EQ(as_text(got->span()), bytes);
    }
    m.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    for (const auto& [id, bytes] : staged) {
      auto got = m.run(m.store().read_staged_small(m.record(id).write_id));
      ASSERT_TRUE(got) << id << got.error().to_string();
      ASSERT_EQ(as_text(got->span()), bytes);
    }
    ASSERT_TRUE(m.close());
  }
}

}  // namespace
}  // namespace shoal
