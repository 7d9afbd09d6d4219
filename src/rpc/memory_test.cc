// The scenarios over a network in memory, and what only such a network can do: bytes that change on
// their way, streams that stop in the middle of a frame, peers that send anything.
#include <gtest/gtest.h>

#include "rpc/scenarios_test_support.h"

namespace shoal {
namespace {

class InMemory : public testing::TestWithParam<scenarios::Scenario> {};

TEST_P(InMemory, holds) {
  MemoryBed bed;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

TEST_P(InMemory, holds_with_tls) {
  MemoryBed bed;
  bed.tls = true;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rpc, InMemory, testing::ValuesIn(scenarios::kAll),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace shoal
