#include "mount/mount_point.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

#include "base/assert.h"

namespace shoal::fuse {
namespace {

constexpr const char* kHelper = "fusermount3";

std::string reason(int error_number) { return ::strerrordesc_np(error_number); }

// "\040" and the like in mountinfo.
std::string unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    auto digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
      plain += static_cast<char>(code);
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::vector<std::string_view> split_words(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    size_t end = line.find(' ');
    if (end != 0) words.push_back(line.substr(0, end));
    if (end == std::string_view::npos) break;
    line.remove_prefix(end + 1);
  }
  return words;
}

bool parse_number(std::string_view text, uint32_t& number) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELDS...] - TYPE SOURCE SUPEROPTIONS
std::optional<MountEntry> parse_mount_line(std::string_view line) {
  std::vector<std::string_view> words = split_words(line);
  size_t dash = 6;
  while (dash < words.size() && words[dash] != "-") ++dash;
  if (dash + 1 >= words.size()) return std::nullopt;
  MountEntry entry;
  size_t colon = words[2].find(':');
  if (colon == std::string_view::npos || !parse_number(words[2].substr(0, colon), entry.major) ||
      !parse_number(words[2].substr(colon + 1), entry.minor)) {
    return std::nullopt;
  }
  entry.point = unescape(words[4]);
  entry.type = std::string(words[dash + 1]);
  return entry;
}

Result<std::string> read_mountinfo() {
  Descriptor file(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return fail(error_from_errno(errno, "opening /proc/self/mountinfo"));
  std::string text;
  char piece[16384];
  while (true) {
    ssize_t got = ::read(file.get(), piece, sizeof(piece));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(error_from_errno(errno, "reading /proc/self/mountinfo"));
    if (got == 0) return text;
    text.append(piece, static_cast<size_t>(got));
  }
}

// Absolute and without links; the last part is not asked, so that a dead mount there does no harm.
Result<std::string> resolve(const std::string& path) {
  if (path.empty()) {
    return fail(Code::kInvalidArgument, "the mountpoint is empty: name a directory");
  }
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) != nullptr) return std::string(resolved);
  if (errno != ENOTCONN) {
    if (errno == ENOENT) {
      return fail(
          Code::kNotFound,
          fmt::format("mountpoint {} does not exist: make it with mkdir -p {}", path, path));
    }
    return fail(error_from_errno(errno, fmt::format("looking at mountpoint {}", path)));
  }
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  size_t slash = trimmed.rfind('/');
  std::string parent = slash == std::string::npos ? "." : trimmed.substr(0, slash + 1);
  std::string name = slash == std::string::npos ? trimmed : trimmed.substr(slash + 1);
  if (::realpath(parent.c_str(), resolved) == nullptr) {
    return fail(error_from_errno(errno, fmt::format("looking at {}", parent)));
  }
  std::string base = resolved;
  return base == "/" ? base + name : base + "/" + name;
}

struct HelperEnd {
  int exit_status = -1;
  std::string complaint;  // what it wrote to stderr
};

// Runs fusermount3 and reads what it has to say. `inherited` stays open in it, under its number.
Result<HelperEnd> run_helper(std::vector<std::string> arguments, int inherited) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail(error_from_errno(errno, "making a pipe"));
  Descriptor reader(ends[0]);
  Descriptor writer(ends[1]);
  std::vector<char*> argv = {const_cast<char*>(kHelper)};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!std::string_view(*variable).starts_with("_FUSE_COMMFD=")) variables.push_back(*variable);
  }
  if (inherited >= 0) variables.push_back(fmt::format("_FUSE_COMMFD={}", inherited));
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, writer.get(), STDERR_FILENO);
  // Onto itself: clears close on exec in the child.
  if (inherited >= 0) ::posix_spawn_file_actions_adddup2(&actions, inherited, inherited);
  pid_t child = -1;
  int error = ::posix_spawnp(&child, kHelper, &actions, nullptr, argv.data(), envp.data());
  ::posix_spawn_file_actions_destroy(&actions);
  writer.reset();
  if (error == ENOENT) {
    return fail(Code::kNotFound,
                "fusermount3 is not installed: install the package fuse3, or run as root");
  }
  if (error != 0) return fail(error_from_errno(error, "starting fusermount3"));

  HelperEnd end;
  char piece[512];
  while (end.complaint.size() < 4096) {
    ssize_t got = ::read(reader.get(), piece, sizeof(piece));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    end.complaint.append(piece, static_cast<size_t>(got));
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  end.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  while (!end.complaint.empty() && end.complaint.back() == '\n') end.complaint.pop_back();
  return end;
}

std::string escape_option(std::string_view value) {
  std::string escaped;
  for (char c : value) {
    if (c == ',' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

// The descriptor that fusermount3 sent, or invalid.
Descriptor receive_descriptor(int socket) {
  char byte;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t got;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return {};
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  if (head == nullptr || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
      head->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int number;
  std::memcpy(&number, CMSG_DATA(head), sizeof(number));
  return Descriptor(number);
}

Result<Attached> attach_by_helper(const AttachOptions& options, const std::string& mountpoint) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail(error_from_errno(errno, "making a socket pair"));
  }
  Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  std::string flags = fmt::format("fsname={},subtype=shoal,default_permissions,nosuid,nodev",
                                  escape_option(options.source));
  if (options.read_only) flags += ",ro";
  if (options.allow_other) flags += ",allow_other";
  auto end = run_helper({"-o", flags, "--", mountpoint}, theirs.get());
  if (!end) return fail(std::move(end).error().with_context("mounting " + mountpoint));
  theirs.reset();
  Descriptor device;
  if (end->exit_status == 0) device = receive_descriptor(ours.get());
  if (!device.valid()) {
    std::string complaint = end->complaint.empty() ? "fusermount3 gave no device" : end->complaint;
    if (complaint.find("/dev/fuse") != std::string::npos) {
      complaint += "; let users open it (chmod 666 /dev/fuse) or run as root";
    }
    return fail(Code::kPermissionDenied,
                fmt::format("cannot mount on {}: {}", mountpoint, complaint));
  }
  return Attached{std::move(device), mountpoint, true};
}

Result<Attached> attach_directly(const AttachOptions& options, const std::string& mountpoint) {
  Descriptor device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device.valid()) {
    int error = errno;
    if (error == ENOENT || error == ENODEV || error == ENXIO) {
      return fail(
          Code::kNotSupported,
          "there is no /dev/fuse: load the module with modprobe fuse, or give the container "
          "the device with --device /dev/fuse");
    }
    return fail(error_from_errno(
        error, "opening /dev/fuse (a container needs --device /dev/fuse --cap-add SYS_ADMIN)"));
  }
  std::string data =
      fmt::format("fd={},rootmode=40000,user_id={},group_id={},default_permissions{}", device.get(),
                  ::getuid(), ::getgid(), options.allow_other ? ",allow_other" : "");
  unsigned long flags = MS_NOSUID | MS_NODEV | (options.read_only ? MS_RDONLY : 0ul);
  std::string type(kTypeName);
  if (::mount(options.source.c_str(), mountpoint.c_str(), type.c_str(), flags, data.c_str()) != 0) {
    return fail(error_from_errno(errno, fmt::format("mounting on {}", mountpoint)));
  }
  return Attached{std::move(device), mountpoint, false};
}

Status require_usable(const std::string& mountpoint, bool nonempty) {
  struct stat stat;
  if (::stat(mountpoint.c_str(), &stat) != 0) {
    return fail(error_from_errno(errno, fmt::format("looking at mountpoint {}", mountpoint)));
  }
  if (!S_ISDIR(stat.st_mode)) {
    return fail(Code::kNotDirectory,
                fmt::format("mountpoint {} is not a directory: name one", mountpoint));
  }
  if (nonempty) return {};
  DIR* directory = ::opendir(mountpoint.c_str());
  if (directory == nullptr) {
    return fail(error_from_errno(errno, fmt::format("looking into mountpoint {}", mountpoint)));
  }
  bool empty = true;
  while (dirent* entry = ::readdir(directory)) {
    std::string_view name = entry->d_name;
    if (name != "." && name != "..") empty = false;
  }
  ::closedir(directory);
  if (!empty) {
    return fail(Code::kNotEmpty,
                fmt::format("mountpoint {} is not empty: its files would be hidden; use an empty "
                            "directory, or the option nonempty",
                            mountpoint));
  }
  return {};
}

// Refuses a place that a live mount of ours has, and clears one that a dead mount has.
Status clear_dead_mount(const std::string& mountpoint, const Log& log) {
  for (int round = 0; round < 8; ++round) {
    // statfs(2) always asks the daemon; stat(2) may be answered from attributes that the kernel
    // still trusts though the daemon is dead.
    struct statfs about;
    bool dead = ::statfs(mountpoint.c_str(), &about) != 0 && errno == ENOTCONN;
    auto ours = find_mount(mountpoint);
    if (!dead) {
      if (!ours) return {};
      return fail(Code::kBusy, fmt::format("{} is a Shoal mount already: end it first with "
                                           "shoal unmount {}",
                                           mountpoint, mountpoint));
    }
    if (!ours) {
      return fail(Code::kBusy, fmt::format("at {} lies a dead mount that is not ours: end it with "
                                           "umount -l {}",
                                           mountpoint, mountpoint));
    }
    log.warning("{}: a Shoal daemon died here; detaching what it left", mountpoint);
    SHOAL_RETURN_IF_ERROR(detach(mountpoint, true));
  }
  return fail(Code::kBusy,
              fmt::format("{}: dead mounts keep coming back: end them with umount -l", mountpoint));
}

Status detach_by_helper(const std::string& mountpoint, bool lazy) {
  std::vector<std::string> arguments = {"-u"};
  if (lazy) arguments.push_back("-z");
  arguments.push_back("--");
  arguments.push_back(mountpoint);
  auto end = run_helper(std::move(arguments), -1);
  if (!end) return fail(std::move(end).error().with_context("unmounting " + mountpoint));
  if (end->exit_status == 0) return {};
  bool busy = end->complaint.find("busy") != std::string::npos;
  return fail(busy ? Code::kBusy : Code::kPermissionDenied,
              fmt::format("cannot unmount {}: {}", mountpoint, end->complaint));
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> entries;
  while (!text.empty()) {
    size_t end = text.find('\n');
    if (auto entry = parse_mount_line(text.substr(0, end))) entries.push_back(std::move(*entry));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return entries;
}

Result<MountEntry> find_mount(const std::string& mountpoint) {
  SHOAL_ASSIGN_OR_RETURN(std::string text, read_mountinfo());
  std::optional<MountEntry> last;
  for (MountEntry& entry : parse_mountinfo(text)) {
    if (entry.point == mountpoint) last = std::move(entry);
  }
  if (!last || last->type != kTypeName) {
    return fail(Code::kNotFound, fmt::format("{} is not a Shoal mount", mountpoint));
  }
  return std::move(*last);
}

Result<Attached> attach(const AttachOptions& options, const Log& log) {
  SHOAL_ASSIGN_OR_RETURN(std::string mountpoint, resolve(options.mountpoint));
  SHOAL_ASSERT(mountpoint.starts_with('/'));
  SHOAL_RETURN_IF_ERROR(clear_dead_mount(mountpoint, log));
  SHOAL_RETURN_IF_ERROR(require_usable(mountpoint, options.nonempty));
  if (::geteuid() != 0) return attach_by_helper(options, mountpoint);
  auto direct = attach_directly(options, mountpoint);
  // Root without CAP_SYS_ADMIN, as in containers: perhaps the helper may.
  if (direct || direct.error().code() != Code::kPermissionDenied) return direct;
  log.info("{}; trying fusermount3", direct.error().to_string());
  auto helped = attach_by_helper(options, mountpoint);
  return helped ? std::move(helped) : std::move(direct);
}

Status detach(const std::string& path, bool lazy) {
  SHOAL_ASSIGN_OR_RETURN(std::string mountpoint, resolve(path));
  SHOAL_RETURN_IF_ERROR(find_mount(mountpoint));
  int flags = UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0);
  if (::umount2(mountpoint.c_str(), flags) == 0) return {};
  int error = errno;
  if (error == EPERM) return detach_by_helper(mountpoint, lazy);
  if (error == EBUSY) {
    return fail(Code::kBusy, fmt::format("{} is in use: close its files (fuser -vm {} shows who), "
                                         "or unmount lazily",
                                         mountpoint, mountpoint));
  }
  return fail(Code::kDiskError, fmt::format("cannot unmount {}: {}", mountpoint, reason(error)));
}

}  // namespace shoal::fuse
