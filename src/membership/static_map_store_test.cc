#include <gtest/gtest.h>

#include "async/gate.h"
#include "membership/map_store.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

constexpr std::string_view kList =
    "# the first rack\n"
    "alpha 10.0.0.1:7070 weight=500 zone=r1\n"
    "\n"
    "beta [fd00::2]:7070 zone=r2   # with a comment\r\n"
    "  gamma  gamma.local:7071  id=000102030405060708090a0b0c0d0e0f\n";

Result<std::unique_ptr<MapStore>> make(std::string_view text) {
  return make_static_map_store(text, "/etc/nodes", "test", "file:/data", 3, "secret");
}

Task<void> load_into(MapStore& store, std::optional<StoredMap>& out) {
  Result<std::optional<StoredMap>> loaded = co_await store.load({});
  EXPECT_TRUE(loaded);
  if (loaded) out = std::move(*loaded);
  Result<std::string> key = co_await store.key({});
  EXPECT_EQ(key.value_or(""), "secret");
  EXPECT_EQ((co_await store.watch("", {})).error().code(), Code::kNotSupported);
  Result<std::string> swapped = co_await store.compare_and_swap(out->map, out->token, {});
  EXPECT_FALSE(swapped);
  if (!swapped) EXPECT_EQ(swapped.error().code(), Code::kReadOnly);
}

SlotMap load(std::string_view text) {
  Simulation sim({});
  Gate gate(sim.driver());
  auto store = make(text);
  SHOAL_ASSERT(store.has_value());
  std::optional<StoredMap> out;
  gate.spawn(load_into(**store, out));
  EXPECT_TRUE(sim.run_until([&] { return gate.count() == 0; }, std::chrono::seconds(1)));
  SHOAL_ASSERT(out.has_value());
  return out->map;
}

TEST(StaticMapStore, reads_a_list) {
  SlotMap map = load(kList);
  EXPECT_TRUE(validate(map));
  EXPECT_EQ(map.version, 1u);
  ASSERT_EQ(map.members.size(), 3u);
  const Member* alpha = map.find(*static_member_id(kList, "alpha", "test"));
  ASSERT_NE(alpha, nullptr);
  EXPECT_EQ(alpha->address, "10.0.0.1:7070");
  EXPECT_EQ(alpha->weight, 500u);
  EXPECT_EQ(alpha->zone, "r1");
  const Member* gamma = map.find(*Hash128::from_hex("000102030405060708090a0b0c0d0e0f"));
  ASSERT_NE(gamma, nullptr);
  EXPECT_EQ(gamma->address, "gamma.local:7071");
  EXPECT_EQ(static_member_id(kList, "delta", "test").error().code(), Code::kNotFound);
}

TEST(StaticMapStore, is_the_same_however_the_lines_are_ordered) {
  SlotMap one = load("a h:1\nb h:2\nc h:3\n");
  EXPECT_EQ(load("c h:3\n#x\nb  h:2\na h:1"), one);
  SlotMap other = load("a h:1\nb h:2\nc h:4\n");
  EXPECT_NE(other.cluster_id, one.cluster_id) << "another list is another cluster";
}

TEST(StaticMapStore, names_the_line_that_is_wrong) {
  struct Case {
    std::string_view text;
    std::string_view says;
  };
  for (const Case& each :
       {Case{"", "empty"}, Case{"#\n", "empty"}, Case{"a\n", "line 1"},
        Case{"a h:1\nb h\n", "line 2"}, Case{"a h:0\n", "line 1"}, Case{"a h:65536\n", "line 1"},
        Case{"a h:1 weight=0\n", "weight"}, Case{"a h:1 weight=4x\n", "weight"},
        Case{"a h:1 colour=red\n", "colour"}, Case{"a h:1 id=zz\n", "id"},
        Case{"a h:1\na h:2\n", "already"}, Case{"a h:1 zone=\n", "line 1"}}) {
    auto store = make(each.text);
    ASSERT_FALSE(store) << each.text;
    EXPECT_EQ(store.error().code(), Code::kInvalidArgument);
    EXPECT_NE(store.error().message().find(each.says), std::string::npos)
        << store.error().message();
    EXPECT_NE(store.error().message().find("/etc/nodes"), std::string::npos);
  }
}

}  // namespace
}  // namespace shoal
