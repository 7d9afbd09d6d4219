#include "control/running_node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace shoal {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kSmallFileBytesMax = 64 * 1024;

std::optional<RunningNode> parse_node(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  RunningNode node;
  auto text_field = [&json](const char* key) {
    auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  auto pid = json.find("pid");
  if (pid == json.end() || !pid->is_number_integer()) return std::nullopt;
  node.pid = pid->get<int64_t>();
  auto started = json.find("started");
  if (started == json.end() || !started->is_number_integer()) return std::nullopt;
  node.started = started->get<int64_t>();
  node.mountpoint = text_field("mountpoint");
  node.origin = text_field("origin");
  node.cache_dir = text_field("cache_dir");
  node.http = text_field("http");
  node.socket = text_field("socket");
  node.token = text_field("token");
  node.log_file = text_field("log_file");
  if (node.pid <= 0 || node.socket.empty()) return std::nullopt;
  return node;
}

}  // namespace

std::string runtime_dir_path() {
  const char* xdg = std::getenv("XDG_RUNTIME_DIR");
  if (geteuid() == 0) return "/run/shoal";
  if (xdg != nullptr && *xdg == '/' && access(xdg, W_OK) == 0) return std::string(xdg) + "/shoal";
  return fmt::format("/tmp/shoal-{}", geteuid());
}

Status check_private_dir(const std::string& dir) {
  struct stat info{};
  if (lstat(dir.c_str(), &info) != 0) {
    return fail(error_from_errno(errno, fmt::format("cannot use the directory {}", dir)));
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 0077) != 0) {
    return fail(
        Code::kPermissionDenied,
        fmt::format("{} is not a private directory of this user; remove it and try again", dir));
  }
  return {};
}

std::optional<int64_t> process_start(int64_t pid) {
  auto text = read_small_file(fmt::format("/proc/{}/stat", pid));
  if (!text) return std::nullopt;
  // "pid (name) state ...": the name may hold anything, so count from its end.
  size_t end = text->rfind(')');
  if (end == std::string::npos) return std::nullopt;
  char state = '\0';
  long long start = 0;
  constexpr const char* kFormat =
      " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lld";
  if (sscanf(text->c_str() + end + 1, kFormat, &state, &start) != 2) return std::nullopt;
  if (state == 'Z' || state == 'X') return std::nullopt;  // dead, but nobody has buried it
  return start;
}

std::vector<PublishedNode> published_nodes(const std::string& dir) {
  std::vector<PublishedNode> nodes;
  std::error_code error;
  for (fs::directory_iterator entry(dir, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (entry->path().extension() != ".json") continue;
    auto text = read_small_file(entry->path().string());
    if (!text) continue;
    auto node = parse_node(*text);
    if (!node) continue;
    bool alive = process_start(node->pid) == node->started;
    nodes.push_back({std::move(*node), entry->path().string(), alive});
  }
  return nodes;
}

std::vector<RunningNode> running_nodes(const std::string& dir) {
  std::vector<RunningNode> nodes;
  for (PublishedNode& one : published_nodes(dir)) {
    if (one.alive) nodes.push_back(std::move(one.node));
  }
  return nodes;
}

Result<RunningNode> node_of_path(const std::vector<RunningNode>& nodes, const std::string& path) {
  const RunningNode* best = nullptr;
  for (const RunningNode& node : nodes) {
    const std::string& mount = node.mountpoint;
    if (mount.empty()) continue;
    bool inside =
        path == mount || mount == "/" || (path.starts_with(mount) && path[mount.size()] == '/');
    if (inside && (best == nullptr || best->mountpoint.size() < mount.size())) best = &node;
  }
  if (best != nullptr) return *best;
  std::string mounts;
  for (const RunningNode& node : nodes) {
    if (!node.mountpoint.empty()) mounts += (mounts.empty() ? "" : ", ") + node.mountpoint;
  }
  return fail(Code::kNotFound,
              fmt::format("{} is not in a Shoal mount of this user; {}", path,
                          mounts.empty() ? "none is running (start one with shoal mount)"
                                         : "the mounts are " + mounts));
}

Result<RunningNode> only_node(const std::vector<RunningNode>& nodes) {
  if (nodes.empty()) {
    return fail(Code::kNotFound,
                "no Shoal node of this user runs on this machine; start one with shoal mount, or "
                "name another with --at ADDR:PORT");
  }
  if (nodes.size() == 1) return nodes.front();
  std::string names;
  for (const RunningNode& node : nodes) {
    names += "\n  " + (node.mountpoint.empty() ? "--at " + node.http : node.mountpoint) + "  (" +
             node.origin + ")";
  }
  return fail(Code::kConflict, "several nodes run on this machine; name one of them:" + names);
}

std::string object_of_path(const RunningNode& node, const std::string& path) {
  if (path.size() <= node.mountpoint.size()) return "";
  std::string rest = path.substr(node.mountpoint == "/" ? 1 : node.mountpoint.size() + 1);
  return rest;
}

std::string absolute_path(const std::string& path) {
  std::error_code error;
  fs::path absolute = fs::absolute(path, error).lexically_normal();
  if (!absolute.has_filename() && absolute.has_relative_path()) absolute = absolute.parent_path();
  return absolute.string();
}

std::string resolved_path(const std::string& path) {
  std::error_code error;
  fs::path resolved = fs::weakly_canonical(absolute_path(path), error);
  return error ? absolute_path(path) : resolved.string();
}

Result<FoundNode> find_node(const std::vector<RunningNode>& nodes, const std::string& typed) {
  std::string path = absolute_path(typed);
  auto node = node_of_path(nodes, path);
  if (node) return FoundNode{std::move(*node), path};
  path = resolved_path(typed);
  SHOAL_ASSIGN_OR_RETURN(RunningNode found, node_of_path(nodes, path));
  return FoundNode{std::move(found), path};
}

Result<std::string> read_small_file(const std::string& path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(error_from_errno(errno, fmt::format("cannot read {}", path)));
  std::string text(kSmallFileBytesMax + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    ssize_t n = read(file, text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      int reason = errno;
      close(file);
      return fail(error_from_errno(reason, fmt::format("cannot read {}", path)));
    }
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  close(file);
  if (size > kSmallFileBytesMax) {
    return fail(Code::kTooLarge, fmt::format("{} is too large for what it should be", path));
  }
  text.resize(size);
  return text;
}

}  // namespace shoal
