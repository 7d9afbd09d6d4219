#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/commands.h"
#include "apps/completion.h"
#include "apps/units.h"

namespace shoal {

const char kVersion[] = SHOAL_VERSION;

namespace {

const CLI::App* chosen(const CLI::App* app) {
  while (true) {
    auto subcommands = app->get_subcommands();
    if (subcommands.empty()) return app;
    app = subcommands.front();
  }
}

// "shoal simulate one-node".
std::string full_name(const CLI::App* app) {
  std::string name = app->get_name();
  for (const CLI::App* up = app->get_parent(); up != nullptr; up = up->get_parent()) {
    name = up->get_name() + " " + name;
  }
  return name;
}

std::vector<std::string> known_flags(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> known_commands(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!command->get_group().empty()) names.push_back(command->get_name());
  }
  return names;
}

constexpr size_t kHelpColumn = 34;
constexpr size_t kHelpWidth = 64;

std::string wrapped(std::string_view text, size_t width) {
  std::string out;
  size_t column = 0;
  while (!text.empty()) {
    size_t space = text.find(' ');
    std::string_view word = text.substr(0, space);
    text = space == std::string_view::npos ? std::string_view() : text.substr(space + 1);
    if (column > 0 && column + 1 + word.size() > width) {
      out.push_back('\n');
      column = 0;
    } else if (column > 0) {
      out.push_back(' ');
      ++column;
    }
    out.append(word);
    column += word.size();
  }
  return out;
}

// The parser indents further lines of a description but does not make them.
void wrap_help(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    option->description(wrapped(option->get_description(), kHelpWidth));
  }
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    command->description(wrapped(command->get_description(), kHelpWidth));
    wrap_help(*command);
  }
}

// What a person needs to hear about a usage error, without the parser's jargon.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error, int argc,
                          const char* const* argv) {
  const CLI::App* at = chosen(&app);
  std::string name = full_name(at);
  std::string hint = fmt::format("see {} --help", name);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr || at == &app) {
    auto extras = app.remaining(true);
    std::string extra = !extras.empty() ? extras.front() : argc > 1 ? argv[1] : "";
    if (extra.starts_with("-")) {
      std::string flag = extra.substr(0, extra.find('='));
      std::string near = nearest_name(flag, known_flags(*at));
      if (!near.empty()) hint = fmt::format("did you mean {}? ", near) + hint;
      return fmt::format("{} knows no {}; {}", name, flag, hint);
    }
    if (at == &app) {
      if (extra.empty()) return "a command is missing; " + hint;
      std::string near = nearest_name(extra, known_commands(app));
      if (!near.empty()) hint = fmt::format("did you mean {}? ", near) + hint;
      return fmt::format("\"{}\" is not a command; {}", extra, hint);
    }
    return fmt::format("{} does not take \"{}\"; {}", name, extra, hint);
  }
  return fmt::format("{}: {}; {}", name, error.what(), hint);
}

}  // namespace

int fail_with(const Error& error) {
  fmt::print(stderr, "shoal: {}\n", error.message());
  return error.code() == Code::kInvalidArgument ? kExitUsage : kExitFailed;
}

void add_version_command(CLI::App& app, Run& run) {
  auto* command = app.add_subcommand("version", "Print the version");
  command->group("Other");
  command->callback([&run] {
    run = [] {
      fmt::print("shoal {}\n", kVersion);
      return kExitDone;
    };
  });
}

namespace {

// Flags that the parser does not know are the scenario's parameters: --NAME=VALUE, or --NAME VALUE,
// whose values the parser took for parameters.
void add_flags(const std::vector<std::string>& flags, std::vector<std::string>& pairs) {
  auto is_value = [](const std::string& word) { return word.find('=') == std::string::npos; };
  for (const std::string& flag : flags) {
    if (!flag.starts_with("--") || flag.size() <= 2) throw CLI::ExtrasError({flag});
    std::string pair = flag.substr(2);
    if (is_value(pair)) {
      auto value = std::ranges::find_if(pairs, is_value);
      if (value == pairs.end()) throw CLI::ValidationError(flag + " needs a value");
      pair += "=" + *value;
      pairs.erase(value);
    }
    pairs.push_back(std::move(pair));
  }
}

}  // namespace

void add_scenario_command(CLI::App& app, Run& run, const std::string& name, const std::string& help,
                          std::span<const Scenario> scenarios) {
  auto* command = app.add_subcommand(name, help);
  command->group("Measure");
  command->require_subcommand(1);
  for (const Scenario& scenario : scenarios) {
    auto* one = command->add_subcommand(std::string(scenario.name), std::string(scenario.help));
    auto arguments = std::make_shared<ScenarioArguments>();  // lives as long as the parser
    auto pairs = std::make_shared<std::vector<std::string>>();
    one->add_flag("--json", arguments->json, "Print one JSON object");
    one->add_option("--nodes", arguments->nodes, "Nodes (default 1)")->check(CLI::PositiveNumber);
    one->add_option("--seed", arguments->seed, "Seed of all chance (default 1)");
    one->add_option("parameters", *pairs, "Parameters of the scenario, also as --NAME VALUE")
        ->type_name("NAME=VALUE");
    one->allow_extras();
    one->callback([&run, arguments, pairs, scenario, one] {
      add_flags(one->remaining(), *pairs);
      for (const std::string& pair : *pairs) {
        size_t equals = pair.find('=');
        if (equals == std::string::npos || equals == 0) {
          throw CLI::ValidationError("\"" + pair + "\" is not NAME=VALUE");
        }
        arguments->parameters.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
      }
      run = [arguments, scenario] { return scenario.run(*arguments); };
    });
  }
}

void add_completion_command(CLI::App& app, Run& run) {
  auto* command = app.add_subcommand("completion", "Print a completion script for a shell");
  command->group("Other");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->type_name("SHELL")
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer(
      "Examples:\n"
      "  shoal completion bash > /etc/bash_completion.d/shoal\n"
      "  shoal completion zsh > ~/.zfunc/_shoal\n"
      "  shoal completion fish > ~/.config/fish/completions/shoal.fish");
  command->callback([&app, &run, shell] {
    run = [&app, shell] {
      fmt::print("{}", completion_script(app, *shell));
      return kExitDone;
    };
  });
}

void add_all_commands(CLI::App& app, Run& run) {
  app.require_subcommand(1);
  app.get_formatter()->column_width(kHelpColumn);
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.footer("shoal COMMAND --help tells about a command. Exit status: 0 done, 1 failed, 2 usage.");
  add_node_commands(app, run);
  add_control_commands(app, run);
  add_doctor_command(app, run);
  add_completion_command(app, run);
  add_version_command(app, run);
}

int run_command_line(CLI::App& app, Run& run, int argc, const char* const* argv) {
  wrap_help(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {  // foreign code
    const CLI::App* at = chosen(&app);
    // The parser prints the last word of the name by itself.
    fmt::print("{}", at->help(at->get_parent() != nullptr ? full_name(at->get_parent()) : ""));
    return kExitDone;
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "shoal: {}\n", usage_message(app, error, argc, argv));
    return kExitUsage;
  }
  return run();
}

}  // namespace shoal
