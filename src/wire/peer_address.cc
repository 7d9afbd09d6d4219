#include "wire/peer_address.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "wire/error_code.h"

namespace shoal {

bool is_peer_address(std::string_view address) {
  size_t colon = address.rfind(':');
  if (address.size() > kAddressBytesMax || colon == std::string_view::npos || colon == 0) {
    return false;
  }
  std::string_view host = address.substr(0, colon);
  std::string_view port = address.substr(colon + 1);
  auto bad = [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 127; };
  if (std::ranges::any_of(host, bad)) return false;
  bool bracketed = host.front() == '[' && host.back() == ']' && host.size() > 2;
  if (!bracketed && host.find_first_of("[]:") != std::string_view::npos) return false;
  uint32_t value = 0;
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  return error == std::errc() && end == port.data() + port.size() && value > 0 && value < 65536;
}

Status check_further_addresses(const std::vector<std::string>& addresses) {
  if (addresses.size() > kFurtherAddressesMax) {
    return fail(Code::kCorrupt, fmt::format("{} further addresses of one node; at most {}",
                                            addresses.size(), kFurtherAddressesMax));
  }
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (!is_peer_address(addresses[i])) {
      return fail(Code::kCorrupt, fmt::format("the further address '{}' is no HOST:PORT",
                                              printable(addresses[i], 64)));
    }
    auto here = addresses.begin() + static_cast<ptrdiff_t>(i);
    if (std::find(addresses.begin(), here, addresses[i]) != here) {
      return fail(Code::kCorrupt,
                  fmt::format("the further address {} is there twice", addresses[i]));
    }
  }
  return {};
}

}  // namespace shoal
