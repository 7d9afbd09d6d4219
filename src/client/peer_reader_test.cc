// Whom a reader waits for, and for how long: members that send nothing, in simulated time.
#include "client/peer_reader.h"

#include <gtest/gtest.h>

#include "async/gate.h"
#include "async/sync.h"
#include "wire/messages.pb.h"
#include "world_sim/sim_world.h"

namespace shoal {
namespace {

using std::chrono::seconds;

constexpr NodeId kSelf{9, 9};
constexpr NodeId kOther{1, 1};

// Two members; the other one owns the chunks that are read.
class TwoMembers final : public ClusterView {
 public:
  TwoMembers() {
    SlotMap first = placement::first_map("c", {5, 5}, "o", 1, member(kOther, "10.0.0.1:1"));
    map_ = std::make_shared<SlotMap>(placement::join(first, member(kSelf, "10.0.0.2:1")));
  }
  std::shared_ptr<const SlotMap> map() const override { return map_; }
  const NodeId& self() const override { return kSelf; }
  bool usable(const NodeId&) const override { return true; }
  void report(const NodeId&, bool reached) override { failures += reached ? 0 : 1; }
  std::string object_of_other() const {
    for (int i = 0;; ++i) {
      std::string name = "o" + std::to_string(i);
      if (map_->members[map_->owners_of(slot_of_chunk(name, 0))[0]].id == kOther) return name;
    }
  }
  int failures = 0;

 private:
  static Member member(NodeId id, const std::string& address) {
    Member made;
    made.id = id;
    made.name = address;
    made.address = address;
    return made;
  }
  std::shared_ptr<const SlotMap> map_;
};

// A member that answers a read after a while, or never.
class LateMember final : public RpcPool {
 public:
  explicit LateMember(Executor& executor) : executor_(executor) {}
  Task<Result<std::string>> call(std::string, Hash128, Method method, std::string, RpcSink* sink,
                                 uint64_t, Context context) override {
    if (method == Method::kPing) {
      if (!alive) {
        Status slept = co_await sleep_for(executor_, seconds(3600), context);
        co_return fail(std::move(slept).error());
      }
      SHOAL_CO_RETURN_IF_ERROR(co_await sleep_for(executor_, ping_time, context));
      moved_bytes += moves;
      wire::PingReply reply;
      reply.set_moved_bytes(moved_bytes);
      co_return reply.SerializeAsString();
    }
    SHOAL_CO_RETURN_IF_ERROR(co_await sleep_for(executor_, after, context));
    sink->arrived = sink->into.size();
    sink->crcs->resize(sink->into.size() / kPieceBytes);
    sink->progress(sink->arrived);
    co_return wire::ReadReply().SerializeAsString();
  }
  bool heard_from(const std::string&, Duration) const override { return heard; }
  uint64_t connections() const override { return 0; }
  Task<void> close() override { co_return; }

  Duration after = seconds(3600);
  bool alive = true;
  bool heard = false;
  Duration ping_time{0};
  uint64_t moves = 0;  // bytes between two pings
  uint64_t moved_bytes = 7;

 private:
  Executor& executor_;
};

class Readers : public testing::Test {
 protected:
  Readers() : sim_({.seed = 1}), machine_(started(sim_)) {}
  ~Readers() override { machine_.shut_down(); }

  // Reads a piece that the other member owns.
  Status read() {
    Gate& gate = machine_.own(std::make_unique<Gate>(world().executor));
    SteadyTime begun = world().executor.now();
    Status status = fail(Code::kInternal, "unset");
    EXPECT_TRUE(gate.spawn(read_into(status)));
    EXPECT_TRUE(sim_.run_until([&] { return gate.count() == 0; }, std::chrono::hours(2)));
    took = world().executor.now() - begun;
    return status;
  }
  World& world() { return machine_.world(); }

  Simulation sim_;
  SimMachine& machine_;
  LateMember other{world().executor};
  Duration took{};
  Registry registry_;
  PeerMetrics metrics_{registry_};
  Log log_{LogLevel::kWarning, [](LogLevel, std::string_view) {}};
  TwoMembers view;
  PeerReader reader_{world(), other, view, metrics_, log_, {}};

 private:
  static SimMachine& started(Simulation& sim) {
    SimMachine& machine = sim.add_machine("m", {});
    machine.boot();
    return machine;
  }
  Task<void> read_into(Status& status) {
    Buffer buffer(kPieceBytes);
    ChunkRange range;
    range.object = view.object_of_other();
    range.etag = "e";
    range.size = kPieceBytes;
    range.into = buffer.span();
    status = co_await reader_.read(range, {});
  }
};

TEST_F(Readers, gives_up_within_a_second_who_is_not_there) {
  other.alive = false;
  EXPECT_EQ(read().error().code(), Code::kNotFound);
  EXPECT_LT(took, seconds(1));
  EXPECT_EQ(view.failures, 1);
}

TEST_F(Readers, a_lost_ping_is_no_death_while_other_answers_come) {
  other.alive = false;
  other.heard = true;
  other.after = seconds(3);
  EXPECT_TRUE(read());
  EXPECT_EQ(view.failures, 0);
}

TEST_F(Readers, pings_may_take_longer_where_others_did) {
  other.after = seconds(4);
  other.moves = 1;
  for (int ms : {200, 400, 480, 560}) {
    other.ping_time = std::chrono::milliseconds(ms);
    EXPECT_TRUE(read()) << ms;
  }
  other.alive = false;
  EXPECT_EQ(read().error().code(), Code::kNotFound);
  EXPECT_LT(took, PeerReadOptions().stall + PeerReadOptions().ping_timeout_max);
}

TEST_F(Readers, gives_up_who_lives_but_moves_nothing) {
  EXPECT_EQ(read().error().code(), Code::kNotFound);
  EXPECT_GE(took, PeerReadOptions().slow);
  EXPECT_LT(took, PeerReadOptions().slow + seconds(1));
}

TEST_F(Readers, waits_longer_for_who_is_busy_with_others) {
  other.moves = 1;
  other.after = seconds(20);
  EXPECT_TRUE(read());
  EXPECT_EQ(view.failures, 0);
}

TEST_F(Readers, but_not_for_ever) {
  other.moves = 1;
  EXPECT_EQ(read().error().code(), Code::kNotFound);
  EXPECT_GE(took, PeerReadOptions().slow_max);
  EXPECT_LT(took, PeerReadOptions().slow_max + seconds(1));
  EXPECT_EQ(view.failures, 1);
}

}  // namespace
}  // namespace shoal
