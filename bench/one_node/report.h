// What a benchmark says: rows with their ceilings, as one JSON object or as a table for people.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace shoal::bench {

// What `target` is compared with.
enum class Goal {
  kNone,          // reported only
  kRatioAtLeast,  // ratio >= target
  kRatioAtMost,   // ratio <= target
  kValueAtMost,   // value <= target
  kValueAtLeast,  // value >= target
};

struct Row {
  std::string name;
  std::string unit;
  std::optional<double> value;    // nothing: could not be measured
  std::optional<double> ceiling;  // the same measure of what the plumbing alone can do
  std::optional<double> ratio;    // value / ceiling: the median of the rounds' own ratios
  Goal goal = Goal::kNone;
  double target = 0;

  std::optional<bool> met() const;
};

using Facts = std::vector<std::pair<std::string, std::string>>;

struct Report {
  std::string scenario;
  Facts parameters;
  Facts machine;
  std::vector<Row> rows;

  // {scenario, parameters, machine, rows: [{name, value, unit, ceiling, ratio, target, met}]}.
  // What does not apply is null. A name that ends in _bytes, _seconds, or is all digits in value is
  // a number.
  std::string to_json() const;
  std::string to_table() const;
};

// The middle value; the mean of the two middle ones. `values` must not be empty.
double median(std::vector<double> values);

// One measure taken in alternation with its ceiling: round i of both belongs together.
struct Pairs {
  std::vector<double> ours;
  std::vector<double> ceiling;

  void add(double our_value, double ceiling_value) {
    ours.push_back(our_value);
    ceiling.push_back(ceiling_value);
  }
  Row row(std::string name, std::string unit, Goal goal, double target) const;
};

}  // namespace shoal::bench
