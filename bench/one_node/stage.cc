#include "one_node/stage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "blob_stub/blob_stub.h"
#include "minimal_fuse.h"
#include "one_node/load.h"

namespace shoal::bench {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::milliseconds;

namespace {

constexpr char kContainer[] = "bench";
constexpr char kAccount[] = "devstoreaccount1";
constexpr milliseconds kStartPatience{20'000};
constexpr milliseconds kStopPatience{60'000};
constexpr milliseconds kWorkPatience{600'000};
constexpr milliseconds kPollPause{5};

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

bool raise_loopback() {
  int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return false;
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  bool up = ioctl(socket, SIOCGIFFLAGS, &request) == 0;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_RUNNING);
  up = up && ioctl(socket, SIOCSIFFLAGS, &request) == 0;
  close(socket);
  return up;
}

void use_reno() {
  std::ofstream out("/proc/sys/net/ipv4/tcp_congestion_control");
  out << "reno" << std::flush;
}

bool is_fuse(const std::string& path) {
  struct statfs info{};
  return statfs(path.c_str(), &info) == 0 && info.f_type == FUSE_SUPER_MAGIC;
}

std::string device_of(const std::string& directory) {
  struct stat info{};
  if (stat(directory.c_str(), &info) != 0) return "?";
  auto number = fmt::format("{}:{}", major(info.st_dev), minor(info.st_dev));
  std::ifstream in("/proc/self/mountinfo");
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string id, parent, device;
    words >> id >> parent >> device;
    size_t dash = line.find(" - ");
    if (device != number || dash == std::string::npos) continue;
    std::istringstream rest(line.substr(dash + 3));
    std::string type, source;
    rest >> type >> source;
    return type + " on " + source;
  }
  return "device " + number;
}

}  // namespace

Result<std::unique_ptr<WorkDirectory>> WorkDirectory::make(const std::string& parent, bool keep) {
  std::error_code error;
  fs::create_directories(parent, error);
  std::string name = parent + "/shoal-bench-XXXXXX";
  if (mkdtemp(name.data()) == nullptr) {
    return fail(error_from_errno(errno, "cannot make a directory in " + parent));
  }
  std::unique_ptr<WorkDirectory> work(new WorkDirectory(name, keep));
  struct statfs info{};
  if (statfs(name.c_str(), &info) == 0 && info.f_type == TMPFS_MAGIC) {
    return fail(
        Code::kNotSupported,
        fmt::format("{} is in memory (tmpfs), so nothing about a disk can be measured there; "
                    "name a directory on a disk with dir=PATH",
                    parent));
  }
  return work;
}

WorkDirectory::~WorkDirectory() {
  if (keep_) return;
  std::error_code error;
  fs::remove_all(path_, error);
  if (error) fmt::print(stderr, "shoal: {} could not be removed: {}\n", path_, error.message());
}

Status enter_own_namespaces() {
  if (geteuid() != 0) {
    return fail(Code::kPermissionDenied, "network namespaces and limits need root; use sudo");
  }
  if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 ||
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 || !raise_loopback()) {
    return fail(error_from_errno(errno,
                                 "cannot make a network namespace (in a container add "
                                 "--privileged)"));
  }
  use_reno();
  // The registry of running nodes is ours too: nothing of theirs stays behind.
  if ((mkdir(kRuntimeDirectory, 0700) != 0 && errno != EEXIST) ||
      mount("tmpfs", kRuntimeDirectory, "tmpfs", 0, "mode=0700") != 0) {
    return fail(error_from_errno(errno, std::string("cannot mount ") + kRuntimeDirectory));
  }
  return {};
}

Facts enter_namespaces() {
  Facts facts;
  bool ours = enter_own_namespaces().has_value();
  facts.emplace_back("congestion_control", first_line("/proc/sys/net/ipv4/tcp_congestion_control"));
  facts.emplace_back("network", ours ? "loopback of its own namespace" : "loopback of the machine");
  return facts;
}

Facts machine_facts(const std::string& directory) {
  Facts facts;
  utsname kernel{};
  uname(&kernel);
  std::string cpu = "?";
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name")) cpu = line.substr(line.find(':') + 2);
  }
  auto pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  facts.emplace_back("cores", fmt::format("{}", sysconf(_SC_NPROCESSORS_ONLN)));
  facts.emplace_back("cpu", cpu);
  facts.emplace_back("memory_bytes", fmt::format("{}", pages * page));
  facts.emplace_back("kernel", std::string(kernel.sysname) + " " + kernel.release);
  facts.emplace_back("disk", device_of(directory));
  return facts;
}

Result<std::unique_ptr<Stub>> Stub::start(const WorkDirectory& work, uint64_t pool_bytes,
                                          const std::string& address) {
  std::string log = work / "stub.log";
  std::vector<std::string> words = {"blob-stub", "--no-auth", "--container",
                                    kContainer,  "--pool",    fmt::format("{}", pool_bytes),
                                    "--address", address};
  SHOAL_ASSIGN_OR_RETURN(Child child, Child::fork_off(
                                          [&words] {
                                            std::vector<char*> argv;
                                            for (std::string& word : words)
                                              argv.push_back(word.data());
                                            argv.push_back(nullptr);
                                            return blob_stub_main(static_cast<int>(words.size()),
                                                                  argv.data());
                                          },
                                          log));
  const std::string listening = "listening on " + address + ":";
  auto until = std::chrono::steady_clock::now() + kStartPatience;
  while (std::chrono::steady_clock::now() < until) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    std::string line = first_line(log);
    if (line.starts_with(listening) && line.size() > listening.size()) {
      auto port = static_cast<uint16_t>(std::stoi(line.substr(listening.size())));
      return std::unique_ptr<Stub>(new Stub(std::move(child), port));
    }
    if (!child.running()) break;
    std::this_thread::sleep_for(kPollPause);
  }
  return fail(Code::kUnavailable, "the Blob stub did not start:" + last_lines(log, 5));
}

std::string Stub::url(std::string_view host) const {
  return fmt::format("http://{}:{}/{}/{}", host, port_, kAccount, kContainer);
}

std::string Stub::target(std::string_view object) const {
  return fmt::format("/{}/{}/{}", kAccount, kContainer, object);
}

Result<std::string> Stub::ask(std::string_view method, std::string_view target,
                              const std::string& body) const {
  SHOAL_ASSIGN_OR_RETURN(RawHttp http, RawHttp::connect(port_));
  auto answer = http.call(method, target, body);
  if (!answer) return fail(std::move(answer).error().with_context("asking the Blob stub"));
  return answer;
}

Status Stub::control(std::string_view target, const std::string& body) {
  SHOAL_RETURN_IF_ERROR(ask("POST", target, body));
  return {};
}

Result<Json> Stub::stats() const {
  SHOAL_ASSIGN_OR_RETURN(std::string text, ask("GET", "/__stub/stats"));
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return fail(Code::kUnavailable, "the Blob stub's counters are no JSON");
  return json;
}

Status Stub::reset_stats() { return control("/__stub/stats/reset", "{}"); }

Status Stub::shape(const OriginShape& shape) {
  double mibps = shape.account_bytes_per_second / static_cast<double>(kMiB);
  double client = shape.client_bytes_per_second / static_cast<double>(kMiB);
  Json body = {{"latency_ms", shape.latency_ms},  {"account_in_mibps", mibps},
               {"account_out_mibps", mibps},      {"client_in_mibps", client},
               {"client_out_mibps", client},      {"outage", shape.outage},
               {"chance", {{"busy", shape.busy}}}};
  return control("/__stub/faults", body.dump());
}

Status Stub::add_blob(std::string_view name, uint64_t size, uint64_t seed) {
  Json body = {{"container", kContainer}, {"name", name}, {"size", size}, {"seed", seed}};
  return control("/__stub/blobs", body.dump());
}

Status Stub::add_many(std::string_view prefix, uint64_t count, uint64_t size, uint64_t seed) {
  Json body = {{"container", kContainer},
               {"name", prefix},
               {"size", size},
               {"seed", seed},
               {"count", count}};
  return control("/__stub/blobs", body.dump());
}

Result<std::unique_ptr<Mount>> Mount::start(const std::string& shoal, const WorkDirectory& work,
                                            const Stub& stub, const MountChoice& choice) {
  std::string point = work / "mnt";
  std::error_code error;
  fs::create_directories(point, error);
  std::unique_ptr<Mount> mount(new Mount(shoal, point, work / "shoal.log"));
  std::vector<std::string> argv = {shoal, "mount", stub.url(), point, "--foreground"};
  argv.insert(argv.end(), {"--cache-dir", work / choice.cache, "--ack", choice.ack});
  if (!choice.passthrough) argv.push_back("--no-passthrough");
  if (!choice.memory.empty()) argv.insert(argv.end(), {"--memory", choice.memory});
  if (!choice.cache_size.empty()) argv.insert(argv.end(), {"--cache-size", choice.cache_size});
  SHOAL_ASSIGN_OR_RETURN(mount->child_, Child::execute(argv, mount->log_));
  SHOAL_RETURN_IF_ERROR(mount->wait_until_mounted());
  return mount;
}

Status Mount::wait_until_mounted() {
  auto until = std::chrono::steady_clock::now() + kStartPatience;
  while (std::chrono::steady_clock::now() < until) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    if (!child_.running()) break;
    if (is_fuse(path_) && status()) return {};
    std::this_thread::sleep_for(kPollPause);
  }
  return fail(Code::kUnavailable, "shoal mount did not come up:" + last_lines(log_, 8));
}

Mount::~Mount() {
  if (!child_.running()) return;
  // On the way out of a failure: politely, then not.
  if (umount2(path_.c_str(), MNT_DETACH) != 0) child_.kill_now();
  child_.stop(SIGTERM, kStopPatience);
}

Result<Json> Mount::status() const {
  SHOAL_ASSIGN_OR_RETURN(auto result,
                         run_command({shoal_, "status", path_, "--json"}, kStartPatience));
  Json json = Json::parse(result.output, nullptr, false);
  if (result.status != 0 || !json.is_object()) {
    return fail(Code::kUnavailable, "shoal status: " + result.output);
  }
  return json;
}

Result<double> Mount::number(const std::string& where) const {
  SHOAL_ASSIGN_OR_RETURN(Json json, status());
  const Json* at = &json;
  std::istringstream words(where);
  for (std::string word; std::getline(words, word, '.');) {
    auto found = at->find(word);
    if (found == at->end()) return fail(Code::kNotFound, "shoal status has no " + where);
    at = &*found;
  }
  if (!at->is_number()) return fail(Code::kNotFound, "shoal status: no number at " + where);
  return at->get<double>();
}

Result<double> Mount::settled_number(const std::string& where) const {
  constexpr int kEqualInARow = 4;
  double last = -1;
  for (int equal = 0; equal < kEqualInARow;) {
    SHOAL_RETURN_IF_ERROR(check_interrupted());
    SHOAL_ASSIGN_OR_RETURN(double now, number(where));
    equal = now == last ? equal + 1 : 0;
    last = now;
    std::this_thread::sleep_for(milliseconds(50));
  }
  return last;
}

Result<std::string> Mount::fact(const std::string& name) const {
  SHOAL_ASSIGN_OR_RETURN(Json json, status());
  auto facts = json.find("shoal");
  if (facts == json.end() || !facts->is_object()) {
    return fail(Code::kNotFound, "shoal status says nothing about its node");
  }
  return facts->value(name, std::string());
}

Result<double> Mount::metric(const std::string& name) const {
  SHOAL_ASSIGN_OR_RETURN(std::string http, fact("http"));
  size_t colon = http.rfind(':');
  if (colon == std::string::npos) return fail(Code::kNotFound, "the node has no http port");
  SHOAL_ASSIGN_OR_RETURN(
      RawHttp client,
      RawHttp::connect(static_cast<uint16_t>(std::strtoul(http.c_str() + colon + 1, nullptr, 10))));
  SHOAL_ASSIGN_OR_RETURN(std::string text, client.call("GET", "/metrics"));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + " ")) return std::strtod(line.c_str() + name.size(), nullptr);
  }
  return fail(Code::kNotFound, "the node has no metric " + name);
}

Status Mount::command(const std::vector<std::string>& words) const {
  std::vector<std::string> argv = {shoal_};
  argv.insert(argv.end(), words.begin(), words.end());
  SHOAL_ASSIGN_OR_RETURN(auto result, run_command(argv, kWorkPatience));
  if (result.status != 0) {
    return fail(Code::kUnavailable, fmt::format("shoal {}: {}", words[0], result.output));
  }
  return {};
}

Status Mount::sync() { return command({"sync", path_}); }
Status Mount::warm(const std::string& name) { return command({"warm", *this / name, "--wait"}); }
Status Mount::evict(const std::string& name) { return command({"evict", *this / name}); }

Status Mount::stop() {
  Status unmounted = command({"unmount", path_});
  bool ended = child_.stop(unmounted ? 0 : SIGTERM, kStopPatience);
  if (!unmounted) return unmounted;
  if (!ended) return fail(Code::kDeadlineExceeded, "the daemon did not end after unmount");
  if (child_.exit_status() != 0) {
    return fail(Code::kInternal, fmt::format("the daemon ended with status {}:{}",
                                             child_.exit_status(), last_lines(log_, 8)));
  }
  return {};
}

Status Mount::kill() {
  child_.stop(SIGKILL, kStopPatience);
  if (umount2(path_.c_str(), MNT_DETACH) != 0) {
    return fail(error_from_errno(errno, "cannot detach the dead mount " + path_));
  }
  return {};
}

Result<std::unique_ptr<MinimalMount>> MinimalMount::start(const WorkDirectory& work,
                                                          const std::string& file) {
  std::string point = work / "minimal";
  std::string log = work / "minimal.log";
  std::error_code error;
  fs::create_directories(point, error);
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0)
    return fail(error_from_errno(errno, "cannot make a pipe"));
  std::unique_ptr<MinimalMount> mount(new MinimalMount(point));
  auto child = Child::fork_off(
      [&] {
        close(ends[0]);
        return serve_minimal_fuse(
            {.mountpoint = point, .file = file, .threads = 0, .ready = ends[1]});
      },
      log);
  close(ends[1]);
  pollfd wanted{ends[0], POLLIN, 0};
  char word = 0;
  bool ready = child && poll(&wanted, 1, static_cast<int>(kStartPatience.count())) == 1 &&
               read(ends[0], &word, 1) == 1;
  close(ends[0]);
  if (!child) return fail(std::move(child).error());
  mount->child_ = std::move(*child);
  if (!ready) {
    return fail(Code::kUnavailable,
                "the minimal FUSE server did not start (it needs root):" + last_lines(log, 3));
  }
  return mount;
}

MinimalMount::~MinimalMount() {
  umount2(path_.c_str(), MNT_DETACH);
  child_.stop(0, milliseconds(5000));
}

}  // namespace shoal::bench
