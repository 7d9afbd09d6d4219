#include "cluster/cluster_bench.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/assert.h"
#include "one_node/load.h"
#include "world_sim/blob_content.h"

namespace shoal::bench {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

namespace {

constexpr uint64_t kPayloadBytes = 16 * kMiB;
constexpr milliseconds kJoinPatience{120'000};
constexpr uint64_t kBlobPool = 256 * kMiB;

Result<double> parse_number(const std::string& value, double min, double max) {
  double number = 0;
  const char* end = value.data() + value.size();
  auto [stop, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || stop != end || !(number >= min && number <= max)) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" is not a number from {} to {}", value, min, max));
  }
  return number;
}

Result<unsigned> parse_count(const std::string& value, double min, double max) {
  SHOAL_ASSIGN_OR_RETURN(double number, parse_number(value, min, max));
  if (number != std::floor(number)) {
    return fail(Code::kInvalidArgument, "\"" + value + "\" is not a whole number");
  }
  return static_cast<unsigned>(number);
}

Result<bool> parse_switch(const std::string& value) {
  if (value == "yes" || value == "true" || value == "1") return true;
  if (value == "no" || value == "false" || value == "0") return false;
  return fail(Code::kInvalidArgument, fmt::format("\"{}\" is neither yes nor no", value));
}

Status apply(ClusterSettings& settings, const std::string& name, const std::string& value) {
  if (name == "nodes") {
    SHOAL_ASSIGN_OR_RETURN(settings.nodes, parse_count(value, 2, kPlacesMax));
  } else if (name == "rounds") {
    SHOAL_ASSIGN_OR_RETURN(settings.rounds, parse_count(value, 1, 1000));
  } else if (name == "size") {
    SHOAL_ASSIGN_OR_RETURN(settings.size, parse_size(value));
    if (settings.size < 8 * kMiB) return fail(Code::kInvalidArgument, "at least 8 MiB");
  } else if (name == "mbit") {
    SHOAL_ASSIGN_OR_RETURN(settings.mbit, parse_number(value, 1, 100'000));
  } else if (name == "files") {
    SHOAL_ASSIGN_OR_RETURN(settings.files, parse_count(value, 1, 1'000'000));
  } else if (name == "seconds") {
    SHOAL_ASSIGN_OR_RETURN(settings.seconds, parse_number(value, 0.01, 3600));
  } else if (name == "dir") {
    settings.directory = value;
  } else if (name == "only") {
    settings.only = value;
  } else if (name == "baseline") {
    if (value != "async-copy" && value != "none") {
      return fail(Code::kInvalidArgument, "known are async-copy and none");
    }
    settings.baseline = value;
  } else if (name == "shoal") {
    settings.shoal = value;
  } else if (name == "keep") {
    SHOAL_ASSIGN_OR_RETURN(settings.keep, parse_switch(value));
  } else if (name == "strict") {
    SHOAL_ASSIGN_OR_RETURN(settings.strict, parse_switch(value));
  } else if (name == "quick") {
    SHOAL_ASSIGN_OR_RETURN(settings.quick, parse_switch(value));
  } else {
    return fail(
        Code::kInvalidArgument,
        "no such parameter; known are nodes, rounds, size, mbit, files, seconds, dir, only, "
        "baseline, shoal, keep, strict, quick");
  }
  return {};
}

void make_quick(ClusterSettings& settings) {
  settings.rounds = 1;
  settings.size = std::min(settings.size, 64 * kMiB);
  settings.files = std::min<uint64_t>(settings.files, 200);
  settings.seconds = std::min(settings.seconds, 0.2);
}

Result<std::string> resolve_program(const std::string& path) {
  std::error_code error;
  fs::path resolved = fs::canonical(path, error);
  if (error) {
    return fail(Code::kNotFound,
                fmt::format("cannot find the program {}: {}", path, error.message()));
  }
  return resolved.string();
}

Facts parameter_facts(const ClusterSettings& settings) {
  return {{"nodes", fmt::format("{}", settings.nodes)},
          {"rounds", fmt::format("{}", settings.rounds)},
          {"size_bytes", fmt::format("{}", settings.size)},
          {"link_mbit", fmt::format("{}", settings.mbit)},
          {"link", "veth per node (MTU 9000), routed, tbf on both ends (burst 256 KiB)"},
          {"congestion_control", "reno"},
          {"medians", "of the rounds"}};
}

bool wants_group(const ClusterBench& bench, const ClusterGroup& group) {
  return std::any_of(group.rows.begin(), group.rows.end(),
                     [&bench](const std::string& row) { return bench.wants(row); });
}

// One that fails does not stop the others.
bool run_groups(ClusterBench& bench, const ClusterScenario& scenario) {
  bool complete = true;
  bool any = false;
  for (const ClusterGroup& group : scenario.groups) {
    if (!wants_group(bench, group) || interrupted()) continue;
    any = true;
    size_t before = bench.report.rows.size();
    // One that failed may have left the origin limited or away.
    if (!bench.stub.shape({})) complete = false;
    Status status = group.run(bench);
    if (!status) {
      fmt::print(stderr, "shoal: bench {}: {}\n", group.name, status.error().message());
      complete = false;
    }
    for (const std::string& name : group.rows) {
      auto named = [&name](const Row& row) { return row.name == name; };
      auto begin = bench.report.rows.begin() + static_cast<ptrdiff_t>(before);
      if (!bench.wants(name) || std::any_of(begin, bench.report.rows.end(), named)) continue;
      bench.add(Row{name, "", std::nullopt, std::nullopt, std::nullopt, Goal::kNone, 0});
      complete = false;
    }
  }
  if (!any) fmt::print(stderr, "shoal: no row is called {}\n", bench.settings.only);
  return complete && any;
}

Result<bool> run_all(const ClusterScenario& scenario, ClusterSettings settings, Report& report) {
  SHOAL_ASSIGN_OR_RETURN(settings.shoal, resolve_program(settings.shoal));
  catch_interrupts();
  SHOAL_RETURN_IF_ERROR(enter_own_namespaces());  // before any thread
  report.parameters = parameter_facts(settings);
  SHOAL_ASSIGN_OR_RETURN(auto work, WorkDirectory::make(settings.directory, settings.keep));
  report.machine = machine_facts(work->path());
  SHOAL_ASSIGN_OR_RETURN(auto stub, Stub::start(*work, kBlobPool, "0.0.0.0"));
  ClusterBench bench(settings, *work, *stub, report);
  bool complete = run_groups(bench, scenario);
  SHOAL_RETURN_IF_ERROR(check_interrupted());
  return complete;
}

Status read_and_compare(const std::string& path, uint64_t size, uint64_t seed) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(error_from_errno(errno, "cannot open " + path));
  Buffer buffer(kMiB);
  Status status;
  uint64_t at = 0;
  while (status && at < size) {
    ByteSpan part = buffer.part(0, std::min(kMiB, size - at));
    ssize_t n = pread(file, part.data(), part.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR && !interrupted()) continue;
    if (n < 0) status = fail(error_from_errno(errno, "reading " + path));
    if (n == 0) status = fail(Code::kCorrupt, fmt::format("{} ends at {}", path, at));
    if (n <= 0) break;
    auto got = static_cast<size_t>(n);
    if (!synthetic_equal(seed, at, part.first(got))) {
      status =
          fail(Code::kCorrupt, fmt::format("{} has wrong bytes within {} + {}", path, at, got));
    }
    at += got;
  }
  close(file);
  return status;
}

}  // namespace

Result<ClusterSettings> parse_cluster_settings(const NameValues& pairs, ClusterSettings settings) {
  // quick first, so that single values can be changed after it.
  for (bool first : {true, false}) {
    for (const auto& [name, value] : pairs) {
      if ((name == "quick") != first) continue;
      Status status = apply(settings, name, value);
      if (!status) return fail(std::move(status).error().with_context(name + "=" + value));
    }
    if (first && settings.quick) make_quick(settings);
  }
  return settings;
}

bool ClusterBench::wants(const std::string& row) const {
  if (settings.baseline == "none" && row.ends_with("baseline")) return false;
  return fnmatch(settings.only.c_str(), row.c_str(), 0) == 0 ||
         row.starts_with(settings.only + ".");
}

void ClusterBench::add(Row row) {
  if (wants(row.name)) report.rows.push_back(std::move(row));
}

void ClusterBench::add_value(std::string name, std::string unit, double value, Goal goal,
                             double target) {
  add({std::move(name), std::move(unit), value, std::nullopt, std::nullopt, goal, target});
}

void ClusterBench::fact(std::string name, std::string value) {
  report.parameters.emplace_back(std::move(name), std::move(value));
}

void ClusterBench::progress(const std::string& text) const {
  fmt::print(stderr, "shoal: {}\n", text);
}

Result<std::string> ClusterBench::payload() {
  std::string path = work / "payload";
  std::error_code error;
  if (fs::exists(path, error)) return path;
  SHOAL_RETURN_IF_ERROR(make_native_file(path, kPayloadBytes, 1));
  return path;
}

Result<double> ClusterBench::link_rate(const Lab& lab, unsigned place) {
  TcpLoad load;
  load.senders = {-1};
  load.receiver = lab.network(place);
  load.address = lab.address(place);
  load.connections = 4;
  load.bytes = static_cast<uint64_t>(settings.bytes_per_second() * settings.seconds);
  SHOAL_ASSIGN_OR_RETURN(load.file, payload());
  SHOAL_ASSIGN_OR_RETURN(TcpOutcome outcome, run_tcp(load));
  return outcome.rate();
}

Result<std::unique_ptr<ClusterNodes>> ClusterBench::start_nodes(const Lab& lab, unsigned count,
                                                                const NodeChoice& choice) {
  NodeChoice own = choice;
  // A name of its own: maps of earlier clusters still lie in the origin.
  if (!own.cluster.empty()) own.cluster += fmt::format("{}", ++clusters_);
  std::error_code error;
  for (unsigned i = 0; i < lab.places(); ++i) fs::remove_all(work / fmt::format("n{}", i), error);
  auto nodes = std::make_unique<ClusterNodes>(lab, work, stub, settings.shoal);
  SHOAL_RETURN_IF_ERROR(nodes->start(0, count, own));
  if (!own.cluster.empty()) SHOAL_RETURN_IF_ERROR(nodes->wait_for_members(count, kJoinPatience));
  return nodes;
}

Result<std::string> ClusterBench::new_object(uint64_t size, uint64_t seed) {
  std::string name = fmt::format("object{}", ++objects_);
  SHOAL_RETURN_IF_ERROR(stub.add_blob(name, size, seed));
  return name;
}

std::vector<ClusterScenario> cluster_scenarios() {
  return {fan_out_scenario(),  fan_in_scenario(),     elastic_scenario(),
          metadata_scenario(), many_nodes_scenario(), fan_out_write_scenario()};
}

int run_cluster_scenario(const ClusterScenario& scenario, const NameValues& pairs, bool json) {
  auto settings = parse_cluster_settings(pairs, scenario.defaults);
  if (!settings) {
    fmt::print(stderr, "shoal: bench {}: {}\n", scenario.name, settings.error().message());
    return 2;
  }
  Report report;
  report.scenario = scenario.name;
  auto complete = run_all(scenario, *settings, report);
  if (!complete) {
    fmt::print(stderr, "shoal: bench {}: {}\n", scenario.name, complete.error().message());
    return 1;
  }
  fmt::print("{}\n", json ? report.to_json() : report.to_table());
  bool met = std::all_of(report.rows.begin(), report.rows.end(),
                         [](const Row& row) { return row.met().value_or(true); });
  return *complete && (met || !settings->strict) ? 0 : 1;
}

Result<double> origin_share(const Stub& stub, uint64_t size) {
  SHOAL_ASSIGN_OR_RETURN(auto stats, stub.stats());
  return stats.value("bytes_out", 0.0) / static_cast<double>(size);
}

Result<double> idle_cores(ClusterNodes& nodes, double seconds) {
  SHOAL_ASSIGN_OR_RETURN(double before, nodes.cpu_seconds());
  double begun = seconds_now();
  // Idle time is what is measured here.
  while (seconds_now() - begun < seconds) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  SHOAL_ASSIGN_OR_RETURN(double after, nodes.cpu_seconds());
  return (after - before) / (seconds_now() - begun);
}

Result<double> origin_gets(const Stub& stub, const std::string& object) {
  SHOAL_ASSIGN_OR_RETURN(auto stats, stub.stats());
  double gets = 0;
  for (const auto& [name, count] : stats["gets"].items()) {
    if (name == object || name.ends_with("/" + object)) gets += count.template get<double>();
  }
  return gets;
}

std::vector<ReaderOutcome> read_together(const std::vector<std::string>& paths, uint64_t size,
                                         uint64_t seed) {
  (void)synthetic_span(seed, 0);  // the pattern is made at its first use
  std::vector<ReaderOutcome> out(paths.size());
  std::barrier<> start(static_cast<ptrdiff_t>(paths.size() + 1));
  std::vector<std::jthread> threads;
  double begun = 0;
  for (size_t i = 0; i < paths.size(); ++i) {
    threads.emplace_back([&, i] {
      start.arrive_and_wait();
      out[i].status = read_and_compare(paths[i], size, seed);
      out[i].seconds = seconds_now();
    });
  }
  begun = seconds_now();
  start.arrive_and_wait();
  threads.clear();
  for (ReaderOutcome& one : out) one.seconds -= begun;
  return out;
}

Status check_readers(const std::vector<ReaderOutcome>& readers) {
  for (const ReaderOutcome& one : readers) {
    if (!one.status) return one.status;
  }
  return {};
}

double slowest(const std::vector<ReaderOutcome>& readers) {
  SHOAL_ASSERT(!readers.empty());
  return std::max_element(readers.begin(), readers.end(),
                          [](const auto& a, const auto& b) { return a.seconds < b.seconds; })
      ->seconds;
}

double fastest(const std::vector<ReaderOutcome>& readers) {
  SHOAL_ASSERT(!readers.empty());
  return std::min_element(readers.begin(), readers.end(),
                          [](const auto& a, const auto& b) { return a.seconds < b.seconds; })
      ->seconds;
}

}  // namespace shoal::bench
