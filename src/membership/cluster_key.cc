#include "membership/internal/cluster_key.h"

#include <fmt/format.h>

#include "base/assert.h"
#include "membership/map_store.h"

namespace shoal {
namespace {

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Status check_cluster_name(std::string_view name) {
  bool good = !name.empty() && name.size() <= 63;
  for (char c : name) {
    good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
  }
  if (good) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("'{}' is no name for a cluster: take 1 to 63 of a-z, 0-9 and '-'",
                          name.substr(0, 80)));
}

std::string make_cluster_key(Random& random) {
  std::string key;
  while (key.size() < kClusterKeyBytes) {
    uint64_t bits = random.next();
    for (int i = 0; i < 8; ++i) key.push_back(static_cast<char>(bits >> (8 * i) & 0xFF));
  }
  SHOAL_ASSERT(key.size() == kClusterKeyBytes);
  return key;
}

std::string format_cluster_key(std::string_view key) {
  std::string text;
  for (char c : key) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text + "\n";
}

Result<std::string> parse_cluster_key(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
    text.remove_suffix(1);
  }
  std::string key;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    int high = digit_of(text[i]);
    int low = digit_of(text[i + 1]);
    if (high < 0 || low < 0) break;
    key.push_back(static_cast<char>(high * 16 + low));
  }
  if (text.size() != 2 * kClusterKeyBytes || key.size() != kClusterKeyBytes) {
    return fail(Code::kCorrupt,
                fmt::format("the cluster's key must be {} hexadecimal digits; delete it when no "
                            "node runs, the next start makes a new one",
                            2 * kClusterKeyBytes));
  }
  return key;
}

}  // namespace shoal
