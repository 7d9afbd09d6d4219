#include "simulate/report.h"

namespace shoal::simulate {

Report make_report(uint64_t seed, const Findings& findings, std::string plan, Simulation& sim,
                   const std::deque<std::string>& log_lines) {
  Report report;
  report.seed = seed;
  report.failures = findings.failures;
  report.plan = std::move(plan);
  report.trace_hash = sim.trace_hash();
  report.steps = sim.scheduler().steps();
  report.virtual_seconds = to_seconds(sim.now().time_since_epoch());
  report.counters = findings.counters;
  report.last_log_lines.assign(log_lines.begin(), log_lines.end());
  return report;
}

}  // namespace shoal::simulate
