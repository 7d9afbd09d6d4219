// Dates, ETags and XML of the fake Blob service.
#include <fmt/format.h>

#include <array>
#include <cstdio>

#include "world_sim/internal/blob_call.h"

namespace shoal {

namespace {

constexpr std::array<const char*, 7> kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
constexpr std::array<const char*, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                 "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

// Decodes one character of UTF-8 and moves on; -1 if it is none.
int32_t next_character(std::string_view text, size_t& at) {
  auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  uint8_t first = byte(at++);
  if (first < 0x80) return first;
  int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  if (first < 0xC2 || first > 0xF4 || at + static_cast<size_t>(more) > text.size()) return -1;
  int32_t value = first & (0x3F >> more);
  for (int i = 0; i < more; ++i) {
    uint8_t next = byte(at++);
    if ((next & 0xC0) != 0x80) return -1;
    value = (value << 6) | (next & 0x3F);
  }
  constexpr std::array<int32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
  bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  return value < kLeast[static_cast<size_t>(more)] || value > 0x10FFFF || surrogate ? -1 : value;
}

}  // namespace

std::string blob_etag(uint64_t version) { return fmt::format("\"0x8DC{:013X}\"", version); }

std::string blob_date(WallTime when) {
  auto day = std::chrono::floor<std::chrono::days>(when);
  std::chrono::year_month_day date(day);
  std::chrono::hh_mm_ss time(std::chrono::floor<std::chrono::seconds>(when - day));
  std::chrono::weekday weekday(day);
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", kDays[weekday.c_encoding()],
                     static_cast<unsigned>(date.day()),
                     kMonths[static_cast<unsigned>(date.month()) - 1],
                     static_cast<int>(date.year()), time.hours().count(), time.minutes().count(),
                     time.seconds().count());
}

std::optional<WallTime> parse_blob_date(std::string_view text) {
  // "Sun, 06 Nov 1994 08:49:37 GMT" and nothing else.
  if (text.size() != 29 || text.substr(25) != " GMT" || text.substr(3, 2) != ", ") return {};
  auto number = [&](size_t at, size_t digits) {
    int value = 0;
    for (size_t i = at; i < at + digits; ++i) {
      if (text[i] < '0' || text[i] > '9') return -1;
      value = value * 10 + (text[i] - '0');
    }
    return value;
  };
  unsigned month = 0;
  while (month < 12 && text.substr(8, 3) != kMonths[month]) ++month;
  int day = number(5, 2);
  int year = number(12, 4);
  int hour = number(17, 2);
  int minute = number(20, 2);
  int second = number(23, 2);
  if (month == 12 || day < 1 || year < 1900 || year > 2200 || hour < 0 || minute < 0 || second < 0)
    return {};
  std::chrono::year_month_day date(std::chrono::year(year), std::chrono::month(month + 1),
                                   std::chrono::day(static_cast<unsigned>(day)));
  if (!date.ok() || hour > 23 || minute > 59 || second > 60) return {};
  WallTime when = std::chrono::sys_days(date) + std::chrono::hours(hour) +
                  std::chrono::minutes(minute) + std::chrono::seconds(second);
  if (blob_date(when).substr(0, 3) != text.substr(0, 3)) return {};
  return when;
}

bool is_blob_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (next_character(text, at) < 0) return false;
  }
  return true;
}

bool is_blob_xml_text(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    int32_t c = next_character(text, at);
    if (c < 0 || c == 0xFFFE || c == 0xFFFF) return false;
    if (c < 0x20 && c != '\t' && c != '\n' && c != '\r') return false;
  }
  return true;
}

std::string blob_xml_escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\r':
        out += "&#xD;";
        break;
      case '\n':
        out += "&#xA;";
        break;
      case '\t':
        out += "&#x9;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace shoal
