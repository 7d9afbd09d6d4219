// Several nodes over real sockets and a real directory, each with a shard of its own.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "membership/cluster_test_support.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

uint16_t free_port() {
  int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  SHOAL_ASSERT(bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  SHOAL_ASSERT(getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  close(probe);
  return ntohs(address.sin_port);
}

// Waits on the node's own shard; false when the limit passes first.
Task<bool> until(Executor& executor, std::function<bool()> done, Duration limit) {
  Context context = Context::within(executor, limit);
  while (!done()) {
    if (!co_await sleep_for(executor, milliseconds(5), context)) co_return done();
  }
  co_return true;
}
Task<void> call(std::function<void()> what) {
  what();
  co_return;
}

class RealNode {
 public:
  RealNode(const std::string& root, uint64_t id, const Log& log) : id_(id) {
    auto started = Shard::start({});
    SHOAL_ASSERT(started.has_value(), "no shard");
    shard_ = std::move(*started);
    NodeSettings settings;
    settings.id = id;
    settings.origin = "file:" + root;
    // An address of its own: two nodes never take the same port.
    std::string address = fmt::format("127.0.1.{}:{}", id, free_port());
    process_ = std::make_unique<NodeProcess>(shard_->world(), address, settings, log, root);
  }
  ~RealNode() { end(); }
  void start() {
    run_blocking(*shard_, call([this] { process_->start(); }));
  }
  bool await(std::function<bool()> done, Duration limit) {
    return run_blocking(*shard_, until(*shard_, std::move(done), limit));
  }
  bool await_joined(Duration limit) {
    return await([this] { return process_->joined.has_value(); }, limit);
  }
  // Others see what they see of a killed process: connections end, new ones are refused.
  void end() {
    if (process_ == nullptr) return;
    run_blocking(*shard_, call([this] { process_->begin_stop(); }));
    EXPECT_TRUE(
        await([this] { return process_->stopped && process_->gate().count() == 0; }, seconds(30)));
    run_blocking(*shard_, call([this] { process_.reset(); }));
    shard_->stop();
  }
  NodeProcess& process() { return *process_; }
  uint64_t id() const { return id_; }

 private:
  uint64_t id_;
  std::unique_ptr<Shard> shard_;
  std::unique_ptr<NodeProcess> process_;
};

TEST(RealCluster, eight_nodes_join_and_notice_who_is_gone) {
  constexpr uint64_t kNodes = 8;
  std::string pattern = (fs::current_path() / "cluster_XXXXXX").string();
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  Log log;
  {
    std::vector<std::unique_ptr<RealNode>> nodes;
    for (uint64_t id = 1; id <= kNodes; ++id) {
      nodes.push_back(std::make_unique<RealNode>(pattern, id, log));
    }
    auto begun = std::chrono::steady_clock::now();
    for (auto& node : nodes) node->start();
    for (auto& node : nodes) {
      ASSERT_TRUE(node->await_joined(seconds(60)));
      EXPECT_TRUE(*node->process().joined) << node->process().joined->error().to_string();
    }
    auto took = std::chrono::steady_clock::now() - begun;
    std::printf("%zu nodes joined in %.2f s\n", nodes.size(), to_seconds(took));
    EXPECT_LT(took, seconds(30));
    auto sees = [&nodes](size_t by, auto condition) {
      return nodes[by]->await(
          [&, by] { return condition(*nodes[by]->process().membership().map()); }, seconds(30));
    };
    for (size_t i = 0; i < nodes.size(); ++i) {
      EXPECT_TRUE(sees(i, [](const SlotMap& map) { return map.members.size() == kNodes; }));
    }
    begun = std::chrono::steady_clock::now();
    nodes[3]->end();
    NodeId gone{4, 4};
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (i == 3) continue;
      EXPECT_TRUE(sees(
          i, [gone](const SlotMap& map) { return map.find(gone)->state == MemberState::kDown; }));
    }
    took = std::chrono::steady_clock::now() - begun;
    std::printf("down everywhere after %.2f s\n", to_seconds(took));
    EXPECT_LT(took, seconds(5));
  }
  std::error_code ignored;
  fs::remove_all(pattern, ignored);
}

}  // namespace
}  // namespace shoal
