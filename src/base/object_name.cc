#include "base/object_name.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>

namespace shoal {

bool is_valid_component(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

bool is_representable(std::string_view object) {
  if (object.empty() || object.size() > kObjectNameBytesMax) return false;
  while (true) {
    size_t slash = object.find('/');
    if (!is_valid_component(object.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    object.remove_prefix(slash + 1);
  }
}

Status validate_object_name(std::string_view object) {
  if (object.size() > kObjectNameBytesMax) {
    return fail(Code::kNameTooLong, fmt::format("the path has {} bytes, an object name at most {}",
                                                object.size(), kObjectNameBytesMax));
  }
  if (!is_representable(object)) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' has an empty, '.', '..' or overlong component", object));
  }
  return {};
}

std::string join_path(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  std::string path;
  path.reserve(directory.size() + 1 + name.size());
  path.append(directory).append("/").append(name);
  return path;
}

std::string_view parent_of(std::string_view object) {
  size_t slash = object.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : object.substr(0, slash);
}

std::string_view leaf_of(std::string_view object) {
  size_t slash = object.rfind('/');
  return slash == std::string_view::npos ? object : object.substr(slash + 1);
}

std::string percent_encode(std::string_view text, bool keep_slash) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (char raw : text) {
    auto byte = static_cast<unsigned char>(raw);
    bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                 (byte >= '0' && byte <= '9') || byte == '-' || byte == '.' || byte == '_' ||
                 byte == '~' || (keep_slash && byte == '/');
    if (plain) {
      out.push_back(raw);
    } else {
      out.push_back('%');
      out.push_back(kDigits[byte >> 4]);
      out.push_back(kDigits[byte & 15]);
    }
  }
  return out;
}

namespace {
int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}
}  // namespace

Result<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return fail(Code::kInvalidArgument, "a '%' lacks its two digits");
    int high = hex_value(text[i + 1]);
    int low = hex_value(text[i + 2]);
    if (high < 0 || low < 0) return fail(Code::kInvalidArgument, "a '%' lacks its two digits");
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

static constexpr char kBase64[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64_encode(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    size_t count = bytes.size() - i < 3 ? bytes.size() - i : 3;
    for (size_t k = 0; k < 3; ++k) {
      group = group << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) {
      out.push_back(k <= count ? kBase64[(group >> (18 - 6 * k)) & 63] : '=');
    }
  }
  return out;
}

Result<std::string> base64_decode(std::string_view text) {
  static constexpr auto kReverse = [] {
    std::array<int8_t, 256> table{};
    table.fill(-1);
    for (int i = 0; i < 64; ++i)
      table[static_cast<unsigned char>(kBase64[i])] = static_cast<int8_t>(i);
    return table;
  }();
  auto bad = [] { return fail(Code::kInvalidArgument, "not valid base64"); };
  if (text.size() % 4 != 0) return bad();
  std::string out;
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t group = 0;
    size_t padding = 0;
    for (size_t k = 0; k < 4; ++k) {
      char symbol = text[i + k];
      int value = kReverse[static_cast<unsigned char>(symbol)];
      if (symbol == '=' && i + 4 == text.size() && k >= 2) {
        ++padding;
        value = 0;
      } else if (value < 0 || padding > 0) {
        return bad();
      }
      group = group << 6 | static_cast<uint32_t>(value);
    }
    for (size_t k = 0; k < 3 - padding; ++k)
      out.push_back(static_cast<char>(group >> (16 - 8 * k)));
  }
  return out;
}

}  // namespace shoal
