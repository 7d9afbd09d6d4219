#include "apps/options.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "apps/units.h"
#include "base/hash.h"
#include "wire/peer_address.h"

extern char** environ;

namespace shoal {
namespace {

constexpr uint64_t kCacheBytesMin = 64 * kMiB;
constexpr size_t kConfigBytesMax = kMiB;
constexpr size_t kCardsMax = 1 + kFurtherAddressesMax;

Status set_text(std::string& target, const std::string& value) {
  if (value.empty()) return fail(Code::kInvalidArgument, "must not be empty");
  target = value;
  return {};
}

// Paths are kept absolute: a daemon changes its directory.
Status set_path(std::string& target, const std::string& value) {
  SHOAL_RETURN_IF_ERROR(set_text(target, value));
  std::error_code error;
  auto absolute = std::filesystem::absolute(value, error);
  if (!error) target = absolute.lexically_normal().string();
  return {};
}

Status set_switch(bool& target, const std::string& value) {
  if (value == "true" || value == "1" || value == "yes" || value == "on") {
    target = true;
  } else if (value == "false" || value == "0" || value == "no" || value == "off") {
    target = false;
  } else {
    return fail(Code::kInvalidArgument, fmt::format("\"{}\" is neither true nor false", value));
  }
  return {};
}

Status set_duration(Duration& target, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(target, parse_duration(value));
  return {};
}

Status set_positive_duration(Duration& target, const std::string& value) {
  SHOAL_RETURN_IF_ERROR(set_duration(target, value));
  if (target <= Duration(0)) return fail(Code::kInvalidArgument, "must be above zero");
  return {};
}

Result<uint32_t> parse_number(const std::string& value, int base, uint32_t min, uint32_t max) {
  uint32_t number = 0;
  const char* end = value.data() + value.size();
  auto [stop, error] = std::from_chars(value.data(), end, number, base);
  if (error != std::errc() || stop != end || number < min || number > max) {
    return fail(
        Code::kInvalidArgument,
        base == 8 ? fmt::format("\"{}\" is not an octal number from {:o} to {:o}", value, min, max)
                  : fmt::format("\"{}\" is not a number from {} to {}", value, min, max));
  }
  return number;
}

template <typename Target>
Status set_number(Target& target, const std::string& value, int base, uint32_t min, uint32_t max) {
  SHOAL_ASSIGN_OR_RETURN(target, parse_number(value, base, min, max));
  return {};
}

Status set_cache_size(Options& options, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(uint64_t bytes, parse_size(value));
  if (bytes < kCacheBytesMin) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} is too small; the least is {}", format_size(bytes),
                            format_size(kCacheBytesMin)));
  }
  options.cache_size = bytes;
  return {};
}

Status set_memory(Options& options, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(uint64_t bytes, parse_size(value));
  if (bytes < 16 * kMiB) return fail(Code::kInvalidArgument, "the least is 16 MiB");
  options.memory = bytes;
  return {};
}

Status set_ack(Options& options, const std::string& value) {
  if (value != "local" && value != "replicated" && value != "durable") {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" is not offered; use local, replicated or durable", value));
  }
  options.ack = value;
  return {};
}

// "DIR=LEVEL,DIR=LEVEL": directories as they are called below the mountpoint.
Status set_ack_below(Options& options, const std::string& value) {
  options.ack_below.clear();
  for (size_t at = 0; at <= value.size();) {
    size_t comma = std::min(value.find(',', at), value.size());
    std::string one = value.substr(at, comma - at);
    at = comma + 1;
    size_t equals = one.rfind('=');
    if (equals == std::string::npos || equals == 0) {
      return fail(Code::kInvalidArgument,
                  fmt::format("\"{}\" is not DIR=LEVEL; write it like run/ckpt=replicated", one));
    }
    std::string directory = one.substr(0, equals);
    while (directory.ends_with('/')) directory.pop_back();
    Options level;
    SHOAL_RETURN_IF_ERROR(set_ack(level, one.substr(equals + 1)));
    if (directory.empty() || directory.starts_with('/')) {
      return fail(Code::kInvalidArgument,
                  fmt::format("\"{}\" must be a directory below the mountpoint, like run/ckpt",
                              one.substr(0, equals)));
    }
    options.ack_below[std::move(directory)] = std::move(level.ack);
  }
  return {};
}

Status set_upload_rate(Options& options, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(uint64_t bytes, parse_size(value));
  if (bytes < kMiB) return fail(Code::kInvalidArgument, "the least is 1 MiB");
  options.upload_rate = bytes;
  return {};
}

Status check_endpoint(const std::string& value, const std::string& example, uint32_t port_min) {
  size_t colon = value.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" is not ADDR:PORT; write it like {}", value, example));
  }
  SHOAL_RETURN_IF_ERROR(parse_number(value.substr(colon + 1), 10, port_min, 65535));
  return {};
}

Status set_http(Options& options, const std::string& value) {
  if (value != "off") SHOAL_RETURN_IF_ERROR(check_endpoint(value, "127.0.0.1:7071, or off", 1));
  options.http = value;
  options.http_explicit = true;
  return {};
}

Status set_cluster(Options& options, const std::string& value) {
  auto good = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  if (value.empty() || value.size() > 63 || !std::ranges::all_of(value, good)) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" cannot name a cluster; use 1 to 63 of a-z, 0-9 and -", value));
  }
  options.cluster = value;
  return {};
}

Status set_word(std::string& target, const std::string& value) {
  auto bad = [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 127; };
  if (value.empty() || value.size() > 255 || std::ranges::any_of(value, bad)) {
    return fail(Code::kInvalidArgument,
                fmt::format("\"{}\" is not a word of 1 to 255 printable characters", value));
  }
  target = value;
  return {};
}

// "A,B,C": one for each network card of the machine.
Status set_words(std::vector<std::string>& target, const std::string& value) {
  std::vector<std::string> words;
  for (size_t at = 0; at <= value.size();) {
    size_t comma = std::min(value.find(',', at), value.size());
    SHOAL_RETURN_IF_ERROR(set_word(words.emplace_back(), value.substr(at, comma - at)));
    if (std::ranges::count(words, words.back()) > 1) {
      return fail(Code::kInvalidArgument, fmt::format("\"{}\" is there twice", words.back()));
    }
    at = comma + 1;
  }
  if (words.size() > kCardsMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} are too many; at most {}", words.size(), kCardsMax));
  }
  target = std::move(words);
  return {};
}

Status set_listen(Options& options, const std::string& value) {
  SHOAL_RETURN_IF_ERROR(set_words(options.listen, value));
  for (const std::string& one : options.listen) {
    SHOAL_RETURN_IF_ERROR(check_endpoint(one, "0.0.0.0:7070", 0));
  }
  options.listen_explicit = true;
  return {};
}

Status set_weight(Options& options, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(options.weight, parse_number(value, 10, 1, 1u << 20));
  return {};
}

Status set_replicas(Options& options, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(options.replicas, parse_number(value, 10, 1, 5));
  return {};
}

Status set_map_store(Options& options, const std::string& value) {
  if (value.starts_with("static:")) {
    std::string path;
    SHOAL_RETURN_IF_ERROR(set_path(path, value.substr(7)));
    options.map_store = "static:" + path;
    return {};
  }
  if (value != "origin" && !(value.starts_with("etcd://") && value.size() > 7)) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("\"{}\" is no map store; use origin, etcd://host:port or static:FILE", value));
  }
  options.map_store = value;
  return {};
}

Status set_hand_over_rate(Options& options, const std::string& value) {
  SHOAL_ASSIGN_OR_RETURN(uint64_t bytes, parse_size(value));
  if (bytes < kMiB) return fail(Code::kInvalidArgument, "the least is 1 MiB");
  options.hand_over_rate = bytes;
  return {};
}

Status set_log_level(Options& options, const std::string& value) {
  constexpr std::pair<std::string_view, LogLevel> kLevels[] = {{"trace", LogLevel::kTrace},
                                                               {"debug", LogLevel::kDebug},
                                                               {"info", LogLevel::kInfo},
                                                               {"warning", LogLevel::kWarning},
                                                               {"error", LogLevel::kError}};
  for (auto [name, level] : kLevels) {
    if (value != name) continue;
    options.log_level = level;
    return {};
  }
  return fail(
      Code::kInvalidArgument,
      fmt::format("\"{}\" is not a level; use trace, debug, info, warning or error", value));
}

Status set_log_format(Options& options, const std::string& value) {
  if (value != "text" && value != "json") {
    return fail(Code::kInvalidArgument, fmt::format("\"{}\" is neither text nor json", value));
  }
  options.log_format = value == "json" ? LogFormat::kJson : LogFormat::kText;
  return {};
}

constexpr std::string_view kCache = "Cache";
constexpr std::string_view kPromise = "Consistency and durability";
constexpr std::string_view kClusterGroup = "Cluster";
constexpr std::string_view kOrigin = "Origin";
constexpr std::string_view kMount = "Mount";
constexpr std::string_view kProcess = "Process";

// clang-format off
constexpr OptionSpec kSpecs[] = {
    {"cache-dir", kCache, OptionKind::kText, "DIR", "/var/cache/shoal/<origin> or ~/.cache/shoal/<origin>",
     "Where cached and not yet uploaded bytes lie; best on local NVMe", false,
     [](Options& o, const std::string& v) { return set_path(o.cache_dir, v); }},
    {"cache-size", kCache, OptionKind::kSize, "SIZE", "80% of the free space",
     "Most bytes of disk to use, like 500GiB", false, set_cache_size},
    {"memory", kCache, OptionKind::kSize, "SIZE", "the smaller of 1GiB and 10% of RAM",
     "Memory for small objects and buffers; the page cache is not counted", false, set_memory},

    {"attr-ttl", kPromise, OptionKind::kDuration, "TIME", "5s",
     "How long sizes, versions and names are trusted; 0 asks the origin at every open", false,
     [](Options& o, const std::string& v) { return set_duration(o.attr_ttl, v); }},
    {"create-during-outage", kPromise, OptionKind::kSwitch, "", "",
     "While the origin is away, take unknown names for absent in directories this node writes to, so "
     "that saving goes on",
     false, [](Options& o, const std::string& v) { return set_switch(o.create_during_outage, v); }},
    {"negative-ttl", kPromise, OptionKind::kDuration, "TIME", "2s",
     "How long the absence of a name is trusted", false,
     [](Options& o, const std::string& v) { return set_duration(o.negative_ttl, v); }},
    {"ack", kPromise, OptionKind::kText, "LEVEL", "local",
     "What close() waits for: local (on this node's disk), replicated (on those of --replicas nodes)"
     " or durable (committed in the origin)", false,
     set_ack},
    {"ack-below", kPromise, OptionKind::kText, "DIR=LEVEL,...", "",
     "The same for files below directories of the mount; a file's or directory's xattr user.shoal.ack"
     " comes before it", false, set_ack_below},
    {"upload-delay", kPromise, OptionKind::kDuration, "TIME", "500ms",
     "Wait this long after close before uploading, so that rewrites and deletes cost no upload", false,
     [](Options& o, const std::string& v) { return set_duration(o.upload_delay, v); }},

    {"space-timeout", kPromise, OptionKind::kDuration, "TIME", "10s",
     "A writer for whom there is no room waits so long for an upload to end before it gets ENOSPC", false,
     [](Options& o, const std::string& v) { return set_duration(o.space_timeout, v); }},
    {"waiting-files", kPromise, OptionKind::kCount, "N", "2000000",
     "Most files that wait for their upload (each takes memory); then writers wait as for room", false,
     [](Options& o, const std::string& v) { return set_number(o.waiting_files, v, 10, 1, 1'000'000'000); }},

    {"cluster", kClusterGroup, OptionKind::kText, "NAME", "none: a node by itself",
     "Pool this node with all that give the same name and origin", false, set_cluster},
    {"name", kClusterGroup, OptionKind::kText, "NAME", "the host's name", "What people call this node", false,
     [](Options& o, const std::string& v) { return set_word(o.name, v); }},
    {"listen", kClusterGroup, OptionKind::kText, "ADDR:PORT,...", "0.0.0.0:7070, or the next free port",
     "Where other nodes reach this one", false, set_listen},
    {"advertise", kClusterGroup, OptionKind::kText, "ADDR,...", "an address of the machine",
     "The addresses that other nodes are told, one per network card; the first must reach all", false,
     [](Options& o, const std::string& v) { return set_words(o.advertise, v); }},
    {"interface", kClusterGroup, OptionKind::kText, "IF,...", "the first that is up",
     "The network interfaces whose addresses other nodes are told; they carry data side by side", false,
     [](Options& o, const std::string& v) { return set_words(o.interfaces, v); }},
    {"zone", kClusterGroup, OptionKind::kText, "ZONE", "none",
     "Fault domain (rack, availability zone); owners of one chunk lie in different ones", false,
     [](Options& o, const std::string& v) { return set_word(o.zone, v); }},
    {"weight", kClusterGroup, OptionKind::kCount, "GIB", "what --cache-size says",
     "This node's share of the cluster's data, in proportion to the others'", false, set_weight},
    {"map-store", kClusterGroup, OptionKind::kText, "STORE", "origin",
     "Where the slot map lies: origin, etcd://host:port or static:FILE", false, set_map_store},
    {"cluster-key-file", kClusterGroup, OptionKind::kText, "FILE", "",
     "File with the key that members prove to each other (with --map-store static:FILE)", false,
     [](Options& o, const std::string& v) { return set_path(o.cluster_key_file, v); }},
    {"tls", kClusterGroup, OptionKind::kSwitch, "", "",
     "Encrypt what passes between nodes (TLS 1.3 with the cluster's key); on all of them, or none", false,
     [](Options& o, const std::string& v) { return set_switch(o.tls, v); }},
    {"grace", kClusterGroup, OptionKind::kDuration, "TIME", "2m",
     "A node that is away for less keeps its slots", false,
     [](Options& o, const std::string& v) { return set_positive_duration(o.grace, v); }},
    {"replicas", kClusterGroup, OptionKind::kCount, "N", "2",
     "With --ack replicated: nodes that hold each byte before it is acknowledged, this one counted; 1 to 5",
     false, set_replicas},
    {"ack-degraded", kClusterGroup, OptionKind::kSwitch, "", "",
     "Acknowledge with fewer replicas when no more nodes can be reached", false,
     [](Options& o, const std::string& v) { return set_switch(o.ack_degraded, v); }},
    {"ack-timeout", kClusterGroup, OptionKind::kDuration, "TIME", "30s",
     "A writer gets an error when its replicas have not got on for so long", false,
     [](Options& o, const std::string& v) { return set_positive_duration(o.ack_timeout, v); }},
    {"hand-over-rate", kClusterGroup, OptionKind::kSize, "SIZE", "512MiB",
     "Most bytes a second that a leaving node's data may bring in here; reads come first", false,
     set_hand_over_rate},

    {"upload-rate", kOrigin, OptionKind::kSize, "SIZE", "no limit",
     "Most bytes a second that this node sends to the origin", false, set_upload_rate},
    {"origin-timeout", kOrigin, OptionKind::kDuration, "TIME", "60s",
     "Longest time for one background request to the origin, retries included; uploads are retried for ever", false,
     [](Options& o, const std::string& v) { return set_positive_duration(o.origin_timeout, v); }},
    {"request-timeout", kOrigin, OptionKind::kDuration, "TIME", "30s",
     "Try a request again when no byte moves in either direction for this long", false,
     [](Options& o, const std::string& v) { return set_positive_duration(o.request_timeout, v); }},
    {"connections", kOrigin, OptionKind::kCount, "N", "64",
     "Most HTTP requests to the origin at once", false,
     [](Options& o, const std::string& v) { return set_number(o.connections, v, 10, 1, 1024); }},
    {"account-key-file", kOrigin, OptionKind::kText, "FILE", "",
     "File with the storage account's key; or set AZURE_STORAGE_KEY", false,
     [](Options& o, const std::string& v) { return set_path(o.account_key_file, v); }},
    {"sas-file", kOrigin, OptionKind::kText, "FILE", "",
     "File with a SAS token; or set AZURE_STORAGE_SAS_TOKEN", false,
     [](Options& o, const std::string& v) { return set_path(o.sas_file, v); }},

    {"read-only", kMount, OptionKind::kSwitch, "", "", "Refuse every change", false,
     [](Options& o, const std::string& v) { return set_switch(o.read_only, v); }},
    {"allow-other", kMount, OptionKind::kSwitch, "", "",
     "Let other users in (needs root or user_allow_other in /etc/fuse.conf)", true,
     [](Options& o, const std::string& v) { return set_switch(o.allow_other, v); }},
    {"nonempty", kMount, OptionKind::kSwitch, "", "", "Mount over a directory that has files", true,
     [](Options& o, const std::string& v) { return set_switch(o.nonempty, v); }},
    {"no-passthrough", kMount, OptionKind::kSwitch, "", "",
     "Do not let the kernel read complete files by itself", true,
     [](Options& o, const std::string& v) { return set_switch(o.no_passthrough, v); }},
    {"threads", kMount, OptionKind::kCount, "N", "cores, at most 8", "Threads that serve the kernel", true,
     [](Options& o, const std::string& v) { return set_number(o.threads, v, 10, 1, 256); }},
    {"uid", kMount, OptionKind::kCount, "ID", "the caller's", "Owner of files that name none", true,
     [](Options& o, const std::string& v) { return set_number(o.uid, v, 10, 0, UINT32_MAX - 1); }},
    {"gid", kMount, OptionKind::kCount, "ID", "the caller's", "Group of files that name none", true,
     [](Options& o, const std::string& v) { return set_number(o.gid, v, 10, 0, UINT32_MAX - 1); }},
    {"umask", kMount, OptionKind::kOctal, "MODE", "none", "Permission bits to take away from --file-mode and --dir-mode", true,
     [](Options& o, const std::string& v) { return set_number(o.umask, v, 8, 0, 0777); }},
    {"file-mode", kMount, OptionKind::kOctal, "MODE", "0644", "Mode of files that name none", true,
     [](Options& o, const std::string& v) { return set_number(o.file_mode, v, 8, 0, 07777); }},
    {"dir-mode", kMount, OptionKind::kOctal, "MODE", "0755", "Mode of directories that name none", true,
     [](Options& o, const std::string& v) { return set_number(o.dir_mode, v, 8, 0, 07777); }},

    {"foreground", kProcess, OptionKind::kSwitch, "", "", "Stay attached to the terminal", false,
     [](Options& o, const std::string& v) { return set_switch(o.foreground, v); }},
    {"http", kProcess, OptionKind::kText, "ADDR:PORT", "127.0.0.1:7071, or the next free port",
     "Where to serve metrics, status and the web page; or off", false, set_http},
    {"log-level", kProcess, OptionKind::kText, "LEVEL", "info", "trace, debug, info, warning or error", false,
     set_log_level},
    {"log-format", kProcess, OptionKind::kText, "FORMAT", "text", "text or json", false, set_log_format},
    {"log-file", kProcess, OptionKind::kText, "FILE",
     "stderr in the foreground, else /var/log/shoal or ~/.local/state/shoal", "Where log lines go", false,
     [](Options& o, const std::string& v) { return set_path(o.log_file, v); }},
};
// clang-format on

Status apply(Options& options, std::string_view name, const std::string& value,
             const std::string& source) {
  const OptionSpec* spec = find_option(name);
  SHOAL_ASSERT(spec != nullptr, "sources carry known names only");
  Status status = spec->set(options, value);
  if (!status) return fail(std::move(status).error().with_context(source));
  return {};
}

Result<std::string> read_config(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return fail(error_from_errno(errno, fmt::format("cannot read the configuration {}", path)));
  }
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (in.bad())
    return fail(Code::kDiskError, fmt::format("cannot read the configuration {}", path));
  if (text.size() > kConfigBytesMax) {
    return fail(Code::kTooLarge, fmt::format("{} is above 1 MiB; is it the right file?", path));
  }
  return text;
}

}  // namespace

std::span<const OptionSpec> option_specs() { return kSpecs; }

const OptionSpec* find_option(std::string_view name) {
  for (const OptionSpec& spec : kSpecs) {
    if (spec.name == name) return &spec;
  }
  return nullptr;
}

std::string environment_name(std::string_view option) {
  std::string out = "SHOAL_";
  for (char c : option) out.push_back(c == '-' ? '_' : static_cast<char>(std::toupper(c)));
  return out;
}

Result<ResolvedOptions> resolve_options(const OptionSources& sources) {
  ResolvedOptions resolved;
  std::string config = sources.config_file;
  if (auto found = sources.environment.find("SHOAL_CONFIG");
      config.empty() && found != sources.environment.end()) {
    config = found->second;
  }
  if (!config.empty()) {
    SHOAL_ASSIGN_OR_RETURN(std::string text, read_config(config));
    SHOAL_ASSIGN_OR_RETURN(auto settings, parse_config(text, config));
    for (const auto& [name, setting] : settings) {
      SHOAL_RETURN_IF_ERROR(apply(resolved.options, name, setting.value,
                                  fmt::format("{}:{}: {}", config, setting.line, name)));
    }
  }
  constexpr std::string_view kPrefix = "SHOAL_";
  std::vector<std::string> names;
  std::vector<std::string> suffixes;
  for (const OptionSpec& spec : kSpecs) {
    names.push_back(environment_name(spec.name));
    suffixes.push_back(names.back().substr(kPrefix.size()));
  }
  for (const auto& [name, value] : sources.environment) {
    auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) {
      const OptionSpec& spec = kSpecs[static_cast<size_t>(found - names.begin())];
      SHOAL_RETURN_IF_ERROR(apply(resolved.options, spec.name, value, name));
    } else if (name != "SHOAL_CONFIG" && name != "SHOAL_ADMIN_TOKEN_FILE") {
      // Others may use the prefix for their own ends: only slips of the finger are worth a word.
      std::string near = nearest_name(name.substr(kPrefix.size()), suffixes);
      if (near.empty()) continue;
      resolved.warnings.push_back(fmt::format(
          "the variable {} is not known and has no effect; did you mean SHOAL_{}?", name, near));
    }
  }
  for (const auto& [name, value] : sources.flags) {
    SHOAL_RETURN_IF_ERROR(apply(resolved.options, name, value, "--" + name));
  }
  if (!resolved.options.account_key_file.empty() && !resolved.options.sas_file.empty()) {
    return fail(Code::kInvalidArgument,
                "--account-key-file and --sas-file exclude each other; give one of them");
  }
  return resolved;
}

std::map<std::string, std::string> shoal_environment() {
  std::map<std::string, std::string> out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view text(*entry);
    size_t equals = text.find('=');
    if (!text.starts_with("SHOAL_") || equals == std::string_view::npos) continue;
    out.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return out;
}

std::string default_cache_dir(std::string_view origin_identity) {
  std::string base = "/var/cache/shoal";
  if (geteuid() != 0) {
    const char* cache = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    if (cache != nullptr && *cache == '/') {
      base = std::string(cache) + "/shoal";
    } else {
      base = std::string(home != nullptr ? home : "/tmp") + "/.cache/shoal";
    }
  }
  return base + "/" + hash_string(origin_identity).to_hex().substr(0, 16);
}

Result<uint64_t> default_cache_size(const std::string& cache_dir) {
  std::filesystem::path existing = cache_dir;
  std::error_code error;
  while (!std::filesystem::exists(existing, error) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  struct statvfs space{};
  if (statvfs(existing.c_str(), &space) != 0) {
    return fail(
        error_from_errno(errno, fmt::format("cannot see the free space of {}", existing.string())));
  }
  uint64_t bytes = uint64_t{space.f_bavail} * space.f_frsize;
  // What the cache holds already is its to keep; else it would shrink at every start.
  std::filesystem::recursive_directory_iterator entries(cache_dir, error);
  for (; !error && entries != std::filesystem::recursive_directory_iterator();
       entries.increment(error)) {
    std::error_code gone;
    if (!entries->is_regular_file(gone)) continue;
    struct stat file{};
    if (lstat(entries->path().c_str(), &file) == 0) {
      bytes += static_cast<uint64_t>(file.st_blocks) * 512;
    }
  }
  bytes = bytes / 5 * 4;
  if (bytes < kCacheBytesMin) {
    return fail(Code::kNoSpace,
                fmt::format("the file system of {} has room for only {}; free some space or choose "
                            "another --cache-dir",
                            cache_dir, format_size(bytes)));
  }
  return bytes;
}

uint64_t default_memory() {
  long pages = sysconf(_SC_PHYS_PAGES);
  long page = sysconf(_SC_PAGESIZE);
  uint64_t ram =
      pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) : 4 * kGiB;
  return std::clamp(ram / 10, 64 * kMiB, kGiB);
}

}  // namespace shoal
