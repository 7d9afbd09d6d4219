#include "minimal_fuse.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "mount/fuse_abi.h"

namespace shoal::bench {

namespace {

constexpr uint32_t kReadBytesMax = kMiB;
constexpr uint64_t kRootNode = 1;
constexpr uint64_t kFileNode = 2;
constexpr uint64_t kForEver = 3600;  // seconds that names and attributes stay valid

class Server {
 public:
  Server(int device, int file, uint64_t size, int ready)
      : device_(device), file_(file), size_(size), ready_(ready) {}

  // One thread. Ends when the file system is unmounted.
  void serve(int device) {
    Buffer request(kReadBytesMax + 64 * kKiB);
    Buffer data(kReadBytesMax);
    std::memset(request.data(), 1, request.size());
    std::memset(data.data(), 1, data.size());
    while (true) {
      ssize_t n = read(device, request.data(), request.size());
      if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN)) continue;
      if (n < static_cast<ssize_t>(sizeof(fuse::InHeader))) return;
      fuse::InHeader head;
      std::memcpy(&head, request.data(), sizeof head);
      answer(device, head, request.part(sizeof head, static_cast<size_t>(n) - sizeof head), data);
    }
  }

  // The first exchange, on the calling thread.
  bool introduce() {
    Buffer request(kReadBytesMax + 64 * kKiB);
    ssize_t n = read(device_, request.data(), request.size());
    fuse::InHeader head;
    fuse::InitIn in{};
    if (n < static_cast<ssize_t>(sizeof head + fuse::kInitInShort)) return false;
    std::memcpy(&head, request.data(), sizeof head);
    if (head.opcode != static_cast<uint32_t>(fuse::Opcode::kInit)) return false;
    std::memcpy(&in, request.data() + sizeof head,
                std::min(sizeof in, static_cast<size_t>(n) - sizeof head));
    uint64_t offered = in.flags | static_cast<uint64_t>(in.flags2) << 32;
    uint64_t wanted = fuse::kInitAsyncRead | fuse::kInitBigWrites | fuse::kInitAsyncDirectIo |
                      fuse::kInitMaxPages;
    fuse::InitOut out{};
    out.major = fuse::kMajor;
    out.minor = std::min(in.minor, fuse::kMinor);
    out.max_readahead = in.max_readahead;
    out.flags = static_cast<uint32_t>(wanted & offered);
    out.max_background = 64;
    out.congestion_threshold = 48;
    out.max_write = kReadBytesMax;
    out.time_granularity = 1;
    out.max_pages = kReadBytesMax / 4096;
    return reply(device_, head.unique, 0, &out, sizeof out);
  }

  void say_ready() const {
    if (ready_ >= 0) (void)!write(ready_, "R", 1);
  }

 private:
  static bool reply(int device, uint64_t unique, int error, const void* body, size_t size) {
    fuse::OutHeader head{static_cast<uint32_t>(sizeof(fuse::OutHeader) + (error != 0 ? 0 : size)),
                         -error, unique};
    iovec parts[2] = {{&head, sizeof head}, {const_cast<void*>(body), size}};
    return writev(device, parts, error != 0 || size == 0 ? 1 : 2) >= 0;
  }

  fuse::Attr attributes(uint64_t node) const {
    fuse::Attr attr{};
    attr.ino = node;
    attr.links = 1;
    attr.block_size = 4096;
    attr.mode = node == kRootNode ? S_IFDIR | 0755u : S_IFREG | 0444u;
    attr.size = node == kRootNode ? 0 : size_;
    attr.blocks = (attr.size + 511) / 512;
    return attr;
  }

  void answer_read(int device, const fuse::InHeader& head, ByteSpan body, Buffer& data) {
    fuse::ReadIn in{};
    if (body.size() < sizeof in) return (void)reply(device, head.unique, EINVAL, nullptr, 0);
    std::memcpy(&in, body.data(), sizeof in);
    size_t size = std::min(in.size, kReadBytesMax);
    ssize_t n = pread(file_, data.data(), size, static_cast<off_t>(in.offset));
    if (n < 0) return (void)reply(device, head.unique, EIO, nullptr, 0);
    reply(device, head.unique, 0, data.data(), static_cast<size_t>(n));
  }

  void answer(int device, const fuse::InHeader& head, ByteSpan body, Buffer& data) {
    using fuse::Opcode;
    switch (static_cast<Opcode>(head.opcode)) {
      case Opcode::kRead:
        return answer_read(device, head, body, data);
      case Opcode::kForget:
      case Opcode::kBatchForget:
      case Opcode::kInterrupt:
        return;
      case Opcode::kLookup: {
        bool ours = body.size() == 5 && std::memcmp(body.data(), "file", 5) == 0;
        if (!ours) return (void)reply(device, head.unique, ENOENT, nullptr, 0);
        fuse::EntryOut out{};
        out.node = kFileNode;
        out.entry_valid = out.attr_valid = kForEver;
        out.attr = attributes(kFileNode);
        return (void)reply(device, head.unique, 0, &out, sizeof out);
      }
      case Opcode::kGetattr: {
        fuse::AttrOut out{};
        out.valid = kForEver;
        out.attr = attributes(head.node);
        return (void)reply(device, head.unique, 0, &out, sizeof out);
      }
      case Opcode::kOpen:
      case Opcode::kOpendir: {
        fuse::OpenOut out{};
        out.handle = head.node;
        if (head.node == kFileNode) out.open_flags = fuse::kOpenDirectIo | fuse::kOpenNoFlush;
        return (void)reply(device, head.unique, 0, &out, sizeof out);
      }
      case Opcode::kStatfs: {
        fuse::StatfsOut out{};
        out.block_size = out.fragment_size = 4096;
        out.name_max = 255;
        return (void)reply(device, head.unique, 0, &out, sizeof out);
      }
      case Opcode::kRelease:
      case Opcode::kReleasedir:
      case Opcode::kReaddir:
      case Opcode::kDestroy:
        return (void)reply(device, head.unique, 0, nullptr, 0);
      default:
        return (void)reply(device, head.unique, ENOSYS, nullptr, 0);
    }
  }

  const int device_;
  const int file_;
  const uint64_t size_;
  const int ready_;
};

int failed(const char* what) {
  fmt::print(stderr, "minimal FUSE server: {}: {}\n", what, strerror(errno));
  return 1;
}

}  // namespace

int serve_minimal_fuse(const MinimalFuseOptions& options) {
  int file = open(options.file.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info{};
  if (file < 0 || fstat(file, &info) != 0) return failed(options.file.c_str());
  int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) return failed("/dev/fuse");
  auto text = fmt::format("fd={},rootmode=40000,user_id={},group_id={},allow_other", device,
                          geteuid(), getegid());
  if (mount("minimal", options.mountpoint.c_str(), "fuse", MS_NOSUID | MS_NODEV, text.c_str()) !=
      0) {
    return failed("mount");
  }
  Server server(device, file, static_cast<uint64_t>(info.st_size), options.ready);
  if (!server.introduce()) return failed("the first exchange with the kernel");
  unsigned threads = options.threads;
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<int> devices = {device};
  for (unsigned i = 1; i < threads; ++i) {
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    auto original = static_cast<uint32_t>(device);
    if (clone < 0 || ioctl(clone, fuse::kIoctlClone, &original) != 0) return failed("clone");
    devices.push_back(clone);
  }
  server.say_ready();
  std::vector<std::jthread> workers;
  for (int one : devices) workers.emplace_back([&server, one] { server.serve(one); });
  workers.clear();  // joins
  return 0;
}

}  // namespace shoal::bench
