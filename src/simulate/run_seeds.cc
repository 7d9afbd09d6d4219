#include "simulate/run_seeds.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/assert.h"

namespace shoal::simulate {

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr size_t kOutputMax = 1 << 20;  // of one child

struct Child {
  pid_t pid = -1;
  int answer = -1;  // the report comes through here
  int errors = -1;  // and what an assertion says, here
  uint64_t seed = 0;
  Clock::time_point deadline;
  std::string answer_text;
  std::string errors_text;
};

std::string to_text(const Report& report) {
  json out{{"failures", report.failures},
           {"plan", report.plan},
           {"trace_hash", report.trace_hash},
           {"steps", report.steps},
           {"counters", report.counters},
           {"log", report.last_log_lines},
           {"virtual_seconds", report.virtual_seconds}};
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

Report from_text(uint64_t seed, const std::string& text) {
  Report report;
  report.seed = seed;
  json in = json::parse(text, nullptr, false);
  if (in.is_discarded()) {
    report.failures.push_back("the child ended without a report");
    return report;
  }
  report.failures = in.value("failures", std::vector<std::string>());
  report.plan = in.value("plan", "");
  report.trace_hash = in.value("trace_hash", uint64_t{0});
  report.steps = in.value("steps", uint64_t{0});
  report.virtual_seconds = in.value("virtual_seconds", 0.0);
  report.counters = in.value("counters", std::map<std::string, uint64_t>());
  report.last_log_lines = in.value("log", std::vector<std::string>());
  return report;
}

void write_all(int descriptor, const std::string& text) {
  size_t at = 0;
  while (at < text.size()) {
    ssize_t count = ::write(descriptor, text.data() + at, text.size() - at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    at += static_cast<size_t>(count);
  }
}

[[noreturn]] void run_child(const SeedScenario& scenario, uint64_t seed, bool twice, bool log,
                            int answer) {
  SeedOptions options;
  options.log_level = LogLevel::kDebug;
  if (log) {
    options.log_sink = [](LogLevel, std::string_view line) { fmt::print(stderr, "{}\n", line); };
  }
  Report report = scenario.run(seed, options);
  if (twice && report.ok()) {
    Report again = scenario.run(seed, options);
    report.counters["ran_twice"] = 1;
    if (again.trace_hash != report.trace_hash) {
      report.failures.push_back(fmt::format("not deterministic: traces {:#x} and {:#x}",
                                            report.trace_hash, again.trace_hash));
    }
  }
  write_all(answer, to_text(report));
  ::_exit(0);  // what crashed incarnations left is not for destructors
}

Child start_child(const SeedScenario& scenario, uint64_t seed, const SeedsOptions& options) {
  int answer[2];
  int errors[2];
  SHOAL_ASSERT(::pipe(answer) == 0 && ::pipe(errors) == 0, "no pipe for a child");
  std::fflush(nullptr);
  Child child;
  child.seed = seed;
  child.deadline = Clock::now() + std::chrono::seconds(options.seconds_max);
  child.pid = ::fork();
  SHOAL_ASSERT(child.pid >= 0, "cannot start a child");
  if (child.pid == 0) {
    ::close(answer[0]);
    ::close(errors[0]);
    if (!options.log) ::dup2(errors[1], STDERR_FILENO);
    ::close(errors[1]);
    bool twice = options.twice_every != 0 && seed % options.twice_every == 0;
    run_child(scenario, seed, twice, options.log, answer[1]);
  }
  ::close(answer[1]);
  ::close(errors[1]);
  child.answer = answer[0];
  child.errors = errors[0];
  return child;
}

// Reads what is there. False at the end.
bool drain(int& descriptor, std::string& text) {
  if (descriptor < 0) return false;
  char buffer[16384];
  ssize_t count = ::read(descriptor, buffer, sizeof(buffer));
  if (count < 0 && errno == EINTR) return true;
  if (count > 0) {
    if (text.size() < kOutputMax) text.append(buffer, static_cast<size_t>(count));
    return true;
  }
  ::close(descriptor);
  descriptor = -1;
  return false;
}

// Waits until the child ended or something came; true when it ended.
bool attend(Child& child, int wait_ms) {
  pollfd waits[2] = {{child.answer, POLLIN, 0}, {child.errors, POLLIN, 0}};
  ::poll(waits, 2, wait_ms);
  if (waits[0].revents != 0) drain(child.answer, child.answer_text);
  if (waits[1].revents != 0) drain(child.errors, child.errors_text);
  if (child.answer < 0 && child.errors < 0) return true;
  if (Clock::now() > child.deadline) {
    ::kill(child.pid, SIGKILL);
    child.deadline = Clock::time_point::max();
    child.errors_text += "it took too long and was ended";
  }
  return false;
}

Report finish(Child& child) {
  int status = 0;
  while (::waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  Report report = from_text(child.seed, child.answer_text);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    report.failures.clear();
    report.failures.push_back(
        fmt::format("the process died ({}): {}",
                    WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status)) : "exit",
                    child.errors_text.substr(0, 4000)));
  }
  return report;
}

void add(SeedsResult& result, Report report) {
  ++result.run;
  result.steps += report.steps;
  result.virtual_seconds += report.virtual_seconds;
  for (const auto& [name, value] : report.counters) result.counters[name] += value;
  if (!report.ok()) result.failed.push_back(std::move(report));
}

void print_failure(const SeedScenario& scenario, const Report& report) {
  fmt::print("seed {} failed ({})\n", report.seed, report.plan);
  for (const std::string& failure : report.failures) fmt::print("  {}\n", failure);
  for (const std::string& line : report.last_log_lines) fmt::print("    | {}\n", line);
  fmt::print("  reproduce: {} --seed {}\n", scenario.command, report.seed);
}

json to_json(const SeedsCommand& command, const SeedsResult& result, double seconds) {
  json failed = json::array();
  for (const Report& report : result.failed) {
    failed.push_back(
        {{"seed", report.seed},
         {"plan", report.plan},
         {"failures", report.failures},
         {"reproduce", fmt::format("{} --seed {}", command.scenario.command, report.seed)}});
  }
  return {{"scenario", command.scenario.name},
          {"parameters", {{"seed", command.seeds.first}, {"seeds", command.seeds.count}}},
          {"seeds_run", result.run},
          {"ok", result.failed.empty()},
          {"failed", std::move(failed)},
          {"virtual_seconds", result.virtual_seconds},
          {"steps", result.steps},
          {"seconds", seconds},
          {"counters", result.counters}};
}

bool parse_number(const char* text, uint64_t& into) {
  auto [end, error] = std::from_chars(text, text + std::strlen(text), into);
  return error == std::errc() && *end == '\0';
}

}  // namespace

SeedsResult run_seeds(const SeedScenario& scenario, const SeedsOptions& options) {
  SeedsResult result;
  std::vector<Child> children;
  uint64_t next = options.first;
  uint64_t end = options.first + options.count;
  bool stop = false;
  while (next < end || !children.empty()) {
    while (next < end && !stop && children.size() < std::max(1u, options.jobs)) {
      children.push_back(start_child(scenario, next++, options));
    }
    if (children.empty()) break;
    for (size_t i = 0; i < children.size();) {
      if (!attend(children[i], 5)) {
        ++i;
        continue;
      }
      Report report = finish(children[i]);
      stop = stop || (!report.ok() && options.stop_at_failure);
      add(result, std::move(report));
      children.erase(children.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  return result;
}

int run_seeds_command(const SeedsCommand& command) {
  auto begun = Clock::now();
  SeedsResult result = run_seeds(command.scenario, command.seeds);
  double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  bool ok = result.failed.empty() != command.expect_failure;
  if (command.json) {
    fmt::print(
        "{}\n",
        to_json(command, result, seconds).dump(2, ' ', false, json::error_handler_t::replace));
    return ok ? 0 : 1;
  }
  for (const Report& report : result.failed) print_failure(command.scenario, report);
  fmt::print("{} seeds, {} failed; {:.0f} s of virtual time in {:.1f} s, {} steps\n", result.run,
             result.failed.size(), result.virtual_seconds, seconds, result.steps);
  std::string line;
  for (const auto& [name, value] : result.counters) {
    line += fmt::format("{}{} {}", line.empty() ? "" : ", ", name, value);
  }
  fmt::print("{}\n", line);
  if (command.expect_failure) {
    fmt::print("{}\n", ok ? "the planted bug was caught" : "the planted bug was NOT caught");
  }
  return ok ? 0 : 1;
}

int simulate_main(SeedScenario scenario, int argc, char** argv) {
  SeedsCommand command;
  command.scenario = std::move(scenario);
  command.seeds.jobs = 1;
  for (int i = 1; i < argc; ++i) {
    std::string_view flag = argv[i];
    uint64_t jobs = 1;
    bool valued =
        flag == "--seed" || flag == "--seeds" || flag == "--jobs" || flag == "--twice-every";
    if (valued) {
      uint64_t& into = flag == "--seed"          ? command.seeds.first
                       : flag == "--seeds"       ? command.seeds.count
                       : flag == "--twice-every" ? command.seeds.twice_every
                                                 : jobs;
      if (i + 1 >= argc || !parse_number(argv[i + 1], into)) {
        fmt::print(stderr, "{} needs a number\n", flag);
        return 2;
      }
      ++i;
      if (flag == "--jobs") command.seeds.jobs = static_cast<uint32_t>(jobs);
    } else if (flag == "--json") {
      command.json = true;
    } else if (flag == "--log") {
      command.seeds.log = true;
    } else if (flag == "--expect-failure") {
      command.expect_failure = true;
      command.seeds.stop_at_failure = true;
    } else {
      fmt::print(
          stderr,
          "{} is not known; known are --seed N, --seeds COUNT, --jobs N, --twice-every N, --json, "
          "--log, --expect-failure\n",
          flag);
      return 2;
    }
  }
  return run_seeds_command(command);
}

}  // namespace shoal::simulate
