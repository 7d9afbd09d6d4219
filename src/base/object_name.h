// Names of objects in the origin and their mapping to file-system paths.
//
// An object name is what the origin knows ("models/llama/w.bin"): no leading slash, 1 to 1,024
// bytes. As a path, its components are separated by '/'. Some object names have no path: an empty
// component ("a//b", trailing or leading slash), "." or "..", a NUL, or a component above 255
// bytes. Those objects are not visible through a mount; they are counted and reported, never
// mangled.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

inline constexpr size_t kObjectNameBytesMax = 1024;
inline constexpr size_t kNameBytesMax = 255;

// Whether `name` can appear as one path component.
bool is_valid_component(std::string_view name);
// Whether the whole object name can be shown as a path.
bool is_representable(std::string_view object);
// Fails with kNameTooLong or kInvalidArgument, saying which rule was broken.
Status validate_object_name(std::string_view object);

// "a/b" + "c" -> "a/b/c"; "" + "c" -> "c".
std::string join_path(std::string_view directory, std::string_view name);
// "a/b/c" -> "a/b"; "c" -> "".
std::string_view parent_of(std::string_view object);
// "a/b/c" -> "c".
std::string_view leaf_of(std::string_view object);

// Percent-encodes for a URL: unreserved characters (RFC 3986) stay, '/' stays if `keep_slash`.
std::string percent_encode(std::string_view text, bool keep_slash);
Result<std::string> percent_decode(std::string_view text);

// RFC 4648 base64 with padding.
std::string base64_encode(std::string_view bytes);
Result<std::string> base64_decode(std::string_view text);

}  // namespace shoal
