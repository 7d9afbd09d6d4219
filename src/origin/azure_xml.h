// Azure's XML: list pages, block lists, error bodies. Bytes in, bytes out; nothing in them is
// trusted. Fuzzed by azure_xml_fuzz.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "origin/origin.h"

namespace shoal {

// Names are as the container has them, with the mount's prefix. Fails with kUnavailable: an answer
// that is not what Azure documents is most often a proxy's.
Result<ListPage> parse_list_page(std::string_view xml);
// The next marker of a page that holds blobs, found without parsing it; nothing when in doubt.
std::optional<std::string> peek_next_marker(std::string_view xml);

// The uncommitted blocks; ids still base64.
Result<std::vector<BlockInfo>> parse_block_list(std::string_view xml);

// <BlockList><Latest>id</Latest>...; ids already base64.
std::string format_block_list(const std::vector<std::string>& ids);

struct AzureErrorBody {
  std::string code;
  std::string message;  // first line only
};
// Empty fields when the body is something else.
AzureErrorBody parse_error_body(std::string_view xml);

// Decimal digits only, no overflow.
Result<uint64_t> parse_decimal(std::string_view text);
// Without the quotes that headers have around it.
std::string unquote_etag(std::string_view etag);

}  // namespace shoal
