#include "cluster/node.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/assert.h"
#include "base/hash.h"

namespace shoal::bench {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds kStartPatience{60'000};
constexpr milliseconds kStopPatience{60'000};
constexpr milliseconds kPollPause{5};
constexpr size_t kLogLines = 8;

// One number of a nested object by its path.
Result<double> number_at(const Json& json, std::string_view where) {
  const Json* at = &json;
  std::istringstream words{std::string(where)};
  for (std::string word; std::getline(words, word, '.');) {
    auto found = at->find(word);
    if (found == at->end()) {
      return fail(Code::kNotFound, fmt::format("the status has no {}", where));
    }
    at = &*found;
  }
  if (!at->is_number()) return fail(Code::kNotFound, fmt::format("no number at {}", where));
  return at->get<double>();
}

}  // namespace

ClusterNode::ClusterNode(const Lab& lab, const WorkDirectory& work, std::string shoal,
                         unsigned place)
    : lab_(lab),
      shoal_(std::move(shoal)),
      place_(place),
      directory_(work / fmt::format("n{}", place)),
      mountpoint_(directory_ + "/mnt"),
      log_(directory_ + "/log") {}

ClusterNode::~ClusterNode() {
  if (!child_.running()) return;
  detach();
  child_.kill_now();
}

std::string ClusterNode::name() const { return fmt::format("n{}", place_); }
std::string ClusterNode::address() const {
  return fmt::format("{}:{}", lab_.address(place_), kDataPort);
}
std::string ClusterNode::http_address() const {
  return fmt::format("{}:{}", lab_.address(place_), kAdminPort);
}

Surroundings ClusterNode::surroundings() const {
  return {.network = lab_.network(place_), .environment = {}};
}

void ClusterNode::detach() const {
  if (mounts_) umount2(mountpoint_.c_str(), MNT_DETACH);
}

Status ClusterNode::begin(const Stub& stub, const NodeChoice& choice) {
  SHOAL_ASSERT(!child_.running());
  cache_ = choice.cache.empty() ? directory_ + "/cache" : choice.cache;
  mounts_ = choice.mount;
  std::error_code error;
  fs::create_directories(mountpoint_, error);
  std::string origin = choice.origin.empty() ? stub.url(lab_.hub_address()) : choice.origin;
  argv_ = {shoal_, mounts_ ? "mount" : "serve", origin};
  if (mounts_) argv_.push_back(mountpoint_);
  // On loopback all nodes share one network, so the admin port must be theirs alone.
  argv_.insert(argv_.end(), {"--foreground", "--cache-dir", cache_, "--cache-size",
                             choice.cache_size, "--http", http_address()});
  if (!choice.cluster.empty()) {
    argv_.insert(argv_.end(), {"--cluster", choice.cluster, "--name", name(), "--listen", address(),
                               "--advertise",
                               choice.advertise.empty() ? lab_.address(place_) : choice.advertise});
  }
  argv_.insert(argv_.end(), choice.flags.begin(), choice.flags.end());
  return begin_again();
}

Status ClusterNode::begin_again() {
  SHOAL_ASSERT(!argv_.empty() && !child_.running());
  socket_.clear();
  SHOAL_ASSIGN_OR_RETURN(child_, Child::execute(argv_, log_, surroundings()));
  return {};
}

Status ClusterNode::check_alive() {
  SHOAL_RETURN_IF_ERROR(check_interrupted());
  if (child_.running()) return {};
  return fail(Code::kUnavailable,
              fmt::format("node {} ended: {}", name(), last_lines(log_, kLogLines)));
}

// From the file by which `shoal status` finds its node.
Result<std::string> ClusterNode::find_socket() const {
  std::string key = hash_string(mounts_ ? mountpoint_ : cache_).to_hex().substr(0, 16);
  std::ifstream in(fmt::format("{}/{}.json", kRuntimeDirectory, key));
  Json json = Json::parse(in, nullptr, false);
  if (!json.is_object() || json.value("pid", int64_t{0}) != child_.pid()) {
    return fail(Code::kNotFound, "the node has not published itself yet");
  }
  return json.value("socket", std::string());
}

Status ClusterNode::wait_until_ready(milliseconds patience) {
  auto until = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < until) {
    SHOAL_RETURN_IF_ERROR(check_alive());
    if (auto socket = find_socket(); socket && !socket->empty()) {
      socket_ = *socket;
      return {};
    }
    std::this_thread::sleep_for(kPollPause);
  }
  return fail(Code::kDeadlineExceeded,
              fmt::format("node {} did not come up within {} s:{}", name(), patience.count() / 1000,
                          last_lines(log_, kLogLines)));
}

Status ClusterNode::stop() {
  if (!child_.running()) return {};
  // As an operator does: the mount first, which ends the daemon.
  bool unmounted = mounts_ && umount2(mountpoint_.c_str(), 0) == 0;
  bool ended = child_.stop(unmounted ? 0 : SIGTERM, kStopPatience);
  detach();
  if (!ended) {
    return fail(Code::kDeadlineExceeded,
                fmt::format("node {} did not stop:{}", name(), last_lines(log_, kLogLines)));
  }
  if (child_.exit_status() != 0) {
    return fail(Code::kInternal, fmt::format("node {} ended with status {}:{}", name(),
                                             child_.exit_status(), last_lines(log_, kLogLines)));
  }
  return {};
}

Status ClusterNode::kill9() {
  child_.stop(SIGKILL, kStopPatience);
  detach();
  return {};
}

Status ClusterNode::freeze(bool frozen) {
  SHOAL_RETURN_IF_ERROR(check_alive());
  if (::kill(child_.pid(), frozen ? SIGSTOP : SIGCONT) != 0) {
    return fail(error_from_errno(errno, "cannot signal node " + name()));
  }
  return {};
}

Result<Json> ClusterNode::status_of(const char* path) const {
  if (socket_.empty()) return fail(Code::kNotFound, "node " + name() + " is not ready");
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect_unix(socket_));
  SHOAL_ASSIGN_OR_RETURN(std::string text, http.call("GET", path));
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return fail(Code::kUnavailable, "the status of " + name() + " is no JSON");
  return json;
}

Result<Json> ClusterNode::status() const { return status_of("/status.json"); }

Result<double> ClusterNode::number(std::string_view where) const {
  // Not the cluster's sums: for those each node asks all others, and opens connections to them.
  SHOAL_ASSIGN_OR_RETURN(Json json, status_of("/status.json?scope=node"));
  auto nodes = json.find("nodes");
  auto self = json.value("self", std::string());
  if (nodes == json.end() || !nodes->contains(self)) {
    return fail(Code::kNotFound, "the status of " + name() + " does not list itself");
  }
  return number_at((*nodes)[self], where);
}

Result<CommandResult> ClusterNode::command(const std::vector<std::string>& words,
                                           milliseconds patience) const {
  std::vector<std::string> argv = {shoal_};
  argv.insert(argv.end(), words.begin(), words.end());
  return run_command(argv, patience, surroundings());
}

ClusterNodes::~ClusterNodes() {
  // Politely would take a second for each; what they hold is thrown away.
  for (auto& node : nodes_) {
    if (node && node->running()) (void)node->kill9();
  }
}

ClusterNode& ClusterNodes::operator[](unsigned place) {
  SHOAL_ASSERT(place < lab_.places());
  if (nodes_.size() <= place) nodes_.resize(place + 1);
  if (!nodes_[place]) nodes_[place] = std::make_unique<ClusterNode>(lab_, work_, shoal_, place);
  return *nodes_[place];
}

Status ClusterNodes::start(unsigned first, unsigned count, const NodeChoice& choice) {
  choice_ = choice;
  for (unsigned i = first; i < first + count; ++i) {
    SHOAL_RETURN_IF_ERROR((*this)[i].begin(stub_, choice));
  }
  for (unsigned i = first; i < first + count; ++i) {
    SHOAL_RETURN_IF_ERROR((*this)[i].wait_until_ready(kStartPatience));
  }
  return {};
}

std::vector<ClusterNode*> ClusterNodes::running() {
  std::vector<ClusterNode*> out;
  for (auto& node : nodes_) {
    if (node && node->running()) out.push_back(node.get());
  }
  return out;
}

Status ClusterNodes::wait_for_members(unsigned members, milliseconds patience) {
  auto until = std::chrono::steady_clock::now() + patience;
  std::string laggard;
  while (std::chrono::steady_clock::now() < until) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    laggard.clear();
    for (ClusterNode* node : running()) {
      SHOAL_ASSIGN_OR_RETURN(double seen, node->number("map.members"));
      if (seen == members) continue;
      laggard = fmt::format("{} sees {} of {}", node->name(), seen, members);
      break;
    }
    if (laggard.empty()) return {};
    std::this_thread::sleep_for(kPollPause);
  }
  return fail(Code::kDeadlineExceeded,
              fmt::format("not all members after {} s: {}", patience.count() / 1000, laggard));
}

Status ClusterNodes::stop() {
  Status outcome;
  for (ClusterNode* node : running()) {
    Status status = node->stop();
    if (outcome && !status) outcome = std::move(status);
  }
  return outcome;
}

Result<double> ClusterNodes::total(std::string_view where) {
  double sum = 0;
  for (ClusterNode* node : running()) {
    SHOAL_ASSIGN_OR_RETURN(double value, node->number(where));
    sum += value;
  }
  return sum;
}

Result<double> ClusterNodes::cpu_seconds() {
  double sum = 0;
  for (ClusterNode* node : running()) {
    SHOAL_ASSIGN_OR_RETURN(double value, node->process().cpu_seconds());
    sum += value;
  }
  return sum;
}

}  // namespace shoal::bench
