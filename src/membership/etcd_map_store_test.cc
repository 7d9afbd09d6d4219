// Against a real etcd, started here on free ports of loopback.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "async/gate.h"
#include "async/sync.h"
#include "membership/map_store.h"
#include "observe/log.h"
#include "world_linux/clock.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kEtcd = "/usr/bin/etcd";

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

// One etcd process with a directory of its own, which outlives its restarts.
class Etcd {
 public:
  Etcd() : client_(free_port()), peer_(free_port()) {
    std::string pattern = (fs::current_path() / "etcd_XXXXXX").string();
    SHOAL_ASSERT(mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
  }
  ~Etcd() {
    stop();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(client_); }
  void start() {
    std::string peer = "http://127.0.0.1:" + std::to_string(peer_);
    std::vector<std::string> words = {kEtcd,
                                      "--data-dir=" + directory_ + "/data",
                                      "--listen-client-urls=" + url(),
                                      "--advertise-client-urls=" + url(),
                                      "--listen-peer-urls=" + peer,
                                      "--initial-advertise-peer-urls=" + peer,
                                      "--initial-cluster=default=" + peer};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    std::string log = directory_ + "/log";
    for (int descriptor : {STDOUT_FILENO, STDERR_FILENO}) {
      posix_spawn_file_actions_addopen(&actions, descriptor, log.c_str(),
                                       O_WRONLY | O_CREAT | O_APPEND, 0600);
    }
    int failed = posix_spawn(&pid_, kEtcd, &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    SHOAL_ASSERT(failed == 0, "etcd does not start");
  }
  void stop() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  uint16_t client_;
  uint16_t peer_;
  std::string directory_;
  pid_t pid_ = -1;
};

Member member(uint64_t number) {
  Member out;
  out.id = {number, number};
  out.name = "node-" + std::to_string(number);
  out.address = "10.0.0." + std::to_string(number) + ":7070";
  return out;
}
SlotMap first_map() { return placement::first_map("test", {1, 2}, "az:x", 3, member(1)); }

Task<Result<std::optional<StoredMap>>> load_when_there(MapStore& store, Executor& executor) {
  Context context = Context::within(executor, seconds(60));
  while (true) {
    auto loaded = co_await store.load(context);
    if (loaded || loaded.error().code() != Code::kUnavailable) co_return loaded;
    Status slept = co_await sleep_for(executor, milliseconds(50), context);
    if (!slept) co_return loaded;
  }
}

class EtcdMapStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (access(kEtcd, X_OK) != 0) {
      GTEST_SKIP() << kEtcd << " is not there; install etcd-server to run this test";
    }
    auto started = Shard::start({});
    ASSERT_TRUE(started);
    shard_ = std::move(*started);
  }
  ~EtcdMapStoreTest() override {
    stores_.clear();
    if (shard_) shard_->stop();
  }
  MapStore& store_at(const std::string& endpoints, const std::string& cluster = "test") {
    auto made = make_etcd_map_store(endpoints, shard_->world(), log_, cluster);
    SHOAL_ASSERT(made.has_value());
    stores_.push_back(std::move(*made));
    return *stores_.back();
  }
  template <typename T>
  T run(Task<T> task) {
    return run_blocking(*shard_, std::move(task));
  }
  Context within(Duration limit) { return Context{read_steady_clock() + limit, nullptr}; }
  Result<std::optional<StoredMap>> await_etcd(MapStore& store) {
    return run(load_when_there(store, *shard_));
  }

  Log log_;
  std::unique_ptr<Shard> shard_;
  std::vector<std::unique_ptr<MapStore>> stores_;
};

TEST_F(EtcdMapStoreTest, swaps_only_what_it_saw) {
  Etcd etcd;
  etcd.start();
  MapStore& store = store_at(etcd.url());
  auto none = await_etcd(store);
  ASSERT_TRUE(none) << none.error().to_string();
  EXPECT_FALSE(*none);
  SlotMap map = first_map();
  auto token = run(store.compare_and_swap(map, "", {}));
  ASSERT_TRUE(token) << token.error().to_string();
  // The same bytes again would be the same state: another map must be refused.
  SlotMap rival = map;
  rival.cluster_id = {3, 4};
  EXPECT_EQ(run(store.compare_and_swap(rival, "", {})).error().code(), Code::kConflict);
  auto seen = run(store.load({}));
  ASSERT_TRUE(seen && *seen);
  EXPECT_EQ((*seen)->map, map);
  EXPECT_EQ((*seen)->token, *token);
  SlotMap second = placement::join(map, member(2));
  auto next = run(store.compare_and_swap(second, *token, {}));
  ASSERT_TRUE(next);
  SlotMap third = placement::join(map, member(3));
  EXPECT_EQ(run(store.compare_and_swap(third, *token, {})).error().code(), Code::kConflict);
  EXPECT_EQ((*run(store.load({})))->map, second);
  // Another cluster in the same etcd.
  MapStore& other = store_at(etcd.url(), "other");
  EXPECT_FALSE(*run(other.load({})));
  auto key = run(store.key({}));
  ASSERT_TRUE(key);
  EXPECT_EQ(run(store.key({})).value_or(""), *key);
  EXPECT_NE(run(other.key({})).value_or(*key), *key);
}

Task<Status> watch_then_tell(MapStore& store, std::string token, std::atomic<int64_t>& when) {
  Status changed = co_await store.watch(std::move(token), {});
  when = read_steady_clock().time_since_epoch().count();
  co_return changed;
}

TEST_F(EtcdMapStoreTest, a_watch_ends_soon_after_a_change) {
  Etcd etcd;
  etcd.start();
  MapStore& store = store_at(etcd.url());
  ASSERT_TRUE(await_etcd(store));
  SlotMap map = first_map();
  std::string token = *run(store.compare_and_swap(map, "", {}));
  // What changed before the watch began is told too.
  map = placement::join(map, member(2));
  std::string next = *run(store.compare_and_swap(map, token, {}));
  EXPECT_TRUE(run(store.watch(token, within(seconds(10)))));

  std::atomic<int64_t> told = 0;
  Status changed;
  std::thread watcher([&] { changed = run(watch_then_tell(store, next, told)); });
  // Nothing happens, so it goes on; there is no event to wait for but its silence.
  EXPECT_EQ(run(store.watch(next, within(milliseconds(300)))).error().code(),
            Code::kDeadlineExceeded);
  EXPECT_EQ(told, 0);
  map = placement::join(map, member(3));
  int64_t begun = read_steady_clock().time_since_epoch().count();
  ASSERT_TRUE(run(store.compare_and_swap(map, next, {})));
  watcher.join();
  EXPECT_TRUE(changed) << changed.error().to_string();
  EXPECT_LT(told - begun, Duration(milliseconds(500)).count());
  std::printf("a change was told after %.1f ms\n", static_cast<double>(told - begun) / 1e6);
}

Task<Status> watch_cancelled(MapStore& store, Executor& executor) {
  Cancel cancel;
  Gate gate(executor);
  struct Later {
    static Task<void> cancel_after(Executor& on, Cancel& what) {
      Status slept = co_await sleep_for(on, milliseconds(50), {});
      EXPECT_TRUE(slept);
      what.request();
    }
  };
  gate.spawn(Later::cancel_after(executor, cancel));
  Status status = co_await store.watch("", Context{kNever, &cancel});
  co_await gate.close();
  co_return status;
}

TEST_F(EtcdMapStoreTest, a_watch_can_be_cancelled) {
  Etcd etcd;
  etcd.start();
  MapStore& store = store_at(etcd.url());
  ASSERT_TRUE(await_etcd(store));
  EXPECT_EQ(run(watch_cancelled(store, *shard_)).error().code(), Code::kCancelled);
}

TEST_F(EtcdMapStoreTest, says_what_is_wrong_when_etcd_is_down_and_recovers) {
  Etcd etcd;
  MapStore& store = store_at(etcd.url());
  Error error = run(store.load(within(seconds(10)))).error();
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_NE(error.message().find(etcd.url()), std::string::npos) << error.message();
  EXPECT_NE(error.message().find("--map-store"), std::string::npos) << error.message();
  EXPECT_FALSE(run(store.watch("", within(seconds(10)))));
  etcd.start();
  ASSERT_TRUE(await_etcd(store));
  std::string token = *run(store.compare_and_swap(first_map(), "", {}));
  etcd.stop();
  EXPECT_EQ(run(store.compare_and_swap(first_map(), token, within(seconds(10)))).error().code(),
            Code::kUnavailable);
  etcd.start();
  auto again = await_etcd(store);
  ASSERT_TRUE(again && *again) << "what was written is still there";
  EXPECT_EQ((*again)->token, token);
}

TEST_F(EtcdMapStoreTest, uses_the_next_endpoint) {
  Etcd dead;
  Etcd etcd;
  etcd.start();
  MapStore& store = store_at(dead.url() + ",etcd://" + etcd.url().substr(7));
  ASSERT_TRUE(await_etcd(store));
  std::string token = *run(store.compare_and_swap(first_map(), "", {}));
  EXPECT_EQ((*run(store.load({})))->token, token);
}

TEST_F(EtcdMapStoreTest, many_writers_take_turns) {
  constexpr uint64_t kNodes = 4;
  constexpr uint64_t kSwaps = 10;
  Etcd etcd;
  etcd.start();
  MapStore& store = store_at(etcd.url());
  ASSERT_TRUE(await_etcd(store));
  ASSERT_TRUE(run(store.compare_and_swap(first_map(), "", {})));
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kNodes; ++i) {
    MapStore& mine = store_at(etcd.url());
    threads.emplace_back([&, i] {
      for (uint64_t done = 0; done < kSwaps;) {
        auto stored = run(mine.load({}));
        ASSERT_TRUE(stored && *stored);
        SlotMap next = (*stored)->map;
        ++next.version;
        // Equal maps are one state in etcd: each writer leaves its mark.
        next.members[0].incarnation = next.version * kNodes + i;
        auto token = run(mine.compare_and_swap(next, (*stored)->token, {}));
        if (token)
          ++done;
        else
          ASSERT_EQ(token.error().code(), Code::kConflict);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ((*run(store.load({})))->map.version, 1 + kNodes * kSwaps);
}

TEST_F(EtcdMapStoreTest, refuses_what_is_no_address) {
  for (const char* bad : {"", "ftp://h:1", "http://", "http://h:1/path", "etcd://h:1,,"}) {
    auto made = make_etcd_map_store(bad, shard_->world(), log_, "test");
    ASSERT_FALSE(made) << bad;
    EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  }
  EXPECT_FALSE(make_etcd_map_store("http://h:1", shard_->world(), log_, "Bad Name"));
}

}  // namespace
}  // namespace shoal
