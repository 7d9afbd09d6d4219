#include "replication/waiting.h"

#include <gtest/gtest.h>

namespace shoal {
namespace {

using State = WaitingItem::State;

WaitingItem item_of(std::string object, State state, std::string error = "") {
  WaitingItem item;
  item.object = std::move(object);
  item.state = state;
  item.last_error = std::move(error);
  return item;
}

void count(Behind& behind, const WaitingItem& item, uint64_t bytes) {
  bool named = behind.would_name(item.state, item.last_error);
  behind.count(item.state, bytes, named ? &item : nullptr);
}

std::string names_of(const Behind& behind) {
  std::string names;
  for (const WaitingItem& item : behind.named) names += item.object;
  return names;
}

TEST(Behind, names_open_ones_first_then_those_that_fail) {
  Behind behind;
  for (const char* name : {"a", "b", "c", "d"}) count(behind, item_of(name, State::kClosed), 10);
  EXPECT_EQ(names_of(behind), "abc");
  count(behind, item_of("e", State::kClosed, "no such bucket"), 10);
  EXPECT_EQ(names_of(behind), "eab");
  count(behind, item_of("f", State::kOpen), 10);
  EXPECT_EQ(names_of(behind), "fea");
  count(behind, item_of("g", State::kReplicated), 1);
  EXPECT_EQ(names_of(behind), "fea");
  EXPECT_EQ(behind.files, 7u);
  EXPECT_EQ(behind.bytes, 61u);
  EXPECT_EQ(behind.open, 1u);
}

TEST(Behind, adds_what_other_nodes_count) {
  Behind here;
  count(here, item_of("a", State::kClosed), 5);
  Behind there;
  for (const char* name : {"k", "l", "m", "n"}) count(there, item_of(name, State::kClosed), 2);
  count(there, item_of("o", State::kOpen), 3);
  here.add(there);
  EXPECT_EQ(here.files, 6u);
  EXPECT_EQ(here.bytes, 16u);
  EXPECT_EQ(here.open, 1u);
  EXPECT_EQ(names_of(here), "oak");
  here.add(Behind());
  EXPECT_EQ(here.files, 6u);
}

TEST(Behind, of_what_the_origin_lacks_all_counts) {
  EXPECT_TRUE(Behind::covers(Behind::Goal::kDurable, State::kReplicated));
  EXPECT_FALSE(Behind::covers(Behind::Goal::kReplicated, State::kReplicated));
  EXPECT_TRUE(Behind::covers(Behind::Goal::kReplicated, State::kClosed));
}

}  // namespace
}  // namespace shoal
