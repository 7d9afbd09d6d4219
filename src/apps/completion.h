// Completion scripts, generated from the parser so that they cannot fall behind it.
#pragma once

#include <string>
#include <string_view>

namespace CLI {
class App;
}

namespace shoal {

// `shell` is "bash", "zsh" or "fish".
std::string completion_script(const CLI::App& app, std::string_view shell);

}  // namespace shoal
