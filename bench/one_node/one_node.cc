#include "one_node/one_node.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>

namespace shoal::bench {

namespace {

Result<uint64_t> parse_count(const std::string& value, uint64_t min, uint64_t max) {
  uint64_t number = 0;
  const char* end = value.data() + value.size();
  auto [stop, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || stop != end || number < min || number > max) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" is not a number from {} to {}", value, min, max));
  }
  return number;
}

Result<bool> parse_switch(const std::string& value) {
  if (value == "yes" || value == "true" || value == "1" || value.empty()) return true;
  if (value == "no" || value == "false" || value == "0") return false;
  return fail(Code::kInvalidArgument, fmt::format("\"{}\" is neither yes nor no", value));
}

void make_quick(Settings& settings) {
  settings.quick = true;
  settings.rounds = 1;
  settings.seconds = 0.1;
  settings.size = 64 * kMiB;
  settings.stream_size = 256 * kMiB;
  settings.small_files = 300;
  settings.list_objects = 6000;
  settings.latency_reads = 20;
  settings.memory = "128MiB";
  settings.idle_seconds = 0.5;
}

Status apply(Settings& settings, const std::string& name, const std::string& value) {
  if (name == "rounds") {
    SHOAL_ASSIGN_OR_RETURN(uint64_t count, parse_count(value, 1, 1000));
    settings.rounds = static_cast<unsigned>(count);
  } else if (name == "seconds") {
    char* end = nullptr;
    settings.seconds = std::strtod(value.c_str(), &end);
    if (*end != '\0' || !(settings.seconds > 0 && settings.seconds <= 3600)) {
      return fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a time in seconds", value));
    }
  } else if (name == "size") {
    SHOAL_ASSIGN_OR_RETURN(settings.size, parse_size(value));
    if (settings.size < 16 * kMiB || settings.size % (4 * kMiB) != 0) {
      return fail(Code::kInvalidArgument, "must be a multiple of 4 MiB and at least 16 MiB");
    }
  } else if (name == "stream-size") {
    SHOAL_ASSIGN_OR_RETURN(settings.stream_size, parse_size(value));
    if (settings.stream_size < 16 * kMiB) return fail(Code::kInvalidArgument, "at least 16 MiB");
  } else if (name == "files") {
    SHOAL_ASSIGN_OR_RETURN(settings.small_files, parse_count(value, 1, 10'000'000));
  } else if (name == "objects") {
    SHOAL_ASSIGN_OR_RETURN(settings.list_objects, parse_count(value, 1, 10'000'000));
  } else if (name == "connections") {
    SHOAL_ASSIGN_OR_RETURN(uint64_t count, parse_count(value, 1, 256));
    settings.connections = static_cast<unsigned>(count);
  } else if (name == "memory") {
    SHOAL_RETURN_IF_ERROR(parse_size(value));
    settings.memory = value;
  } else if (name == "dir") {
    settings.directory = value;
  } else if (name == "only") {
    settings.only = value;
  } else if (name == "shoal") {
    settings.shoal = value;
  } else if (name == "keep") {
    SHOAL_ASSIGN_OR_RETURN(settings.keep, parse_switch(value));
  } else if (name == "strict") {
    SHOAL_ASSIGN_OR_RETURN(settings.strict, parse_switch(value));
  } else if (name != "quick") {  // which came first
    return fail(Code::kInvalidArgument,
                "no such parameter; known are rounds, seconds, size, stream-size, files, objects, "
                "connections, memory, dir, only, shoal, quick, keep, strict");
  }
  return {};
}

// The program by its own name: /proc/self/exe would be another one in a child.
Result<std::string> resolve_program(const std::string& path) {
  std::string resolved(PATH_MAX, '\0');
  if (realpath(path.c_str(), resolved.data()) == nullptr) {
    return fail(error_from_errno(errno, "cannot find the program " + path));
  }
  resolved.resize(std::char_traits<char>::length(resolved.c_str()));
  return resolved;
}

Status check_space(const Settings& settings) {
  // The native twin, the mount's copy and a download; or the streaming cache.
  uint64_t needed = std::max(4 * settings.size, settings.stream_size) + kGiB;
  struct statvfs space{};
  if (statvfs(settings.directory.c_str(), &space) != 0) {
    return fail(error_from_errno(errno, "cannot use the directory " + settings.directory));
  }
  uint64_t available = uint64_t{space.f_bavail} * space.f_frsize;
  if (available < needed) {
    return fail(
        Code::kNoSpace,
        fmt::format("{} has {} free, and {} are needed; name another directory with dir=PATH "
                    "or less with size= and stream-size=",
                    settings.directory, format_size(available), format_size(needed)));
  }
  return {};
}

Facts parameter_facts(const Settings& settings) {
  return {{"rounds", fmt::format("{}", settings.rounds)},
          {"seconds_per_measure", fmt::format("{}", settings.seconds)},
          {"size_bytes", fmt::format("{}", settings.size)},
          {"stream_bytes", fmt::format("{}", settings.stream_size)},
          {"small_files", fmt::format("{}", settings.small_files)},
          {"list_objects", fmt::format("{}", settings.list_objects)},
          {"download_connections", fmt::format("{}", settings.connections)},
          {"download_range_bytes", fmt::format("{}", 8 * kMiB)},
          {"memory_limit_busy", settings.memory},
          {"page_cache", "warm for both sides, unless a row's name says diskcold"},
          {"medians", "of the rounds; ratio: of each round's own ratio; sides take turns"}};
}

bool wants_group(const Bench& bench, const Group& group) {
  return std::any_of(group.rows.begin(), group.rows.end(),
                     [&bench](const std::string& row) { return bench.wants(row); });
}

// Runs every group that is wanted; one that fails does not stop the others.
bool run_groups(Bench& bench) {
  bool complete = true;
  bool any = false;
  for (const Group& group : groups()) {
    if (!wants_group(bench, group) || interrupted()) continue;
    any = true;
    size_t before = bench.report.rows.size();
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

Result<bool> run_all(Settings settings, Report& report) {
  SHOAL_ASSIGN_OR_RETURN(settings.shoal, resolve_program(settings.shoal));
  catch_interrupts();
  // Before any thread; the directory is seen from inside the mounts of our own.
  report.parameters = parameter_facts(settings);
  for (auto& fact : enter_namespaces()) report.parameters.push_back(std::move(fact));
  SHOAL_ASSIGN_OR_RETURN(auto work, WorkDirectory::make(settings.directory, settings.keep));
  SHOAL_RETURN_IF_ERROR(check_space(settings));
  report.machine = machine_facts(work->path());
  SHOAL_ASSIGN_OR_RETURN(auto stub, Stub::start(*work, 2 * settings.size));
  Bench bench(settings, *work, *stub, report);
  bool complete = run_groups(bench);
  SHOAL_RETURN_IF_ERROR(check_interrupted());
  return complete;
}

}  // namespace

Result<Settings> parse_settings(const NameValues& pairs) {
  Settings settings;
  // First, so that single values can be changed after it.
  for (const auto& [name, value] : pairs) {
    if (name != "quick") continue;
    auto quick = parse_switch(value);
    if (!quick) return fail(std::move(quick).error().with_context(name + "=" + value));
    if (*quick) make_quick(settings);
  }
  for (const auto& [name, value] : pairs) {
    Status status = apply(settings, name, value);
    if (!status) return fail(std::move(status).error().with_context(name + "=" + value));
  }
  return settings;
}

const std::vector<Group>& groups() {
  static const std::vector<Group> kGroups = {
      // constant
      {"warm",
       {"warm.sequential.1job", "warm.sequential.4jobs", "warm.random4k.1job",
        "warm.random4k.4jobs", "diskcold.sequential.1job"},
       run_warm},
      {"direct",
       {"direct.sequential.1job", "direct.sequential.4jobs", "direct.random4k.1job",
        "direct.random4k.4jobs", "cpu.direct_read"},
       run_direct},
      {"cold",
       {"cold.10gbit.to_file", "cold.10gbit.to_memory", "cold.loopback.to_file",
        "cold.loopback.to_memory", "cpu.cold_read"},
       run_cold},
      {"cold-random",
       {"cold.random4k.origin_bytes", "cold.random4k.latency", "cold.random4k.latency_5ms",
        "cold.first_byte"},
       run_cold_random},
      {"write", {"write.sequential.1job", "write.sequential.4jobs", "cpu.write_upload"}, run_write},
      {"small",
       {"small.create", "small.create_vs_fsync", "small.stat", "small.list", "small.read",
        "small.upload"},
       run_small},
      {"list", {"list.loopback", "list.20ms"}, run_list},
      {"memory", {"memory.idle", "memory.busy"}, run_memory},
      {"reread", {"reread.reopen", "reread.remount", "reread.after_kill"}, run_reread},
  };
  return kGroups;
}

bool Bench::wants(const std::string& row) const {
  const std::string& glob = settings.only;
  if (fnmatch(glob.c_str(), row.c_str(), 0) == 0) return true;
  for (const Group& group : groups()) {
    if (fnmatch(glob.c_str(), group.name.c_str(), 0) != 0) continue;
    if (std::find(group.rows.begin(), group.rows.end(), row) != group.rows.end()) return true;
  }
  return false;
}

void Bench::add(Row row) {
  if (wants(row.name)) report.rows.push_back(std::move(row));
}

void Bench::fact(std::string name, std::string value) {
  report.parameters.emplace_back(std::move(name), std::move(value));
}

void Bench::progress(const std::string& text) const { fmt::print(stderr, "bench: {}\n", text); }

Result<std::unique_ptr<Mount>> Bench::mount(const MountChoice& choice) const {
  return Mount::start(settings.shoal, work, stub, choice);
}

Result<Pairs> alternate(const Bench& bench, const Measure& ours, const Measure& ceiling) {
  Pairs pairs;
  for (unsigned round = 0; round < bench.settings.rounds; ++round) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    double values[2] = {};
    for (unsigned turn = 0; turn < 2; ++turn) {
      bool our_turn = (turn == 0) == (round % 2 == 0);
      SHOAL_ASSIGN_OR_RETURN(values[our_turn ? 0 : 1], our_turn ? ours() : ceiling());
    }
    pairs.add(values[0], values[1]);
  }
  return pairs;
}

int run_one_node(const NameValues& pairs, bool json) {
  auto settings = parse_settings(pairs);
  if (!settings) {
    fmt::print(stderr, "shoal: bench one-node: {}\n", settings.error().message());
    return 2;
  }
  Report report;
  report.scenario = "one-node";
  auto complete = run_all(*settings, report);
  if (!complete) {
    fmt::print(stderr, "shoal: bench one-node: {}\n", complete.error().message());
    return 1;
  }
  fmt::print("{}\n", json ? report.to_json() : report.to_table());
  bool missed = std::any_of(report.rows.begin(), report.rows.end(),
                            [](const Row& row) { return row.met() == false; });
  return *complete && !(settings->strict && missed) ? 0 : 1;
}

}  // namespace shoal::bench
