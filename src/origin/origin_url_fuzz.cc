// What users type, connection strings, and the directory origin's own small formats.
#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "origin/directory_layout.h"
#include "origin/http_date.h"
#include "origin/origin_url.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  auto known = shoal::parse_connection_string(text);
  if (auto url = shoal::parse_origin_url(text)) {
    bool azure = url->kind == shoal::OriginUrl::Kind::kAzure;
    SHOAL_ASSERT(url->prefix.empty() || url->prefix.back() == '/');
    if (azure) {
      SHOAL_ASSERT(!url->container.empty() && !url->account.empty());
      // What is shown reads back as the same place.
      auto again = shoal::parse_origin_url(url->display_name());
      bool plain = url->prefix.find_first_of("%?") == std::string::npos;
      if (plain) SHOAL_ASSERT(again && again->identity() == url->identity());
      (void)shoal::resolve_azure(*url, known ? *known : shoal::AzureAccount{});
    }
  }
  if (auto stored = shoal::parse_metadata(text)) {
    auto again = shoal::parse_metadata(shoal::format_metadata(*stored));
    SHOAL_ASSERT(again && again->metadata == stored->metadata);
  }
  if (auto marker = shoal::parse_marker(text)) {
    SHOAL_ASSERT(marker->size > 0 && shoal::is_block_id(marker->id));
  }
  if (auto time = shoal::parse_http_date(text)) {
    SHOAL_ASSERT(shoal::format_http_date(*time).size() == 29);
  }
  return 0;
}
