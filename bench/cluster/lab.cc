#include "cluster/lab.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/assert.h"
#include "base/bytes.h"

namespace shoal::bench {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kCommandPatience{60'000};
constexpr char kOwnNetwork[] = "/proc/thread-self/ns/net";
constexpr uint32_t kHub = 0x0a4d0001;    // 10.77.0.1
constexpr uint32_t kFirst = 0x0a4d0101;  // 10.77.1.1
constexpr uint32_t kFirstOnLoopback = 0x7f4d0101;
// A bucket smaller than one GSO packet of 64 KiB gives less than the rate.
constexpr uint64_t kBurstBytes = 256 * kKiB;
constexpr int kLinkGroup = 77;  // all links of a lab, to be deleted at once
constexpr double kQueueSeconds = 0.02;
constexpr uint64_t kQueueBytesMin = 512 * kKiB;

// The calling thread in another network namespace, for a moment.
class Visit {
 public:
  explicit Visit(int network) : home_(open(kOwnNetwork, O_RDONLY | O_CLOEXEC)) {
    away_ = home_ >= 0 && setns(network, CLONE_NEWNET) == 0;
  }
  ~Visit() {
    // A thread that cannot come home would measure in the wrong network.
    if (away_) SHOAL_ASSERT(setns(home_, CLONE_NEWNET) == 0);
    if (home_ >= 0) close(home_);
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;
  explicit operator bool() const { return away_; }

 private:
  int home_ = -1;
  bool away_ = false;
};

std::string dotted(uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 255, address >> 8 & 255,
                     address & 255);
}

// 10.77.1.1 and so on; never an address that ends in .0 or .255.
uint32_t place_address(uint32_t first, unsigned place) {
  return first + place / 250 * 256 + place % 250;
}

sockaddr make_address(uint32_t address) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(address);
  sockaddr out{};
  std::memcpy(&out, &in, sizeof out);
  return out;
}

ifreq request_for(const char* device) {
  ifreq request{};
  std::strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  return request;
}

bool raise(int socket, const char* device) {
  ifreq request = request_for(device);
  if (ioctl(socket, SIOCGIFFLAGS, &request) != 0) return false;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_RUNNING);
  return ioctl(socket, SIOCSIFFLAGS, &request) == 0;
}

bool set_address(int socket, const char* device, uint32_t address) {
  ifreq request = request_for(device);
  request.ifr_addr = make_address(address);
  if (ioctl(socket, SIOCSIFADDR, &request) != 0) return false;
  request.ifr_netmask = make_address(0xffffffff);
  return ioctl(socket, SIOCSIFNETMASK, &request) == 0;
}

bool add_route(int socket, uint32_t to, uint32_t mask, uint32_t gateway, const char* device) {
  rtentry route{};
  route.rt_dst = make_address(to);
  route.rt_genmask = make_address(mask);
  route.rt_gateway = make_address(gateway);
  route.rt_flags = static_cast<unsigned short>(RTF_UP | (gateway != 0 ? RTF_GATEWAY : 0) |
                                               (mask == 0xffffffff ? RTF_HOST : 0));
  std::string name = device;
  route.rt_dev = name.data();
  return ioctl(socket, SIOCADDRT, &route) == 0;
}

bool write_setting(const char* path, std::string_view value) {
  std::ofstream out(path);
  out << value << std::flush;
  return static_cast<bool>(out);
}

Status settle_place(int socket, uint32_t address) {
  bool done = raise(socket, "lo") && set_address(socket, "eth0", address) &&
              raise(socket, "eth0") && add_route(socket, kHub, 0xffffffff, 0, "eth0") &&
              add_route(socket, 0, 0, kHub, "eth0");
  if (!done) return fail(error_from_errno(errno, "cannot give a place its address"));
  // BBR, the default of some kernels, distorts every limit.
  if (!write_setting("/proc/sys/net/ipv4/tcp_congestion_control", "reno")) {
    return fail(Code::kNotSupported, "this kernel refuses reno in a network namespace");
  }
  return {};
}

Status run_batch(const char* program, const std::string& commands, const Surroundings& around) {
  if (commands.empty()) return {};
  int file = static_cast<int>(memfd_create("batch", 0));  // for the child to open
  if (file < 0) return fail(error_from_errno(errno, "cannot make a file in memory"));
  std::string path = fmt::format("/proc/{}/fd/{}", getpid(), file);
  bool written = write(file, commands.data(), commands.size()) == ssize_t(commands.size());
  auto result = run_command({program, "-batch", path}, kCommandPatience, around);
  close(file);
  if (!written) return fail(Code::kInternal, "cannot write a file in memory");
  if (!result) return fail(std::move(result).error());
  if (result->status == 127) {
    return fail(Code::kNotFound, fmt::format("{} is missing; install iproute2", program));
  }
  if (result->status != 0) {
    return fail(Code::kUnavailable, fmt::format("{}: {}", program, result->output));
  }
  return {};
}

std::string limit_command(const std::string& device, double bytes_per_second) {
  if (bytes_per_second <= 0) {
    return fmt::format("qdisc replace dev {} root noqueue\n", device);
  }
  auto queue = std::max(static_cast<uint64_t>(bytes_per_second * kQueueSeconds), kQueueBytesMin);
  return fmt::format("qdisc replace dev {} root tbf rate {:.0f}bit burst {} limit {}\n", device,
                     bytes_per_second * 8, kBurstBytes, queue);
}

}  // namespace

Result<int> socket_in(int network, int type) {
  if (network < 0) {
    int socket = ::socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (socket < 0) return fail(error_from_errno(errno, "cannot make a socket"));
    return socket;
  }
  Visit visit(network);
  if (!visit) return fail(error_from_errno(errno, "cannot enter a network namespace"));
  int socket = ::socket(AF_INET, type | SOCK_CLOEXEC, 0);
  if (socket < 0) return fail(error_from_errno(errno, "cannot make a socket"));
  return socket;
}

Result<std::unique_ptr<Lab>> Lab::make(const LabOptions& options) {
  SHOAL_ASSERT(options.places > 0 && options.places <= kPlacesMax);
  std::unique_ptr<Lab> lab(new Lab(options));
  if (options.loopback) {
    lab->places_.assign(options.places, -1);
    return lab;
  }
  SHOAL_RETURN_IF_ERROR(lab->open_places());
  SHOAL_RETURN_IF_ERROR(lab->connect_places());
  if (options.bytes_per_second > 0) {
    for (unsigned i = 0; i < options.places; ++i) {
      SHOAL_RETURN_IF_ERROR(lab->limit(i, options.bytes_per_second));
    }
  }
  return lab;
}

Lab::~Lab() {
  // The kernel would do it too, but at leisure, and the next lab wants the same names.
  if (!options_.loopback) {
    (void)run_batch("ip", fmt::format("link delete group {}\n", kLinkGroup), {});
  }
  for (int network : places_) {
    if (network >= 0) close(network);
  }
}

Status Lab::open_places() {
  int home = open(kOwnNetwork, O_RDONLY | O_CLOEXEC);
  if (home < 0) return fail(error_from_errno(errno, "cannot open " + std::string(kOwnNetwork)));
  Status status;
  while (status && places_.size() < options_.places) {
    int network = -1;
    if (unshare(CLONE_NEWNET) == 0) network = open(kOwnNetwork, O_RDONLY | O_CLOEXEC);
    if (network < 0) status = fail(error_from_errno(errno, "cannot make a network namespace"));
    if (network >= 0) places_.push_back(network);
  }
  SHOAL_ASSERT(setns(home, CLONE_NEWNET) == 0);
  close(home);
  return status;
}

Status Lab::connect_places() {
  std::string links = fmt::format("address replace {}/32 dev lo\n", kHubAddress);
  std::string routes;
  for (unsigned i = 0; i < places(); ++i) {
    links += fmt::format(
        "link add p{} group {} mtu 9000 type veth peer name eth0 mtu 9000 netns /proc/{}/fd/{}\n",
        i, kLinkGroup, getpid(), places_[i]);
    routes += fmt::format("link set p{} up\nroute add {}/32 dev p{}\n", i, address(i), i);
  }
  SHOAL_RETURN_IF_ERROR(run_batch("ip", links, {}));
  for (unsigned i = 0; i < places(); ++i) {
    Visit visit(places_[i]);
    if (!visit) return fail(error_from_errno(errno, "cannot enter a network namespace"));
    int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket < 0) return fail(error_from_errno(errno, "cannot make a socket"));
    Status status = settle_place(socket, place_address(kFirst, i));
    close(socket);
    SHOAL_RETURN_IF_ERROR(status);
  }
  SHOAL_RETURN_IF_ERROR(run_batch("ip", routes, {}));
  if (!write_setting("/proc/sys/net/ipv4/ip_forward", "1")) {
    return fail(Code::kPermissionDenied, "cannot make the hub a router");
  }
  return {};
}

std::string Lab::hub_address() const { return options_.loopback ? "127.0.0.1" : kHubAddress; }

std::string Lab::address(unsigned place) const {
  SHOAL_ASSERT(place < options_.places);
  return dotted(place_address(options_.loopback ? kFirstOnLoopback : kFirst, place));
}

int Lab::network(unsigned place) const {
  SHOAL_ASSERT(place < places());
  return places_[place];
}

Status Lab::limit(unsigned place, double bytes_per_second) {
  SHOAL_ASSERT(!options_.loopback, "loopback has no links");
  std::string hub_end = fmt::format("p{}", place);
  SHOAL_RETURN_IF_ERROR(run_batch("tc", limit_command(hub_end, bytes_per_second), {}));
  return run_batch("tc", limit_command("eth0", bytes_per_second),
                   {.network = network(place), .environment = {}});
}

Status Lab::plug(unsigned place, bool in) {
  SHOAL_ASSERT(!options_.loopback, "loopback has no links");
  std::string route = address(place) + "/32";
  // The kernel forgets a link's routes when it goes down, and would say "unreachable" to those who
  // send; a pulled cable says nothing.
  std::string words =
      in ? fmt::format("link set p{} up\nroute replace {} dev p{}\n", place, route, place)
         : fmt::format("link set p{} down\nroute replace blackhole {}\n", place, route);
  return run_batch("ip", words, {});
}

}  // namespace shoal::bench
