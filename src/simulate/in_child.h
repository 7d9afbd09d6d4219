// Work in a process of its own. A simulation keeps what crashed machines left for ever (world_sim),
// so one after the other in one process would need the memory of all of them.
#pragma once

#include <functional>
#include <vector>

#include "base/error.h"

namespace shoal::simulate {

// Runs `work` in a forked child and answers what it answered. kInternal: the child died. The caller
// has one thread.
Result<std::vector<double>> in_child(const std::function<Result<std::vector<double>>()>& work);

}  // namespace shoal::simulate
