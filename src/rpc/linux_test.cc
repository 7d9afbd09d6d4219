// The scenarios over TCP on loopback, and sendfile.
#include <gtest/gtest.h>

#include "async/disk_io.h"
#include "rpc/scenarios_test_support.h"
#include "world_linux/test_support.h"

namespace shoal {
namespace {

class LinuxBed final : public Bed {
 public:
  World& caller() override { return shard_->world(); }
  World& server() override { return shard_->world(); }
  std::string listen() const override { return "127.0.0.1:0"; }
  std::string listen_further() const override { return "127.0.0.2:0"; }
  void run(Task<void> scenario) override { run_blocking(*shard_, std::move(scenario)); }

 private:
  std::unique_ptr<Shard> shard_ = start_test_shard();
};

class OnLinux : public testing::TestWithParam<scenarios::Scenario> {};

TEST_P(OnLinux, holds) {
  LinuxBed bed;
  auto start = [](Bed& where, Task<void> (*scenario)(Bed&)) -> Task<void> {
    co_await scenario(where);
  };
  bed.run(start(bed, GetParam().run));
}

TEST_P(OnLinux, holds_with_tls) {
  LinuxBed bed;
  bed.tls = true;
  auto start = [](Bed& where, Task<void> (*scenario)(Bed&)) -> Task<void> {
    co_await scenario(where);
  };
  bed.run(start(bed, GetParam().run));
}

INSTANTIATE_TEST_SUITE_P(Rpc, OnLinux, testing::ValuesIn(scenarios::kAll),
                         [](const auto& info) { return std::string(info.param.name); });

Task<void> sends_files(Bed& bed, std::string path) {
  Disk& disk = bed.server().disk;
  auto file = co_await disk_io::open(disk, path, DiskOp::kOpenWrite | DiskOp::kOpenCreate);
  EXPECT_OK(file);
  std::string bytes = make_payload(5 * kMiB + 123, 4);
  EXPECT_OK(co_await disk_io::write(disk, *file, 0, as_bytes(bytes)));
  {
    scenarios::Pair pair(bed);
    co_await pair.start();
    pair.server.handler.file = *file;
    std::string address = pair.rpc_server->address();
    for (int i = 0; i < 4; ++i) {
      EXPECT_OK(co_await read_and_check(*pair.pool, address, bytes.size(), 4, 0, pair.soon()));
    }
    // The file is shorter than what the answer promised: the connection cannot go on.
    EXPECT_OK(co_await disk_io::set_size(disk, *file, 3 * kMiB));
    EXPECT_CODE(co_await read_and_check(*pair.pool, address, bytes.size(), 4, 0, pair.soon()),
                Code::kUnavailable);
    EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
    co_await pair.stop();
  }
  EXPECT_OK(co_await disk_io::close(disk, *file));
}

TEST(SendFile, carries_a_file) {
  TemporaryDirectory directory;
  for (bool tls : {false, true}) {
    LinuxBed bed;
    bed.tls = tls;
    bed.run(sends_files(bed, directory / "file"));
  }
}

Task<void> two_servers_on_one_port(Bed& bed) {
  TestNode node(bed.server(), 1);
  RpcServerOptions options;
  options.listen = bed.listen();
  auto first = co_await RpcServer::start(node.context, node.handler, options);
  EXPECT_OK(first);
  options.listen = (*first)->address();
  EXPECT_CODE(co_await RpcServer::start(node.context, node.handler, options), Code::kBusy);
  co_await (*first)->stop();
}

TEST(Server, port_in_use_is_busy) {
  LinuxBed bed;
  bed.run(two_servers_on_one_port(bed));
}

}  // namespace
}  // namespace shoal
