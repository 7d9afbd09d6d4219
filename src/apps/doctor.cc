#include "apps/doctor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/origin_setup.h"
#include "apps/units.h"
#include "async/http_io.h"
#include "base/object_name.h"
#include "origin/http_date.h"
#include "world_linux/shard.h"

namespace shoal {
namespace {

using Verdict = Finding::Verdict;
namespace fs = std::filesystem;

constexpr auto kOriginLimit = std::chrono::seconds(15);
constexpr size_t kNamesLooked = 20000;
constexpr uint64_t kTmpfsMagic = 0x01021994;
constexpr uint64_t kNfsMagic = 0x6969;
constexpr uint64_t kFuseMagic = 0x65735546;

Finding examine_fuse_device() {
  Finding finding{Verdict::kOk, "kernel: FUSE", "/dev/fuse can be opened", ""};
  int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    close(device);
    return finding;
  }
  finding.verdict = Verdict::kFail;
  finding.detail = errno == ENOENT ? "/dev/fuse does not exist" : "/dev/fuse cannot be opened";
  finding.next_step =
      errno == ENOENT ? "load the module (modprobe fuse); in a container add --device /dev/fuse "
                        "--cap-add SYS_ADMIN"
                      : "give this user read and write access to /dev/fuse";
  return finding;
}

bool may_administer() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (!line.starts_with("CapEff:")) continue;
    constexpr unsigned kCapSysAdmin = 21;
    uint64_t set = std::strtoull(line.c_str() + 7, nullptr, 16);
    return ((set >> kCapSysAdmin) & 1) != 0;
  }
  return false;
}

Finding examine_passthrough() {
  Finding finding{Verdict::kOk, "kernel: passthrough", "", ""};
  utsname name{};
  uname(&name);
  int major = 0;
  int minor = 0;
  if (sscanf(name.release, "%d.%d", &major, &minor) != 2) major = 0;
  if (major < 6 || (major == 6 && minor < 9)) {
    finding.verdict = Verdict::kWarn;
    finding.detail =
        fmt::format("Linux {} has no FUSE passthrough (it came with 6.9)", name.release);
    finding.next_step =
        "reads go through the daemon, which is slower; use a newer kernel for full speed";
  } else if (!may_administer()) {
    finding.verdict = Verdict::kWarn;
    finding.detail = fmt::format("Linux {} offers it to root only", name.release);
    finding.next_step =
        "reads go through the daemon, which is slower; mount as root for full speed";
  } else {
    finding.detail = fmt::format("Linux {}", name.release);
  }
  return finding;
}

Finding examine_helper() {
  Finding finding{Verdict::kOk, "mount helper", "root needs none", ""};
  if (may_administer()) return finding;
  for (const char* path : {"/usr/bin/fusermount3", "/bin/fusermount3"}) {
    if (access(path, X_OK) == 0) {
      finding.detail = path;
      return finding;
    }
  }
  finding.verdict = Verdict::kFail;
  finding.detail = "fusermount3 is not installed";
  finding.next_step = "apt-get install fuse3, or mount as root";
  return finding;
}

// Everything that is asked of the origin, on one shard.
class OriginExam {
 public:
  OriginExam(Shard& shard, Origin& origin) : shard_(shard), origin_(origin) {}

  std::vector<Finding> run(bool read_only) {
    Status reached = run_blocking(shard_, origin_.probe(false, within()));
    add(reached, "origin: read", "reachable, and its names can be listed");
    if (!reached) return std::move(findings_);
    if (read_only) {
      findings_.push_back({Verdict::kSkip, "origin: write", "--read-only", ""});
    } else {
      add(run_blocking(shard_, origin_.probe(true, within())), "origin: write",
          "a test object below .shoal/ could be written");
    }
    look_at_names();
    return std::move(findings_);
  }

 private:
  Context within() const { return {shard_.now() + kOriginLimit, nullptr}; }

  void add(const Status& status, std::string check, std::string good) {
    if (status) {
      findings_.push_back({Verdict::kOk, std::move(check), std::move(good), ""});
    } else {
      findings_.push_back({Verdict::kFail, std::move(check), status.error().message(), ""});
    }
  }

  void look_at_names() {
    size_t seen = 0;
    size_t hidden = 0;
    std::string example;
    ListOptions options;
    options.recursive = true;
    Context context = within();
    bool more = true;
    while (more && seen < kNamesLooked) {
      auto page = run_blocking(shard_, origin_.list(options, context));
      if (!page) {
        if (page.error().code() == Code::kDeadlineExceeded && seen > 0) break;
        findings_.push_back({Verdict::kWarn, "origin: names", page.error().message(), ""});
        return;
      }
      for (const ObjectInfo& object : page->objects) {
        ++seen;
        if (is_representable(object.name)) continue;
        if (hidden++ == 0) example = object.name;
      }
      options.marker = page->next_marker;
      more = !options.marker.empty();
    }
    std::string scope = fmt::format("{}{} names looked at", more ? "the first " : "", seen);
    if (hidden == 0) {
      findings_.push_back(
          {Verdict::kOk, "origin: names", scope + ", all can be shown as paths", ""});
    } else {
      findings_.push_back(
          {Verdict::kWarn, "origin: names",
           fmt::format("{}, {} cannot be shown as paths, like \"{}\"", scope, hidden, example),
           "a mount does not show those objects; rename them to use them through it"});
    }
  }

  Shard& shard_;
  Origin& origin_;
  std::vector<Finding> findings_;
};

Task<Result<HttpResponse>> ask_date(World& world, std::string url) {
  HttpExchange call(world.http, Context::within(world.executor, std::chrono::seconds(10)));
  call.request.method = "HEAD";
  call.request.url = std::move(url);
  co_return co_await call;
}

std::optional<Finding> examine_clock(Shard& shard, const std::string& location,
                                     const AzureAccount& account) {
  auto url = parse_origin_url(location);
  if (!url || url->kind != OriginUrl::Kind::kAzure) return std::nullopt;
  auto resolved = resolve_azure(std::move(*url), account);
  if (!resolved) return std::nullopt;
  auto answer = run_blocking(shard, ask_date(shard.world(), resolved->url.endpoint + "/"));
  if (!answer) return std::nullopt;  // "origin: read" says why
  const std::string* date = answer->header("date");
  auto theirs = date != nullptr ? parse_http_date(*date) : std::nullopt;
  if (!theirs) return std::nullopt;
  return judge_clock(to_seconds(shard.wall_now() - *theirs));
}

Finding examine_credentials(const std::string& location, const OriginConfig& config,
                            const Options& options) {
  Finding finding{Verdict::kOk, "credentials", "", ""};
  auto url = parse_origin_url(location);
  if (url && url->kind == OriginUrl::Kind::kDirectory) {
    finding.detail = "a directory needs none";
    return finding;
  }
  bool in_url = url && !url->sas_token.empty();
  auto resolved = url ? resolve_azure(*url, config.azure) : fail(url.error());
  if (!resolved) {
    return {Verdict::kFail, "credentials", resolved.error().message(), ""};
  }
  if (resolved->credentials.anonymous()) {
    return {Verdict::kWarn, "credentials", "none: only a public container can be read",
            "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or "
            "give --account-key-file or --sas-file"};
  }
  finding.detail = in_url ? "SAS token from the URL" : credential_source(options);
  if (finding.detail.empty()) finding.detail = "the emulator's published key";
  return finding;
}

}  // namespace

std::string_view verdict_name(Finding::Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarn:
      return "warn";
    case Verdict::kFail:
      return "fail";
    case Verdict::kSkip:
      return "skip";
  }
  return "unknown";
}

std::vector<Finding> examine_machine() {
  return {examine_fuse_device(), examine_passthrough(), examine_helper()};
}

Finding examine_cache_dir(const std::string& dir) {
  Finding finding{Verdict::kOk, "cache directory", "", ""};
  fs::path existing = dir;
  std::error_code error;
  while (!fs::exists(existing, error) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  // No file is made in the cache itself: it may be in use. Access decides the same.
  if (!fs::is_directory(existing, error) || access(existing.c_str(), W_OK | X_OK) != 0) {
    finding.verdict = Verdict::kFail;
    finding.detail = fmt::format("{} cannot be written by this user", existing.string());
    finding.next_step = "choose another with --cache-dir, best on local NVMe";
    return finding;
  }
  struct statfs info{};
  struct statvfs space{};
  if (statfs(existing.c_str(), &info) != 0 || statvfs(existing.c_str(), &space) != 0) {
    finding.verdict = Verdict::kFail;
    finding.detail = fmt::format("{} cannot be examined", existing.string());
    return finding;
  }
  uint64_t room = uint64_t{space.f_bavail} * space.f_frsize;
  finding.detail = fmt::format("{}, {} free", dir, format_size(room));
  auto type = static_cast<uint64_t>(info.f_type);
  if (type == kTmpfsMagic) {
    finding.verdict = Verdict::kWarn;
    finding.detail += ", in memory (tmpfs)";
    finding.next_step = "what is not uploaded is lost with the machine; use a disk for writes";
  } else if (type == kNfsMagic || type == kFuseMagic) {
    finding.verdict = Verdict::kFail;
    finding.detail += ", on a network or FUSE file system";
    finding.next_step = "choose a local disk with --cache-dir";
  } else if (room < kGiB) {
    finding.verdict = Verdict::kWarn;
    finding.next_step = "free some space or choose another --cache-dir";
  }
  return finding;
}

Finding judge_clock(double skew_seconds) {
  double off = std::abs(skew_seconds);
  Finding finding{Verdict::kOk, "clock", fmt::format("{:.0f} s from the origin's", off), ""};
  if (off < 60) return finding;
  finding.verdict = off < 600 ? Verdict::kWarn : Verdict::kFail;
  finding.detail =
      fmt::format("{:.0f} s {} the origin's", off, skew_seconds > 0 ? "ahead of" : "behind");
  finding.next_step = "the origin refuses signatures that are 15 minutes off; set the clock (NTP)";
  return finding;
}

std::vector<Finding> examine(const std::string& location, const Options& options) {
  std::vector<Finding> findings = examine_machine();
  auto config = origin_config(location, options);
  if (!config) {
    findings.push_back({Verdict::kFail, "origin", config.error().message(), ""});
    return findings;
  }
  auto shard = Shard::start({});
  if (!shard) {
    findings.push_back({Verdict::kFail, "kernel: io_uring", shard.error().message(),
                        "allow it (sysctl kernel.io_uring_disabled=0; in a container the seccomp "
                        "profile may forbid it)"});
    return findings;
  }
  findings.push_back({Verdict::kOk, "kernel: io_uring", "works", ""});
  Registry registry;
  Log log;
  auto origin = make_origin(*config, (*shard)->world(), registry, log);
  if (!origin) {
    findings.push_back({Verdict::kFail, "origin", origin.error().message(), ""});
    return findings;
  }
  findings.push_back(examine_cache_dir(
      options.cache_dir.empty() ? default_cache_dir((*origin)->identity()) : options.cache_dir));
  findings.push_back(examine_credentials(config->location, *config, options));
  if (auto clock = examine_clock(**shard, config->location, config->azure)) {
    findings.push_back(std::move(*clock));
  }
  for (Finding& finding : OriginExam(**shard, **origin).run(options.read_only)) {
    findings.push_back(std::move(finding));
  }
  origin->reset();
  (*shard)->stop();
  return findings;
}

std::string findings_table(const std::vector<Finding>& findings) {
  std::string out;
  for (const Finding& finding : findings) {
    fmt::format_to(std::back_inserter(out), "{:<5} {:<20} {}\n", verdict_name(finding.verdict),
                   finding.check, finding.detail);
    if (!finding.next_step.empty()) {
      fmt::format_to(std::back_inserter(out), "{:<26} -> {}\n", "", finding.next_step);
    }
  }
  return out;
}

std::string findings_json(const std::vector<Finding>& findings) {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  bool failed = false;
  for (const Finding& finding : findings) {
    failed = failed || finding.verdict == Verdict::kFail;
    list.push_back({{"check", finding.check},
                    {"verdict", verdict_name(finding.verdict)},
                    {"detail", finding.detail},
                    {"next_step", finding.next_step}});
  }
  Json out = {{"ok", !failed}, {"findings", list}};
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
