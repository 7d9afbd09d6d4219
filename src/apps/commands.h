// The subcommands of `shoal`. Each add_ function adds its own to the parser; the parsed one leaves
// its deed in `run`, which main calls when parsing is over. Exit status: 0 done, 1 failed, 2 usage.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace CLI {
class App;
}

namespace shoal {

using Run = std::function<int()>;

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

void add_node_commands(CLI::App& app, Run& run);     // mount, serve, unmount
void add_control_commands(CLI::App& app, Run& run);  // status, sync, warm, pin, unpin, evict
void add_doctor_command(CLI::App& app, Run& run);
void add_completion_command(CLI::App& app, Run& run);
void add_version_command(CLI::App& app, Run& run);

// `shoal bench` and `shoal simulate` are tables of scenarios that main gets from their libraries.
struct ScenarioArguments {
  bool json = false;
  uint64_t nodes = 1;
  uint64_t seed = 1;
  // NAME=VALUE pairs as typed after the scenario; what they mean is the scenario's own affair.
  std::vector<std::pair<std::string, std::string>> parameters;
};
struct Scenario {
  std::string_view name;
  std::string_view help;  // one line; parameters and their defaults go in brackets
  int (*run)(const ScenarioArguments&);
};
void add_scenario_command(CLI::App& app, Run& run, const std::string& command,
                          const std::string& help, std::span<const Scenario> scenarios);

// Builds the whole parser.
void add_all_commands(CLI::App& app, Run& run);
// Parses and runs. Usage errors go to stderr with the nearest known word.
int run_command_line(CLI::App& app, Run& run, int argc, const char* const* argv);

// "shoal: <message>" on stderr; answers 1.
int fail_with(const Error& error);

extern const char kVersion[];

}  // namespace shoal
