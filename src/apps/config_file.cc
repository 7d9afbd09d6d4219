// The TOML side of options.h; toml++ is seen nowhere else.
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>

#include "apps/options.h"
#include "apps/units.h"

namespace shoal {
namespace {

std::string_view type_wanted(OptionKind kind) {
  switch (kind) {
    case OptionKind::kText:
      return "a string";
    case OptionKind::kSize:
      return "a size like \"500GiB\" or a number of bytes";
    case OptionKind::kDuration:
      return "a duration like \"5s\" or a number of seconds";
    case OptionKind::kCount:
      return "a whole number";
    case OptionKind::kOctal:
      return "a string of octal digits like \"0644\"";
    case OptionKind::kSwitch:
      return "true or false";
  }
  return "something else";
}

// The value as it would be typed on the command line, if its type fits.
std::optional<std::string> text_of(const toml::node& node, OptionKind kind) {
  if (const auto* text = node.as_string()) {
    if (kind == OptionKind::kSwitch || kind == OptionKind::kCount) return std::nullopt;
    return text->get();
  }
  if (const auto* truth = node.as_boolean()) {
    if (kind != OptionKind::kSwitch) return std::nullopt;
    return truth->get() ? "true" : "false";
  }
  if (const auto* number = node.as_integer()) {
    if (kind != OptionKind::kCount && kind != OptionKind::kSize && kind != OptionKind::kDuration) {
      return std::nullopt;
    }
    return std::to_string(number->get());
  }
  if (const auto* number = node.as_floating_point(); number && kind == OptionKind::kDuration) {
    return fmt::format("{}", number->get());
  }
  return std::nullopt;
}

}  // namespace

Result<std::map<std::string, FileSetting>> parse_config(std::string_view text,
                                                        const std::string& file_name) {
  toml::table table;
  try {
    table = toml::parse(text, file_name);
  } catch (const toml::parse_error& error) {  // foreign code
    return fail(Code::kInvalidArgument,
                fmt::format("{}:{}: not TOML: {}", file_name, error.source().begin.line,
                            error.description()));
  }
  std::vector<std::string_view> names;
  for (const OptionSpec& spec : option_specs()) names.push_back(spec.name);

  std::map<std::string, FileSetting> settings;
  for (const auto& [key, node] : table) {
    std::string name(key.str());
    int line = static_cast<int>(key.source().begin.line);
    const OptionSpec* spec = find_option(name);
    if (spec == nullptr) {
      std::string dashed = name;
      std::replace(dashed.begin(), dashed.end(), '_', '-');
      std::string near = nearest_name(dashed, names);
      return fail(Code::kInvalidArgument,
                  fmt::format("{}:{}: unknown key \"{}\"; {}", file_name, line, name,
                              near.empty() ? "the keys are the names of the flags, see shoal mount "
                                             "--help"
                                           : fmt::format("did you mean \"{}\"?", near)));
    }
    auto value = text_of(node, spec->kind);
    if (!value) {
      return fail(Code::kInvalidArgument, fmt::format("{}:{}: {} must be {}", file_name, line, name,
                                                      type_wanted(spec->kind)));
    }
    settings.emplace(std::move(name), FileSetting{std::move(*value), line});
  }
  return settings;
}

}  // namespace shoal
