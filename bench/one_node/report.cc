#include "one_node/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/assert.h"

namespace shoal::bench {

namespace {

using Json = nlohmann::ordered_json;

Json number(std::optional<double> value) {
  if (!value || !std::isfinite(*value)) return nullptr;
  // Four significant digits: more would only pretend.
  if (*value == std::floor(*value) && std::abs(*value) < 1e15) {
    return static_cast<int64_t>(*value);
  }
  return std::stod(fmt::format("{:.4g}", *value));
}

Json facts(const Facts& pairs) {
  Json object = Json::object();
  for (const auto& [name, value] : pairs) {
    bool digits =
        !value.empty() && value.size() < 18 &&
        std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (digits) {
      object[name] = std::stoll(value);
    } else {
      object[name] = value;
    }
  }
  return object;
}

std::string shown(std::optional<double> value) {
  if (!value) return "-";
  double size = std::abs(*value);
  if (size == 0) return "0";
  if (size >= 100) return fmt::format("{:.0f}", *value);
  if (size >= 10) return fmt::format("{:.1f}", *value);
  return fmt::format("{:.3f}", *value);
}

std::string shown_target(const Row& row) {
  switch (row.goal) {
    case Goal::kNone:
      return "";
    case Goal::kRatioAtLeast:
      return fmt::format("ratio >= {}", row.target);
    case Goal::kRatioAtMost:
      return fmt::format("ratio <= {}", row.target);
    case Goal::kValueAtMost:
      return fmt::format("value <= {:.4g}", row.target);
    case Goal::kValueAtLeast:
      return fmt::format("value >= {:.5g}", row.target);
  }
  return "";
}

std::string shown_met(const Row& row) {
  if (!row.value) return "not measured";
  auto met = row.met();
  if (!met) return "";
  return *met ? "yes" : "NO";
}

}  // namespace

std::optional<bool> Row::met() const {
  switch (goal) {
    case Goal::kNone:
      return std::nullopt;
    case Goal::kRatioAtLeast:
      return ratio && *ratio >= target;
    case Goal::kRatioAtMost:
      return ratio && *ratio <= target;
    case Goal::kValueAtMost:
      return value && *value <= target;
    case Goal::kValueAtLeast:
      return value && *value >= target;
  }
  return std::nullopt;
}

std::string Report::to_json() const {
  Json list = Json::array();
  for (const Row& row : rows) {
    auto met = row.met();
    Json target = row.goal == Goal::kNone ? Json(nullptr) : number(row.target);
    list.push_back({{"name", row.name},
                    {"value", number(row.value)},
                    {"unit", row.unit},
                    {"ceiling", number(row.ceiling)},
                    {"ratio", number(row.ratio)},
                    {"target", target},
                    {"met", met ? Json(*met) : Json(nullptr)}});
  }
  Json document = {{"scenario", scenario},
                   {"parameters", facts(parameters)},
                   {"machine", facts(machine)},
                   {"rows", std::move(list)}};
  return document.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string Report::to_table() const {
  std::string out = fmt::format("scenario {}\n", scenario);
  auto to = std::back_inserter(out);
  for (const auto& [name, value] : machine) fmt::format_to(to, "  {:<22} {}\n", name, value);
  for (const auto& [name, value] : parameters) fmt::format_to(to, "  {:<22} {}\n", name, value);
  size_t width = 4;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  fmt::format_to(to, "\n{:<{}} {:>10} {:>10} {:>7}  {:<9} {:<16} {}\n", "row", width, "value",
                 "ceiling", "ratio", "unit", "target", "met");
  for (const Row& row : rows) {
    std::string line = fmt::format("{:<{}} {:>10} {:>10} {:>7}  {:<9} {:<16} {}", row.name, width,
                                   shown(row.value), shown(row.ceiling),
                                   row.ratio ? fmt::format("{:.2f}", *row.ratio) : "-", row.unit,
                                   shown_target(row), shown_met(row));
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::format_to(to, "{}\n", line);
  }
  return out;
}

double median(std::vector<double> values) {
  SHOAL_ASSERT(!values.empty());
  std::sort(values.begin(), values.end());
  size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Row Pairs::row(std::string name, std::string unit, Goal goal, double target) const {
  SHOAL_ASSERT(ours.size() == ceiling.size() && !ours.empty());
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size(); ++i) {
    if (ceiling[i] > 0) ratios.push_back(ours[i] / ceiling[i]);
  }
  Row row{std::move(name), std::move(unit), median(ours), median(ceiling), std::nullopt, goal,
          target};
  if (!ratios.empty()) row.ratio = median(std::move(ratios));
  return row;
}

}  // namespace shoal::bench
