#include "backend.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>

#include "async/http_io.h"
#include "child_process.h"
#include "origin/azure_sign.h"
#include "world_linux/curl_http.h"

namespace shoal {

namespace {

// What the servers say once they can be asked, and then where.
constexpr std::string_view kAzuriteListens = "listens on http://";
constexpr std::string_view kStubListens = "listening on ";
constexpr std::string_view kAddress = "127.0.0.1:";

// Removed when the program ends.
struct Scratch {
  Scratch() {
    std::string pattern = (std::filesystem::current_path() / "conformance_XXXXXX").string();
    SHOAL_ASSERT(mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string path;
};

Task<Status> create_container(World& world, std::string url) {
  HttpExchange exchange(world.http, Context::within(world.executor, std::chrono::seconds(20)));
  exchange.request.method = "PUT";
  exchange.request.url = url + "?restype=container";
  exchange.request.headers.emplace_back("Content-Type", "application/octet-stream");
  AzureSigner signer(std::string(kEmulatorAccount), {std::string(kEmulatorKey), ""}, "2021-12-02");
  signer.sign(exchange.request, world.executor.wall_now(), "conformance");
  Result<HttpResponse> response = co_await exchange;
  if (!response) co_return fail(std::move(response).error());
  if (response->status == 201 || response->status == 409) co_return Status();
  co_return fail(Code::kUnavailable, "creating the container: " + response->body);
}

Result<std::string> start_azurite(ChildProcess& child) {
  if (std::getenv("SHOAL_NO_AZURITE") != nullptr) {
    return fail(Code::kNotSupported, "SHOAL_NO_AZURITE is set");
  }
  Result<std::string> program = first_line_of(SHOAL_AZURITE_SCRIPT);
  if (!program) return fail(Code::kNotSupported, program.error().message());
  std::vector<std::string> arguments = {
      *program,   "--blobHost",        "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence",
      "--silent", "--disableTelemetry"};
  return child.start(arguments, kAzuriteListens, std::chrono::seconds(40));
}

// Every kind of passing trouble, in one request of eight.
constexpr const char* kFaults =
    R"({"retry_after_ms": 20, "slow_first_byte_ms": 100, "chance": {"busy": 0.02,
        "server_error": 0.02, "reset_before": 0.02, "lost_reply": 0.02, "reset_in_body": 0.02,
        "short_body": 0.02, "slow_first_byte": 0.01}})";

Result<std::string> start_stub(ChildProcess& child, bool faulty) {
  const char* given = std::getenv("SHOAL_STUB_BINARY");
#ifdef SHOAL_STUB_PATH
  std::string program = given != nullptr ? given : SHOAL_STUB_PATH;
#else
  std::string program = given != nullptr ? given : "";
#endif
  if (program.empty() || !std::filesystem::exists(program)) {
    return fail(Code::kNotSupported, "the stub server is not built; set SHOAL_STUB_BINARY");
  }
  std::vector<std::string> arguments = {program, "--port", "0"};
  if (faulty) arguments.insert(arguments.end(), {"--faults", kFaults, "--seed", "1"});
  return child.start(arguments, kStubListens, std::chrono::seconds(20));
}

Backend start(BackendKind kind, ChildProcess& child, const Scratch& scratch) {
  if (kind == BackendKind::kDirectory) return {scratch.path, "", ""};
  Result<std::string> line = kind == BackendKind::kAzurite
                                 ? start_azurite(child)
                                 : start_stub(child, kind == BackendKind::kFaultyStub);
  if (!line) {
    bool absent = line.error().code() == Code::kNotSupported;
    return absent ? Backend{"", line.error().message(), ""}
                  : Backend{"", "", line.error().message()};
  }
  size_t port = line->find(kAddress) + kAddress.size();
  std::string digits = line->substr(port, line->find_first_not_of("0123456789", port) - port);
  std::string url = fmt::format("http://127.0.0.1:{}/devstoreaccount1/conformance", digits);
  Status created = run_blocking(test_shard(), create_container(test_shard().world(), url));
  if (!created) return {"", "", created.error().message()};
  return {url, "", ""};
}

}  // namespace

Shard& test_shard() {
  static std::unique_ptr<Shard> shard = [] {
    auto started = Shard::start({});
    SHOAL_ASSERT(started.has_value(), "no shard");
    return std::move(*started);
  }();
  return *shard;
}

const Backend& backend(BackendKind kind) {
  test_shard();  // outlives what follows
  static Scratch scratch;
  static std::map<BackendKind, ChildProcess> children;
  static std::map<BackendKind, Backend> backends;
  auto found = backends.find(kind);
  if (found == backends.end()) {
    found = backends.emplace(kind, start(kind, children[kind], scratch)).first;
  }
  return found->second;
}

void OriginConformance::SetUp() {
  const Backend& place = backend(GetParam());
  if (!place.skip_reason.empty()) GTEST_SKIP() << place.skip_reason;
  ASSERT_EQ(place.failure, "");
  std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
  test = test.substr(0, test.find('/'));
  location_ = place.location + "/" + test;
  if (GetParam() == BackendKind::kDirectory) std::filesystem::create_directories(location_);
  origin_ = make();
}

std::unique_ptr<Origin> OriginConformance::make(std::string below) {
  OriginConfig config;
  config.location = location_ + below;
  config.retry.retry_limit_time = std::chrono::seconds(20);
  auto origin = make_origin(std::move(config), test_shard().world(), registry_, log_);
  if (!origin) {
    ADD_FAILURE() << origin.error().to_string();
    return nullptr;
  }
  return std::move(*origin);
}

bool OriginConformance::deviates(Deviation deviation) const {
  for (const DeviationRow& row : kDeviations) {
    if (row.backend == GetParam() && row.deviation == deviation) return true;
  }
  return false;
}

PutOptions OriginConformance::named(Condition condition, Metadata metadata) {
  metadata[std::string(kWriteIdName)] = fmt::format("test-{}", ++write_ids_);
  return {std::move(condition), std::move(metadata)};
}

ObjectInfo OriginConformance::put(const std::string& object, std::string_view text,
                                  PutOptions options) {
  bool conditional = options.condition.kind != Condition::Kind::kNone;
  if (conditional && options.metadata.empty()) options = named(std::move(options.condition));
  Result<ObjectInfo> info = run(origin_->put(object, as_bytes(text), std::move(options), {}));
  if (!info) {
    ADD_FAILURE() << object << ": " << info.error().to_string();
    return {};
  }
  EXPECT_EQ(info->name, object);
  EXPECT_EQ(info->size, text.size());
  EXPECT_FALSE(info->etag.empty());
  return *info;
}

Result<std::string> OriginConformance::get(const ObjectInfo& info, uint64_t offset,
                                           uint64_t length) {
  std::string into(length, '?');
  Status status = run(
      origin_->read(info.name, info.etag, offset, std::as_writable_bytes(std::span(into)), {}, {}));
  if (!status) return fail(std::move(status).error());
  return into;
}

Result<std::string> OriginConformance::get(const ObjectInfo& info) {
  return get(info, 0, info.size);
}

std::string text_of_size(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(size, 0);
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

}  // namespace shoal

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  if (result == 0 && all.skipped_test_count() > 0 && all.successful_test_count() == 0) return 77;
  return result;
}
