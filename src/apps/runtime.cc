#include "apps/runtime.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/hash.h"

namespace shoal {

using Json = nlohmann::json;

Result<std::string> runtime_dir() {
  std::string dir = runtime_dir_path();
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail(error_from_errno(errno, fmt::format("cannot make the directory {}", dir)));
  }
  SHOAL_RETURN_IF_ERROR(check_private_dir(dir));
  return dir;
}

std::string runtime_key(const std::string& mountpoint_or_cache_dir) {
  return hash_string(mountpoint_or_cache_dir).to_hex().substr(0, 16);
}

Status publish_node(const std::string& dir, const std::string& key, const RunningNode& node) {
  Json json = {
      {"pid", node.pid},       {"started", node.started},     {"mountpoint", node.mountpoint},
      {"origin", node.origin}, {"cache_dir", node.cache_dir}, {"http", node.http},
      {"socket", node.socket}, {"token", node.token},         {"log_file", node.log_file}};
  return write_private_file(dir + "/" + key + ".json",
                            json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void withdraw_node(const std::string& dir, const std::string& key) {
  unlink((dir + "/" + key + ".json").c_str());
}

void forget_dead_nodes(const std::string& dir) {
  for (const PublishedNode& one : published_nodes(dir)) {
    if (one.alive) continue;
    unlink(one.file.c_str());
    unlink(one.node.socket.c_str());
  }
}

Result<std::string> random_token() {
  unsigned char bytes[32];
  if (getrandom(bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes)) {
    return fail(error_from_errno(errno, "cannot get random bytes from the kernel"));
  }
  std::string out;
  for (unsigned char byte : bytes) fmt::format_to(std::back_inserter(out), "{:02x}", byte);
  return out;
}

Status write_private_file(const std::string& path, std::string_view content) {
  std::string temporary = fmt::format("{}.{}", path, getpid());
  int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return fail(error_from_errno(errno, fmt::format("cannot write {}", path)));
  bool written =
      write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size());
  int reason = errno;
  written = close(file) == 0 && written;
  if (!written || rename(temporary.c_str(), path.c_str()) != 0) {
    if (written) reason = errno;
    unlink(temporary.c_str());
    return fail(error_from_errno(reason, fmt::format("cannot write {}", path)));
  }
  return {};
}

}  // namespace shoal
