// The command line of shoal-blob-stub.
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "base/object_name.h"
#include "blob_stub/blob_stub.h"

namespace shoal {

namespace {

struct Arguments {
  BlobStubOptions options;
  std::vector<std::string> containers = {"test"};
  std::vector<std::string> synthetic;
  std::vector<std::string> many;
  std::string faults_json;
  std::string pool = "0";
  double latency_ms = 0;
  double jitter_ms = 0;
  double connection_mibps = 0;
  double account_mibps = 0;
  double client_mibps = 0;
  bool no_auth = false;
  BlobSas sas;
  bool sas_expired = false;
};

uint64_t mibps(double value) { return static_cast<uint64_t>(value * static_cast<double>(kMiB)); }
Duration milliseconds(double value) { return Duration(static_cast<int64_t>(value * 1e6)); }

void declare(CLI::App& app, Arguments& given) {
  BlobStubOptions& options = given.options;
  app.add_option("--address", options.address, "address to listen on")->capture_default_str();
  app.add_option("--port", options.port, "port, 0 for any free one")->capture_default_str();
  app.add_option("--threads", options.threads, "threads")->capture_default_str();
  app.add_option("--congestion", options.congestion, "TCP congestion control; empty: default")
      ->capture_default_str();
  app.add_option("--account", options.service.account, "account")->capture_default_str();
  app.add_option("--key", options.service.key_base64, "account key; default: the emulator's");
  app.add_flag("--no-auth", given.no_auth, "accept every request");
  app.add_option("--sas", given.sas.query, "a SAS token to accept, as the query of a URL");
  app.add_option("--sas-permissions", given.sas.permissions, "what that token allows")
      ->capture_default_str();
  app.add_flag("--sas-expired", given.sas_expired, "that token has expired");
  app.add_flag("--anonymous-read", options.service.anonymous_read, "reads need no credentials");
  app.add_flag("--discard-writes", options.service.discard_writes,
               "forget written bytes; they read back as synthetic bytes of seed 0");
  app.add_option("--pool", given.pool, "memory for bodies that is touched at start, as 4GiB");
  app.add_option("--container", given.containers, "containers to make")->capture_default_str();
  app.add_option("--synthetic", given.synthetic,
                 "NAME:SIZE[:SEED], a blob of synthesised bytes in the first container");
  app.add_option("--many", given.many, "PREFIX:COUNT:SIZE[:SEED], many of them");
  app.add_option("--latency-ms,--delay-ms", given.latency_ms, "time to the first byte");
  app.add_option("--jitter-ms", given.jitter_ms, "up to so much more");
  app.add_option("--connection-mibps", given.connection_mibps, "bandwidth of a connection");
  app.add_option("--account-mibps", given.account_mibps, "bandwidth of the account, each way");
  app.add_option("--client-mibps", given.client_mibps,
                 "bandwidth of all connections of one address, each way");
  app.add_option("--requests-per-second", options.faults.requests_per_second,
                 "above it the answer is 503");
  app.add_option("--faults", given.faults_json,
                 "faults as JSON, as POST /__stub/faults takes them");
  app.add_option("--seed", options.seed, "seed of the faults")->capture_default_str();
}

// "a:b:c" from the right, so that names may hold colons.
std::vector<std::string> split_right(const std::string& text, size_t parts_max) {
  std::vector<std::string> parts;
  std::string rest = text;
  while (parts.size() + 1 < parts_max) {
    size_t colon = rest.rfind(':');
    if (colon == std::string::npos) break;
    parts.insert(parts.begin(), rest.substr(colon + 1));
    rest.resize(colon);
  }
  parts.insert(parts.begin(), rest);
  return parts;
}

Result<uint64_t> parse_count(const std::string& text) {
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9' || value > UINT64_MAX / 10 - 10) {
      return fail(Code::kInvalidArgument, "'" + text + "' is not a whole number");
    }
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

Status add_content(const Arguments& given, BlobStub& stub) {
  for (const std::string& container : given.containers) {
    stub.with_service([&](BlobService& service) { service.add_container(container); });
  }
  const std::string& container = given.containers.front();
  for (const std::string& item : given.synthetic) {
    auto parts = split_right(item, 3);
    if (parts.size() < 2) return fail(Code::kInvalidArgument, item + ": give NAME:SIZE[:SEED]");
    SHOAL_RETURN_IF_ERROR(validate_object_name(parts[0]));
    SHOAL_ASSIGN_OR_RETURN(uint64_t size, parse_size(parts[1]));
    uint64_t seed = hash_string(parts[0]).low;
    if (parts.size() == 3) {
      SHOAL_ASSIGN_OR_RETURN(seed, parse_count(parts[2]));
    }
    stub.with_service(
        [&](BlobService& service) { service.add_synthetic(container, parts[0], size, seed); });
  }
  for (const std::string& item : given.many) {
    auto parts = split_right(item, 4);
    if (parts.size() < 3) {
      return fail(Code::kInvalidArgument, item + ": give PREFIX:COUNT:SIZE[:SEED]");
    }
    SHOAL_ASSIGN_OR_RETURN(uint64_t count, parse_count(parts[1]));
    SHOAL_ASSIGN_OR_RETURN(uint64_t size, parse_size(parts[2]));
    uint64_t seed = 0;
    if (parts.size() == 4) {
      SHOAL_ASSIGN_OR_RETURN(seed, parse_count(parts[3]));
    }
    stub.with_service(
        [&](BlobService& service) { service.add_many(container, parts[0], count, size, seed); });
  }
  return {};
}

Status serve(Arguments given) {
  BlobFaults& faults = given.options.faults;
  faults.latency = milliseconds(given.latency_ms);
  faults.latency_jitter = milliseconds(given.jitter_ms);
  faults.connection_bytes_per_second = mibps(given.connection_mibps);
  faults.account_in_bytes_per_second = mibps(given.account_mibps);
  faults.account_out_bytes_per_second = mibps(given.account_mibps);
  faults.client_in_bytes_per_second = mibps(given.client_mibps);
  faults.client_out_bytes_per_second = mibps(given.client_mibps);
  given.options.service.require_auth = !given.no_auth;
  if (given.sas_expired) given.sas.expires = WallTime{};
  if (!given.sas.query.empty()) given.options.service.sas.push_back(given.sas);
  if (!given.faults_json.empty()) {
    SHOAL_ASSIGN_OR_RETURN(faults, blob_faults_from_json(given.faults_json, faults));
  }
  SHOAL_ASSIGN_OR_RETURN(given.options.pool_bytes, parse_size(given.pool));
  if (!base64_decode(given.options.service.key_base64)) {
    return fail(Code::kInvalidArgument, "--key is not base64");
  }
  // Signals are taken by sigwait below, so every thread must have them blocked.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  SHOAL_ASSIGN_OR_RETURN(auto stub, BlobStub::start(given.options));
  SHOAL_RETURN_IF_ERROR(add_content(given, *stub));
  std::printf("listening on %s:%u\n", given.options.address.c_str(), stub->port());
  std::printf("congestion control: %s\n", stub->congestion().c_str());
  std::fflush(stdout);
  int received = 0;
  sigwait(&signals, &received);
  stub->stop();
  return {};
}

}  // namespace

int blob_stub_main(int argc, char** argv) {
  Arguments given;
  CLI::App app(
      "A fake Azure Blob service for tests and benchmarks: strict, in memory, with faults.");
  declare(app, given);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
  Status status = serve(std::move(given));
  if (!status) {
    std::fprintf(stderr, "shoal-blob-stub: %s\n", status.error().to_string().c_str());
    return status.error().code() == Code::kInvalidArgument ? 2 : 1;
  }
  return 0;
}

}  // namespace shoal
