#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

#include "apps/commands.h"
#include "apps/completion.h"
#include "apps/doctor.h"
#include "apps/log_sink.h"
#include "apps/progress.h"

namespace shoal {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

ScenarioArguments seen;
int remember(const ScenarioArguments& arguments) {
  seen = arguments;
  return 7;
}

TEST(CommandLine, scenarios_get_their_arguments) {
  constexpr Scenario kScenarios[] = {{"herd", "Many readers", remember}};
  CLI::App app("test", "shoal");
  shoal::Run run;
  add_all_commands(app, run);
  add_scenario_command(app, run, "simulate", "Simulate", kScenarios);
  const char* argv[] = {"shoal", "simulate", "herd", "--nodes", "100", "--seed", "9", "readers=5"};
  EXPECT_EQ(run_command_line(app, run, 8, argv), 7);
  EXPECT_EQ(seen.nodes, 100u);
  EXPECT_EQ(seen.seed, 9u);
  ASSERT_EQ(seen.parameters.size(), 1u);
  EXPECT_EQ(seen.parameters[0].first, "readers");
  EXPECT_EQ(seen.parameters[0].second, "5");
}

TEST(CommandLine, bad_scenario_parameters_are_usage_errors) {
  constexpr Scenario kScenarios[] = {{"herd", "Many readers", remember}};
  CLI::App app("test", "shoal");
  shoal::Run run;
  add_scenario_command(app, run, "simulate", "Simulate", kScenarios);
  const char* argv[] = {"shoal", "simulate", "herd", "readers"};
  EXPECT_EQ(run_command_line(app, run, 4, argv), kExitUsage);
}

TEST(Completion, knows_every_command_and_flag_but_the_hidden) {
  CLI::App app("test", "shoal");
  shoal::Run run;
  add_all_commands(app, run);
  app.add_subcommand("secret", "hidden")->group("");
  for (const char* shell : {"bash", "zsh", "fish"}) {
    std::string script = completion_script(app, shell);
    for (const char* word : {"mount", "status", "warm", "cache-dir", "no-passthrough", "timeout"}) {
      EXPECT_TRUE(contains(script, word)) << shell << " " << word;
    }
    EXPECT_FALSE(contains(script, "secret")) << shell;
  }
}

TEST(Progress, fits_the_terminal_and_counts) {
  JobProgress p{50, 200, 1, 4, 0, "x", ""};
  std::string bar = progress_bar("warm", p, 1.0, 200);
  EXPECT_TRUE(contains(bar, " 25%")) << bar;
  EXPECT_TRUE(contains(bar, "[#####---------------]")) << bar;
  EXPECT_TRUE(contains(bar, "1 of 4 objects")) << bar;
  EXPECT_EQ(progress_bar("warm", p, 1.0, 30).size(), 30u);
  EXPECT_TRUE(contains(progress_line("sync", {}, 0), "sync: "));
}

TEST(Doctor, judges_clocks) {
  EXPECT_EQ(judge_clock(-3).verdict, Finding::Verdict::kOk);
  EXPECT_EQ(judge_clock(-120).verdict, Finding::Verdict::kWarn);
  EXPECT_EQ(judge_clock(3600).verdict, Finding::Verdict::kFail);
}

TEST(Doctor, examines_cache_directories) {
  EXPECT_EQ(examine_cache_dir("/proc/self/nowhere").verdict, Finding::Verdict::kFail);
  EXPECT_EQ(examine_cache_dir("/dev/shm/x/y").verdict, Finding::Verdict::kWarn);
  EXPECT_NE(examine_cache_dir("/tmp/new").verdict, Finding::Verdict::kFail);
}

TEST(Doctor, prints_next_steps) {
  std::vector<Finding> findings = {{Finding::Verdict::kFail, "clock", "off", "set it"}};
  EXPECT_TRUE(contains(findings_table(findings), "-> set it"));
  EXPECT_TRUE(contains(findings_json(findings), "\"ok\": false"));
}

TEST(LogLine, json_survives_odd_bytes) {
  EXPECT_EQ(json_log_line("t", "info", "a\n\"b\""),
            R"({"time":"t","level":"info","message":"a\n\"b\""})");
  EXPECT_TRUE(contains(json_log_line("t", "info", "a\xff"), "\"message\""));
}

}  // namespace
}  // namespace shoal
