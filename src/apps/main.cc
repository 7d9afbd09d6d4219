// The one binary.
#include <CLI/CLI.hpp>
#include <cstring>

#include "apps/commands.h"

#ifdef SHOAL_WITH_BENCH
namespace shoal {
std::span<const Scenario> bench_scenarios();
int lab_main(int argc, char** argv);
}  // namespace shoal
#endif
#ifdef SHOAL_WITH_SIMULATE
namespace shoal {
std::span<const Scenario> simulate_scenarios();
}
#endif
#ifdef SHOAL_WITH_BLOB_STUB
namespace shoal {
int blob_stub_main(int argc, char** argv);
}
#endif

int main(int argc, char** argv) {
#ifdef SHOAL_WITH_BLOB_STUB
  if (argc > 1 && std::strcmp(argv[1], "blob-stub") == 0)
    return shoal::blob_stub_main(argc - 1, argv + 1);
#endif
#ifdef SHOAL_WITH_BENCH
  if (argc > 1 && std::strcmp(argv[1], "lab") == 0) return shoal::lab_main(argc - 1, argv + 1);
#endif
  CLI::App app("Shoal: a fast, shared cache over Azure Blob Storage, mounted as a file system",
               "shoal");
  shoal::Run run;
  shoal::add_all_commands(app, run);
#ifdef SHOAL_WITH_BENCH
  shoal::add_scenario_command(app, run, "bench", "Measure, and compare with the ceiling",
                              shoal::bench_scenarios());
#endif
#ifdef SHOAL_WITH_SIMULATE
  shoal::add_scenario_command(app, run, "simulate", "Run the real code in a simulated world",
                              shoal::simulate_scenarios());
#endif
  return shoal::run_command_line(app, run, argc, argv);
}
