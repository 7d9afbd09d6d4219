#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/commands.h"
#include "apps/doctor.h"

namespace shoal {
namespace {

struct DoctorArguments {
  std::string origin;
  bool json = false;
  std::string config;
  std::map<std::string, std::string> flags;
};

int run_doctor(const DoctorArguments& arguments) {
  auto resolved = resolve_options({arguments.flags, shoal_environment(), arguments.config});
  if (!resolved) return fail_with(resolved.error());
  auto findings = examine(arguments.origin, resolved->options);
  for (const std::string& warning : resolved->warnings) {
    findings.push_back({Finding::Verdict::kWarn, "environment", warning, ""});
  }
  fmt::print("{}{}", arguments.json ? findings_json(findings) : findings_table(findings),
             arguments.json ? "\n" : "");
  bool failed = std::any_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.verdict == Finding::Verdict::kFail;
  });
  return failed ? kExitFailed : kExitDone;
}

}  // namespace

void add_doctor_command(CLI::App& app, Run& run) {
  auto* command =
      app.add_subcommand("doctor", "Check that this machine and an origin fit together");
  command->group("Run");
  auto arguments = std::make_shared<DoctorArguments>();
  command->add_option("origin", arguments->origin, "As for shoal mount")
      ->required()
      ->type_name("ORIGIN");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  for (const char* name : {"cache-dir", "account-key-file", "sas-file"}) {
    const OptionSpec* spec = find_option(name);
    command
        ->add_option_function<std::string>(
            std::string("--") + name,
            [arguments, name](const std::string& value) { arguments->flags[name] = value; },
            std::string(spec->help))
        ->type_name(std::string(spec->placeholder));
  }
  command->add_flag_callback(
      "--read-only", [arguments] { arguments->flags["read-only"] = "true"; },
      "Do not test writing");
  command->add_option("--config", arguments->config, "TOML file of shoal mount")->type_name("FILE");
  command->footer(
      "Exit status 1 if a check fails.\n\nExamples:\n  shoal doctor az://account/container");
  command->callback([&run, arguments] { run = [arguments] { return run_doctor(*arguments); }; });
}

}  // namespace shoal
