// The parts of Membership, one file each: membership.cc (the current map, what others see of it),
// joining.cc, detecting.cc (who is alive), publishing.cc (changing the map, telling it around).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/backoff.h"
#include "async/gate.h"
#include "async/sync.h"
#include "membership/membership.h"
#include "membership/peer_health.h"

namespace shoal {

// What this node knows of another member, beyond the map.
struct PeerState {
  // Detection, of the members that this node watches.
  SteadyTime answered{};  // last sign of life, or when the watch began
  SteadyTime next_ping{};
  bool watched = false;
  bool pinging = false;
  uint32_t refusals = 0;  // pings in a row that were refused, not just late
  bool suspected = false;
  bool inquiring = false;
  SteadyTime suspected_at{};
  SteadyTime next_inquiry{};
  uint32_t inquiries = 0;     // since it is suspected
  SteadyTime silent_until{};  // did not answer as a witness: not asked again before

  // When this node saw it down; its slots move `grace` (and a jitter) later.
  std::optional<SteadyTime> down_since;
  Duration expiry_jitter{0};

  // Telling it the map.
  uint64_t known_version = 0;
  bool push_due = false;
  SteadyTime pushed_at{};
  SteadyTime behind_since{};  // its frames carry an older version since then,
  SteadyTime behind_at{};     // and did when last looked at
};

// Members that ask to be let in within a short time share one change of the map.
struct JoinBatch {
  explicit JoinBatch(Executor& executor) : done(executor) {}
  std::vector<Member> members;
  Signal done;
  std::optional<Status> result;
};

// What was heard from witnesses about one suspect.
struct Inquiry {
  explicit Inquiry(Executor& executor) : heard(executor) {}
  Signal heard;
  uint32_t asked = 0;
  uint32_t finished = 0;
  uint32_t gone = 0;     // answered: cannot reach it either
  uint32_t reached = 0;  // answered: can
};

// Read by metrics from any thread, also after the Membership has gone.
struct MembershipGauges {
  std::atomic<uint64_t> version{0};  // relaxed, all: only for display
  std::atomic<uint64_t> members{0};
  std::atomic<uint64_t> up{0};
  std::atomic<uint64_t> down{0};
  std::atomic<uint64_t> draining{0};
};

class MembershipImpl final : public Membership {
 public:
  // From one map to the next; nothing when there is nothing to change. May be asked again with a
  // newer map when somebody else was first.
  using Change = std::function<std::optional<SlotMap>(const SlotMap&)>;

  MembershipImpl(World& world, MapStore& store, Registry& registry, const Log& log,
                 MembershipOptions options);
  ~MembershipImpl() override;

  void set_address(std::string address, std::vector<std::string> further,
                   std::string http) override {
    options_.self.address = std::move(address);
    options_.further = std::move(further);
    options_.self.http = std::move(http);
  }
  Task<Status> join(RpcPool& pool, Context context) override;
  Task<void> stop() override;
  Task<Status> drain(NodeId member, Context context) override;
  Task<Status> leave(NodeId member, Context context) override;
  void on_change(std::function<void(const SlotMap&)> listener) override;
  Task<Result<std::string>> handle(const RpcRequest& request, Context context) override;
  MembershipStatus status() const override;

  std::shared_ptr<const SlotMap> map() const override { return map_; }
  const NodeId& self() const override { return options_.self.id; }
  bool usable(const NodeId& member) const override;
  void report(const NodeId& member, bool reached) override;
  uint64_t current() const override { return map_ ? map_->version : 0; }
  void seen(const Hash128& peer, uint64_t version) override;

 private:
  SteadyTime now() const { return world_.executor.now(); }
  Context own_context(Duration limit) { return {now() + limit, &cancel_}; }
  Duration between(Duration low, Duration high);  // at random
  const Member* find(const NodeId& id) const { return map_ ? map_->find(id) : nullptr; }

  // membership.cc
  // Takes a map that is newer than ours. kConflict: it is of another cluster.
  Status adopt(SlotMap next);
  // The same, of a map that a peer told with the store's token for it.
  Status adopt_told(SlotMap next, std::string token);
  std::string token_of_map() const { return token_version_ == current() ? token_ : ""; }
  void follow_map();
  void follow_self();
  Task<Result<std::string>> answer_ping();
  Task<Result<std::string>> answer_push(std::string body);
  Result<std::string> answer_map() const;

  // joining.cc
  Status check_identity(const SlotMap& map) const;
  Task<Status> check_duplicate(Context context);
  // kBusy: something has changed meanwhile, try again.
  Task<Status> join_once(Context context);
  Task<Status> found_cluster(Context context);
  Status join_fixed();
  // Through other members, else by itself.
  Task<Status> enter(Context context);
  Task<Result<bool>> ask_to_join(Member member, Context context);
  bool is_entered(const Member& member) const;
  void begin();
  Task<Result<std::string>> answer_join(std::string body, Context context);
  Task<Status> dial_back(std::string address, const Member& member, Context context);
  Task<Status> join_batched(Member member, Context context);
  Task<void> run_batch(std::shared_ptr<JoinBatch> batch);
  void tend_self();
  Task<void> restore_self(Duration delay);

  // detecting.cc
  Task<void> watch_peers();
  void choose_watched();
  SteadyTime ping_due_peers();
  SteadyTime suspect_peers();
  void sign_of_life(const NodeId& id);
  bool heard_from(const NodeId& id, Duration within) const;
  Task<Status> ping(std::string address, NodeId id, Context context);
  Task<void> ping_peer(NodeId id, std::string address);
  Task<void> inquire(NodeId id);
  Task<void> ask_witness(NodeId witness, NodeId suspect, std::shared_ptr<Inquiry> inquiry);
  std::vector<NodeId> choose_witnesses(const NodeId& suspect);
  bool is_convicted(const NodeId& suspect, const Inquiry& inquiry) const;
  Task<void> mark_down(NodeId id, uint64_t incarnation);
  SteadyTime expire_down();
  Task<void> remove_expired(std::vector<NodeId> ids);
  Task<Result<std::string>> answer_probe(std::string body, Context context);
  bool was_accused_lately() const;

  // publishing.cc
  Task<Status> change(std::string what, Change change, Context context);
  struct Base {
    std::shared_ptr<const SlotMap> map;
    std::string token;
  };
  Task<Result<Base>> base_for_change(bool fresh, Context context);
  Task<Result<std::optional<StoredMap>>> look(Context context);
  Task<bool> is_store_unchanged();
  void note_reachable(const Status& status);
  void note_writable(const Status& status);
  Task<void> look_now_and_then();
  Task<void> follow_store();
  void push_to_all();
  Task<void> push_maps();
  Task<Status> push_to(NodeId id);
  Task<void> write_map_again();
  Task<void> restore_map();
  Task<void> fetch_map(NodeId peer);
  Task<Status> fetch_from(NodeId peer);

  World& world_;
  MapStore& store_;
  const Log& log_;
  MembershipOptions options_;
  Counter& suspicions_;
  Counter& publishes_;
  Counter& conflicts_;
  std::shared_ptr<MembershipGauges> gauges_;  // shared with the registry, which outlives us

  RpcPool* pool_ = nullptr;
  Gate gate_;
  Cancel cancel_;
  bool joined_ = false;
  bool left_ = false;         // on purpose: do not come back
  uint64_t incarnation_ = 0;  // 0: not in the map yet

  std::shared_ptr<const SlotMap> map_;  // shared with whoever uses it while a newer one comes
  std::vector<std::function<void(const SlotMap&)>> listeners_;
  std::map<NodeId, PeerState> peers_;  // of the map's members, without this node
  // Of these, the few that are looked at again and again; as of the last change of the map.
  std::vector<NodeId> watched_;
  std::vector<NodeId> down_;
  PeerHealth health_;

  // Detection.
  Signal detector_wake_;
  bool removing_ = false;
  bool restoring_self_ = false;
  std::optional<SteadyTime> accused_at_;  // this node found itself marked down
  std::optional<SteadyTime> restored_at_;
  Backoff restore_backoff_;
  bool was_draining_ = false;

  // The store.
  Semaphore publish_turn_;
  std::string token_;           // of the state with version token_version_
  uint64_t token_version_ = 0;  // 0: unknown
  bool store_reachable_ = true;
  bool store_writable_ = true;
  std::string last_error_;
  Signal push_wanted_;
  std::string push_body_;  // of the map with version push_body_version_
  uint64_t push_body_version_ = 0;
  bool fetching_ = false;
  uint64_t newest_seen_ = 0;
  std::shared_ptr<JoinBatch> batch_;  // open for more; shared with its waiters
};

}  // namespace shoal
