// What `shoal mount` and `shoal serve` can be told: one table of options feeds the command line,
// the environment (SHOAL_CACHE_DIR for --cache-dir) and the TOML file (key cache-dir), so that the
// three cannot drift apart. Precedence: flag, environment, file, default.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "observe/log.h"
#include "world/time.h"

namespace shoal {

enum class LogFormat { kText, kJson };

struct Options {
  // Cache.
  std::string cache_dir;               // empty: a directory per origin, see default_cache_dir()
  std::optional<uint64_t> cache_size;  // bytes; nothing: 80% of what the file system has free
  std::optional<uint64_t> memory;      // bytes; nothing: the smaller of 1 GiB and 10% of RAM

  // Consistency and durability.
  Duration attr_ttl = std::chrono::seconds(5);
  Duration negative_ttl = std::chrono::seconds(2);
  bool create_during_outage = false;
  std::string ack = "local";  // or "replicated", "durable"
  Duration upload_delay = std::chrono::milliseconds(500);
  Duration space_timeout = std::chrono::seconds(10);
  uint64_t waiting_files = 2'000'000;

  // Cluster.
  std::string cluster;  // empty: a node by itself
  std::string name;     // of the node; empty: the host's
  std::vector<std::string> listen = {"0.0.0.0:7070"};
  bool listen_explicit = false;
  std::vector<std::string> advertise;   // the first is the one in the map
  std::vector<std::string> interfaces;  // whose addresses to advertise
  std::string zone;
  uint32_t weight = 0;               // GiB; 0: what the cache may hold
  std::string map_store = "origin";  // or "etcd://host:port,...", "static:FILE"
  std::string cluster_key_file;      // for static:
  bool tls = false;                  // between nodes
  Duration grace = std::chrono::seconds(120);
  uint32_t replicas = 2;
  bool ack_degraded = false;
  Duration ack_timeout = std::chrono::seconds(30);
  std::optional<uint64_t> hand_over_rate;        // bytes per second
  uint64_t upload_rate = 0;                      // bytes per second; 0: no limit
  std::map<std::string, std::string> ack_below;  // by directory (object name)

  // Origin.
  Duration origin_timeout = std::chrono::seconds(60);   // one operation, retries included
  Duration request_timeout = std::chrono::seconds(30);  // without a byte moving
  uint32_t connections = 64;
  std::string account_key_file;
  std::string sas_file;

  // Mount.
  bool read_only = false;
  bool allow_other = false;
  bool nonempty = false;
  bool no_passthrough = false;
  uint32_t threads = 0;  // 0: as many as cores, at most 8
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<uint32_t> umask;
  uint32_t file_mode = 0644;
  uint32_t dir_mode = 0755;

  // Process.
  bool foreground = false;
  std::string http = "127.0.0.1:7071";  // or "off"
  bool http_explicit = false;           // somebody asked for this very address
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  std::string log_file;  // empty: stderr in the foreground, else default_log_file()
};

enum class OptionKind { kText, kSize, kDuration, kCount, kOctal, kSwitch };

struct OptionSpec {
  std::string_view name;   // without dashes; also the TOML key
  std::string_view group;  // heading in --help
  OptionKind kind;
  std::string_view placeholder;  // "DIR"; empty for switches
  std::string_view default_text;
  std::string_view help;
  bool mount_only;  // means nothing to `serve`
  Status (*set)(Options&, const std::string& value);
};

std::span<const OptionSpec> option_specs();
const OptionSpec* find_option(std::string_view name);
// "cache-dir" -> "SHOAL_CACHE_DIR".
std::string environment_name(std::string_view option);

// A setting from the configuration file, already of the right type for its option.
struct FileSetting {
  std::string value;
  int line = 0;
};
// Reads TOML text. `file_name` is only for messages. Unknown keys, tables, and values of the wrong
// type are errors that name the line (and the nearest known key).
Result<std::map<std::string, FileSetting>> parse_config(std::string_view text,
                                                        const std::string& file_name);

struct OptionSources {
  std::map<std::string, std::string> flags;        // option name -> value as typed
  std::map<std::string, std::string> environment;  // every SHOAL_* variable
  std::string config_file;                         // --config; empty: SHOAL_CONFIG, else none
};

struct ResolvedOptions {
  Options options;
  std::vector<std::string> warnings;  // e.g. SHOAL_ variables that nothing reads
};

// Reads the configuration file, if one is named, and lays the sources over each other.
Result<ResolvedOptions> resolve_options(const OptionSources& sources);

// Every SHOAL_* variable of this process.
std::map<std::string, std::string> shoal_environment();

// The default cache directory for an origin: /var/cache/shoal/<hash> for root, else below
// $XDG_CACHE_HOME or ~/.cache.
std::string default_cache_dir(std::string_view origin_identity);
// 80% of what is free plus what the cache already holds. Fails if that is below 64 MiB.
Result<uint64_t> default_cache_size(const std::string& cache_dir);
uint64_t default_memory();

}  // namespace shoal
