#include "cluster/reporting_child.h"

#include <unistd.h>

#include <fstream>
#include <thread>

#include "one_node/load.h"

namespace shoal::bench {

namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr double kStartSeconds = 10;

int run(const std::function<Json()>& body) {
  catch_interrupts();
  dprintf(1, "begun\n");
  std::string text = body().dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return write(1, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1;
}

}  // namespace

Result<ReportingChild> ReportingChild::start(const WorkDirectory& work, const std::string& name,
                                             const std::function<Json()>& body) {
  std::string log = work / (name + ".log");
  unlink(log.c_str());
  SHOAL_ASSIGN_OR_RETURN(Child child, Child::fork_off([&body] { return run(body); }, log));
  // One that is quick has ended before we look.
  double until = seconds_now() + kStartSeconds;
  while (seconds_now() < until) {
    bool running = child.running();
    std::ifstream in(log);
    std::string line;
    if (std::getline(in, line) && line == "begun") return ReportingChild(std::move(child), log);
    if (!running) break;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return fail(Code::kUnavailable, name + " did not start:" + last_lines(log, 3));
}

Result<Json> ReportingChild::stop(int signal, milliseconds patience) {
  if (!child_.stop(signal, patience)) return fail(Code::kDeadlineExceeded, "it hangs");
  std::ifstream in(log_);
  std::string line;
  std::getline(in, line);  // "begun"
  std::getline(in, line);
  Json json = Json::parse(line, nullptr, false);
  if (json.is_discarded()) {
    return fail(Code::kInternal, "it ended early:" + last_lines(log_, 3));
  }
  return json;
}

}  // namespace shoal::bench
