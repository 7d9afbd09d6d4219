#include "observe/log.h"

namespace shoal {

std::string redact_url(std::string_view url) {
  std::string out;
  size_t query = url.find('?');
  std::string_view base = url.substr(0, query);
  size_t scheme = base.find("://");
  size_t host = scheme == std::string_view::npos ? 0 : scheme + 3;
  size_t slash = base.find('/', host);
  size_t at = base.substr(0, slash).rfind('@');
  if (at != std::string_view::npos && at >= host) {
    out.append(base.substr(0, host)).append("***").append(base.substr(at));
  } else {
    out.append(base);
  }
  if (query == std::string_view::npos) return out;
  std::string_view rest = url.substr(query + 1);
  char separator = '?';
  while (true) {
    size_t end = rest.find('&');
    std::string_view parameter = rest.substr(0, end);
    size_t equals = parameter.find('=');
    std::string_view name = parameter.substr(0, equals);
    bool secret = name == "sig" || name == "X-Amz-Signature" || name == "X-Amz-Security-Token" ||
                  name == "X-Amz-Credential";
    out.push_back(separator);
    if (secret) {
      out.append(name).append("=***");
    } else {
      out.append(parameter);
    }
    if (end == std::string_view::npos) return out;
    rest.remove_prefix(end + 1);
    separator = '&';
  }
}

}  // namespace shoal
