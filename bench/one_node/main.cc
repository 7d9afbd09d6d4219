// shoal-bench-one-node [--json] [NAME=VALUE...]: the same as `shoal bench one-node`, as a program
// of its own, so that a `shoal` built elsewhere can be measured: shoal=PATH.
#include <cstdio>
#include <string_view>

#include "one_node/one_node.h"

int main(int argc, char** argv) {
  shoal::bench::NameValues pairs;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    std::string_view word = argv[i];
    size_t equals = word.find('=');
    if (word == "--json") {
      json = true;
    } else if (equals == std::string_view::npos || equals == 0) {
      std::fprintf(stderr, "usage: %s [--json] [NAME=VALUE...]\n", argv[0]);
      return 2;
    } else {
      pairs.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    }
  }
  return shoal::bench::run_one_node(pairs, json);
}
