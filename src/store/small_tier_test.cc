#include <gtest/gtest.h>

#include <map>
#include <unordered_map>

#include "store/internal/segment_format.h"
#include "store/internal/small_index.h"
#include "store/internal/value_cache.h"
#include "store/test_support.h"

namespace shoal {
namespace {

using store_internal::SmallIndex;
using store_internal::SmallPlace;

std::string text_of(const Result<Buffer>& value) { return std::string(as_text(value->span())); }

class Small : public StoreMachine {
 public:
  using StoreMachine::StoreMachine;
  Status put(const std::string& object, const std::string& etag, const std::string& bytes) {
    return run(store().put_small(object, etag, as_bytes(bytes)));
  }
  Result<Buffer> get(const std::string& object, const std::string& etag) {
    return run(store().get_small(object, etag));
  }
  Status stage(uint64_t id, const std::string& object, const std::string& bytes) {
    return run(store().stage_small(record(id, object), as_bytes(bytes)));
  }
  Result<Buffer> read_staged(uint64_t id) {
    return run(store().read_staged_small(record(id).write_id));
  }
  std::vector<std::string> segments() {
    std::vector<std::string> found;
    auto small = machine.disk().tree().find("/cache/small");
    for (const auto& [name, node] : small->seen) found.push_back("/cache/small/" + name);
    return found;
  }
};

TEST(SmallIndex, agrees_with_the_standard_library) {
  SmallIndex index;
  std::unordered_map<Hash128, uint32_t> model;
  SeededRandom random(3);
  for (int step = 0; step < 30000; ++step) {
    Hash128 key{1, random.below(3000) * (random.below(2) == 0 ? 1 : 4096)};
    if (random.below(3) == 0) {
      EXPECT_EQ(index.erase(key), model.erase(key) == 1);
    } else {
      index.insert(key).offset = static_cast<uint32_t>(step);
      model[key] = static_cast<uint32_t>(step);
    }
    ASSERT_EQ(index.size(), model.size());
    if (step % 1000 == 0) {
      for (const auto& [k, v] : model) ASSERT_EQ(index.find(k)->offset, v);
      size_t count = 0;
      index.for_each([&](Hash128, const SmallPlace&) { ++count; });
      ASSERT_EQ(count, model.size());
    }
  }
}

TEST(ValueCache, is_bounded_and_keeps_what_is_read) {
  store_internal::ValueCache cache(10000);
  for (uint64_t i = 1; i < 100; ++i) {
    cache.put({0, i}, 1, std::string(500, 'x'));
    EXPECT_LE(cache.bytes(), 10000u);
    EXPECT_NE(cache.find({0, 1}, 1), nullptr);
    EXPECT_EQ(cache.find({0, 1}, 2), nullptr);
  }
  EXPECT_EQ(cache.find({0, 50}, 1), nullptr);
  cache.put({0, 1}, 1, std::string(20000, 'x'));
  EXPECT_EQ(cache.find({0, 1}, 1), nullptr);
}

TEST(SmallTier, puts_gets_and_restarts_warm) {
  for (CrashKind kind : {CrashKind::kProcess, CrashKind::kPowerLoss}) {
    Small m;
    m.options.memory = 0;
    ASSERT_TRUE(m.open());
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(m.put("o" + std::to_string(i), "e", pattern(static_cast<uint64_t>(i) * 100, i)));
    }
    EXPECT_EQ(text_of(m.get("o7", "e")), pattern(700, 7));
    EXPECT_EQ(text_of(m.get("o0", "e")), "");
    EXPECT_EQ(code_of(m.get("o7", "other")), Code::kNotFound);
    EXPECT_EQ(code_of(m.get("p", "e")), Code::kNotFound);
    EXPECT_EQ(m.store().cached_bytes("o7", "e"), 700u);
    ASSERT_TRUE(m.put("o7", "e2", "new"));
    EXPECT_EQ(text_of(m.get("o7", "e2")), "new");
    EXPECT_EQ(code_of(m.get("o7", "e")), Code::kNotFound);
    EXPECT_EQ(m.store().stats().small_count, 100u);
    ASSERT_TRUE(m.close());
    ASSERT_TRUE(m.open());
    EXPECT_EQ(m.store().stats().small_count, 100u);
    EXPECT_EQ(text_of(m.get("o99", "e")), pattern(9900, 99));
    m.crash(kind);  // everything was synced by close()
    ASSERT_TRUE(m.open());
    EXPECT_EQ(text_of(m.get("o99", "e")), pattern(9900, 99));
    EXPECT_EQ(text_of(m.get("o7", "e2")), "new");
    ASSERT_TRUE(m.close());
  }
}

TEST(SmallTier, evicts_by_name_and_renames) {
  Small m;
  ASSERT_TRUE(m.open());
  for (const char* name : {"a", "a/x", "a/y/z", "ab"}) ASSERT_TRUE(m.put(name, "e", name));
  ASSERT_TRUE(m.run(m.store().rekey("a/x", "e", "b", "e2")));
  EXPECT_EQ(text_of(m.get("b", "e2")), "a/x");
  EXPECT_FALSE(m.get("a/x", "e"));
  EXPECT_GT(m.run(m.store().evict("a", true)).value(), 0u);
  EXPECT_FALSE(m.get("a/y/z", "e"));
  EXPECT_TRUE(m.get("a", "e"));
  EXPECT_GT(m.run(m.store().evict("a", false)).value(), 0u);
  EXPECT_FALSE(m.get("a", "e"));
  EXPECT_TRUE(m.get("ab", "e"));
  EXPECT_GT(m.run(m.store().evict("", true)).value(), 0u);
  EXPECT_EQ(m.store().stats().small_count, 0u);
  EXPECT_EQ(m.store().stats().small_bytes, 0u);
  ASSERT_TRUE(m.close());
}

TEST(SmallTier, a_damaged_value_is_a_miss_and_the_rest_is_found) {
  Small m;
  m.options.memory = 0;
  ASSERT_TRUE(m.open());
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(m.put("o" + std::to_string(i), "e", pattern(10000, static_cast<uint64_t>(i))));
  }
  ASSERT_TRUE(m.close());
  SimFile* segment = m.machine.disk().file(m.segments().at(0));
  ASSERT_TRUE(segment->flip_bit(64 + 3 * 10112 + 500, 2));  // the value of o3
  ASSERT_TRUE(segment->flip_bit(64 + 6 * 10112 + 9, 2));    // the header of o6
  ASSERT_TRUE(m.open());
  for (int i = 0; i < 10; ++i) {
    auto value = m.get("o" + std::to_string(i), "e");
    EXPECT_EQ(value.has_value(), i != 3 && i != 6) << i;
    if (value) EXPECT_EQ(text_of(value), pattern(10000, static_cast<uint64_t>(i)));
  }
  EXPECT_EQ(m.store().stats().corrupt_pieces, 1u);
  ASSERT_TRUE(m.close());
}

TEST(SmallTier, a_segment_inside_a_value_is_not_mistaken_for_records) {
  Small m;
  ASSERT_TRUE(m.open());
  ASSERT_TRUE(m.stage(5, "inner", "inner value"));
  ASSERT_TRUE(m.close());
  std::string segment = m.machine.disk().content(m.segments().at(0));
  Small n;
  ASSERT_TRUE(n.open());
  ASSERT_TRUE(n.put("outer", "e", segment));
  ASSERT_TRUE(n.close());
  ASSERT_TRUE(n.machine.disk().file(n.segments().at(0))->flip_bit(64 + 8, 1));
  ASSERT_TRUE(n.open());
  EXPECT_TRUE(n.store().staged().empty());
  ASSERT_TRUE(n.close());
}

TEST(SmallTier, staged_values_commit_and_drop) {
  Small m;
  ASSERT_TRUE(m.open());
  ASSERT_TRUE(m.stage(1, "o", "one"));
  ASSERT_TRUE(m.stage(1, "o", "one again"));
  ASSERT_TRUE(m.stage(2, "p", "two"));
  EXPECT_EQ(m.store().stats().staged_objects, 2u);
  m.crash(CrashKind::kPowerLoss);
  ASSERT_TRUE(m.open());
  EXPECT_EQ(m.store().staged().size(), 2u);
  EXPECT_EQ(text_of(m.read_staged(1)), "one again");
  ASSERT_TRUE(m.run(m.store().commit_small(m.record(1).write_id, "e9")));
  EXPECT_EQ(text_of(m.get("o", "e9")), "one again");
  EXPECT_EQ(code_of(m.read_staged(1)), Code::kNotFound);
  ASSERT_TRUE(m.run(m.store().drop_staged_small(m.record(2).write_id)));
  m.crash(CrashKind::kPowerLoss);
  ASSERT_TRUE(m.open());
  EXPECT_TRUE(m.store().staged().empty());  // the drop was durable, and the commit before it
  EXPECT_EQ(text_of(m.get("o", "e9")), "one again");
  ASSERT_TRUE(m.close());
}

TEST(SmallTier, a_lost_staged_value_stays_visible) {
  Small m;
  ASSERT_TRUE(m.open());
  ASSERT_TRUE(m.stage(1, "o", pattern(1000, 1)));
  ASSERT_TRUE(m.stage(2, "p", pattern(1000, 2)));
  ASSERT_TRUE(m.close());
  ASSERT_TRUE(m.machine.disk().file(m.segments().at(0))->flip_bit(64 + 600, 1));
  ASSERT_TRUE(m.open());
  EXPECT_EQ(m.store().staged().size(), 2u);
  EXPECT_EQ(code_of(m.read_staged(1)), Code::kCorrupt);
  EXPECT_EQ(text_of(m.read_staged(2)), pattern(1000, 2));
  ASSERT_TRUE(m.close());
}

TEST(SmallTier, concurrent_stages_share_syncs) {
  Small m;
  ASSERT_TRUE(m.open());
  std::vector<Task<Status>> tasks;
  std::string value = pattern(5000, 1);
  for (uint64_t i = 1; i <= 200; ++i) {
    tasks.push_back(m.store().stage_small(m.record(i), as_bytes(value)));
  }
  SteadyTime before = m.sim.now();
  ASSERT_TRUE(m.run(run_all(m.machine.world().executor, std::move(tasks), 200)));
  // 200 syncs of 0.5 ms would take 100 ms.
  EXPECT_LT(m.sim.now() - before, std::chrono::milliseconds(20));
  m.crash(CrashKind::kPowerLoss);
  ASSERT_TRUE(m.open());
  EXPECT_EQ(m.store().staged().size(), 200u);
  ASSERT_TRUE(m.close());
}

TEST(SmallTier, staged_values_fill_half_and_then_refuse) {
  Small m;
  m.options.capacity = 16 * kMiB;
  ASSERT_TRUE(m.open());
  std::string value = pattern(kSmallBytesMax, 1);
  Status status;
  uint64_t count = 0;
  while (status && count < 100) {
    status = m.stage(count + 1, "o" + std::to_string(count), value);
    if (status) ++count;
  }
  EXPECT_EQ(code_of(status), Code::kNoSpace);
  EXPECT_GE(count, 8u);
  for (uint64_t i = 0; i < 100; ++i) {  // clean values go round and round beside them
    ASSERT_TRUE(m.put("c" + std::to_string(i), "e", value));
  }
  EXPECT_LE(m.machine.disk().used(), 9 * kMiB);
  m.crash(CrashKind::kPowerLoss);
  ASSERT_TRUE(m.open());
  EXPECT_EQ(m.store().staged().size(), count);
  for (uint64_t i = 1; i <= count; ++i) EXPECT_EQ(text_of(m.read_staged(i)), value);
  ASSERT_TRUE(m.run(m.store().drop_staged_small(m.record(1).write_id)));
  EXPECT_TRUE(m.stage(1000, "late", value));
  ASSERT_TRUE(m.close());
}

// --- model ---

struct Model {
  std::map<std::string, std::pair<std::string, std::string>> clean;   // object: etag, bytes
  std::map<uint64_t, std::string> staged;                             // acknowledged
  std::map<uint64_t, std::vector<std::optional<std::string>>> maybe;  // in flight at the crash
};

void check(Small& m, Model& model) {
  std::map<uint64_t, bool> listed;
  for (const auto& staged : m.store().staged()) {
    uint64_t id = staged.record.write_id.low;
    listed[id] = true;
    auto value = m.read_staged(id);
    ASSERT_TRUE(value) << value.error().to_string();
    std::string text = text_of(value);
    bool fine = model.staged.contains(id) && model.staged[id] == text;
    for (const auto& other : model.maybe[id]) fine = fine || (other && *other == text);
    ASSERT_TRUE(fine) << "staged value " << id << " is not what was staged";
    model.staged[id] = text;
  }
  for (auto it = model.staged.begin(); it != model.staged.end();) {
    if (listed.contains(it->first)) {
      ++it;
      continue;
    }
    const auto& others = model.maybe[it->first];
    bool gone = std::ranges::any_of(others, [](const auto& other) { return !other; });
    ASSERT_TRUE(gone) << "staged value " << it->first << " is lost";
    it = model.staged.erase(it);
  }
  model.maybe.clear();
  for (const auto& [object, version] : model.clean) {
    auto value = m.get(object, version.first);
    if (value) ASSERT_EQ(text_of(value), version.second) << object;
  }
}

void run_seed(uint64_t seed) {
  SCOPED_TRACE(seed);
  Small m(seed);
  m.options.capacity = 16 * kMiB;
  m.options.memory = seed % 3 == 0 ? 0 : 200 * kKiB;
  ASSERT_TRUE(m.open());
  SeededRandom random(seed);
  Model model;
  uint64_t next_id = 1;
  for (int step = 0; step < 250; ++step) {
    auto bytes = std::make_shared<std::string>(
        pattern(random.below(4) == 0 ? random.below(kSmallBytesMax + 1) : random.below(60000),
                random.next()));
    m.machine.process().owned.push_back(bytes);
    bool crash = random.below(60) == 0;
    uint64_t id = model.staged.empty() || random.below(2) == 0
                      ? next_id++
                      : std::next(model.staged.begin(),
                                  static_cast<ptrdiff_t>(random.below(model.staged.size())))
                            ->first;
    std::string object = "o" + std::to_string(random.below(40));
    std::string etag = "e" + std::to_string(step);
    Task<Status> task;
    uint64_t kind = random.below(10);
    if (kind < 2 && model.staged.contains(id)) {
      bool drop = kind == 0;
      std::string name = "s" + std::to_string(id);
      task = drop ? m.store().drop_staged_small(m.record(id).write_id)
                  : m.store().commit_small(m.record(id).write_id, etag);
      if (!drop) model.clean[name] = {etag, model.staged[id]};
      model.maybe[id].push_back(std::nullopt);
      if (!drop) model.maybe[id].push_back(model.staged[id]);  // a commit is not synced
      if (drop && !crash) model.maybe[id] = {std::nullopt};
    } else if (kind < 5) {
      task = m.store().stage_small(m.record(id, "s" + std::to_string(id)), as_bytes(*bytes));
      model.maybe[id].push_back(*bytes);
    } else {
      task = m.store().put_small(object, etag, as_bytes(*bytes));
      model.clean[object] = {etag, *bytes};
    }
    if (!crash) {
      Status status = m.run(std::move(task));
      if (kind < 2 && model.maybe.contains(id) && status) {
        model.staged.erase(id);
      } else if (kind < 5 && kind >= 2) {
        if (status) {
          model.staged[id] = *bytes;
          model.maybe[id] = {};
        } else {
          ASSERT_EQ(status.error().code(), Code::kNoSpace);
        }
      }
      if (step % 20 == 0) check(m, model);
      if (testing::Test::HasFatalFailure()) return;
      continue;
    }
    (void)m.run_for(std::move(task), std::chrono::microseconds(random.below(2000)));
    m.crash(random.below(3) == 0 ? CrashKind::kProcess : CrashKind::kPowerLoss);
    ASSERT_TRUE(m.open());
    check(m, model);
    if (testing::Test::HasFatalFailure()) return;
  }
  check(m, model);
  ASSERT_LE(m.machine.disk().used(), 9 * kMiB);
  ASSERT_TRUE(m.close());
}

TEST(SmallTierModel, nothing_staged_is_lost_and_no_byte_is_wrong) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    run_seed(seed);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace shoal
