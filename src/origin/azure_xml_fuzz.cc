// List pages, block lists and error bodies, as a hostile or broken origin might send them.
#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "origin/azure_xml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto page = shoal::parse_list_page(text)) {
    for (const auto& object : page->objects) {
      SHOAL_ASSERT(!object.name.empty() && !object.etag.empty());
    }
    for (const auto& prefix : page->prefixes) SHOAL_ASSERT(!prefix.empty());
  }
  if (auto blocks = shoal::parse_block_list(text)) {
    for (const auto& block : *blocks) SHOAL_ASSERT(!block.id.empty());
  }
  SHOAL_ASSERT(shoal::parse_error_body(text).message.size() <= 300);
  return 0;
}
