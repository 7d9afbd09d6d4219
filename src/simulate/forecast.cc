#include "simulate/forecast.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "simulate/forecast_run.h"
#include "simulate/in_child.h"

namespace shoal::simulate {

namespace {

using Json = nlohmann::ordered_json;
using RealClock = std::chrono::steady_clock;

// A node by itself moves the same bytes whatever its neighbours do, so that few chunks show the
// same time.
constexpr uint64_t kAloneChunks = 64;
constexpr uint64_t kAloneAhead = 4;
constexpr double kGiga = 1e9;

double seconds_of(Duration duration) { return to_seconds(duration); }

Forecast begin(const std::string& scenario, const ForecastOptions& options) {
  Forecast forecast;
  forecast.scenario = scenario;
  double chunk = static_cast<double>(options.size) / static_cast<double>(options.chunks);
  forecast.add("nodes", fmt::format("{}", options.nodes));
  forecast.add("size", fmt::format("{:.6g} GB", static_cast<double>(options.size) / kGiga));
  forecast.add("nic", rate_text(options.nic) + ", each way");
  forecast.add("blob_out", rate_text(options.blob_out));
  forecast.add("blob_connection", fmt::format("{:.4g} MB/s", options.blob_connection / 1e6));
  forecast.add("blob_connections", fmt::format("{}", options.blob_connections));
  forecast.add("blob_requests", fmt::format("{:.6g} /s", options.blob_requests));
  forecast.add("blob_latency", fmt::format("{:.4g} ms", seconds_of(options.blob_latency) * 1e3));
  forecast.add("latency", fmt::format("{:.4g} us", seconds_of(options.latency) * 1e6));
  forecast.add("chunks", fmt::format("{}", options.chunks));
  forecast.add("ahead", fmt::format("{}", options.ahead));
  forecast.add("seed", fmt::format("{}", options.seed));
  forecast.add(
      "scale",
      fmt::format("one simulated chunk of {} KiB stands for {:.4g} MB; sizes and rates "
                  "are divided by {:.4g}",
                  kForecastChunk / kKiB, chunk / 1e6, chunk / static_cast<double>(kForecastChunk)));
  forecast.add(
      "hop",
      fmt::format("a node passes a simulated chunk on when it has all of it, after {:.4g} ms; "
                  "a real one passes on each 256 KiB",
                  chunk / options.nic * 1e3));
  forecast.add("not_modelled", "CPU time, disks, limits between switches");
  return forecast;
}

struct Measured {
  double start = 0;
  double first = 0;
  double last = 0;
  double origin_bytes = 0;
  double peer_bytes = 0;
  double busiest = 0;
  double lookups = 0;
};

Result<Measured> fan_out_here(const ForecastOptions& options, uint64_t nodes, bool together) {
  ForecastRun run(options, nodes, together);
  Measured measured;
  SHOAL_ASSIGN_OR_RETURN(measured.start, run.start());
  uint64_t lookups = run.origin_lookups();
  SHOAL_ASSIGN_OR_RETURN(std::vector<double> each, run.read_everywhere());
  measured.first = *std::ranges::min_element(each);
  measured.last = *std::ranges::max_element(each);
  measured.origin_bytes = run.origin_bytes();
  measured.peer_bytes = run.peer_bytes();
  measured.busiest = run.busiest_sender();
  measured.lookups = static_cast<double>(run.origin_lookups() - lookups);
  return measured;
}

Result<Measured> fan_out(const ForecastOptions& options, uint64_t nodes, bool together) {
  auto run = [&]() -> Result<std::vector<double>> {
    SHOAL_ASSIGN_OR_RETURN(Measured it, fan_out_here(options, nodes, together));
    return std::vector<double>{it.start,      it.first,   it.last,   it.origin_bytes,
                               it.peer_bytes, it.busiest, it.lookups};
  };
  SHOAL_ASSIGN_OR_RETURN(std::vector<double> numbers, in_child(run));
  SHOAL_ASSERT(numbers.size() == 7);
  return Measured{numbers[0], numbers[1], numbers[2], numbers[3],
                  numbers[4], numbers[5], numbers[6]};
}

// What the network of one node, and the account, need for one copy of the object.
double cluster_ceiling(const ForecastOptions& options) {
  auto size = static_cast<double>(options.size);
  return std::max(size / options.nic, size / options.blob_out);
}

ForecastOptions options_alone(ForecastOptions options) {
  options.chunks = kAloneChunks;
  options.ahead = kAloneAhead;
  return options;
}

double alone_ceiling(const ForecastOptions& options) {
  auto size = static_cast<double>(options.size);
  auto nodes = static_cast<double>(options.nodes);
  double connections = static_cast<double>(options.blob_connections) * options.blob_connection;
  double requests = std::ceil(size / (8.0 * kMiB));
  return std::max({size / options.nic, size / connections, nodes * size / options.blob_out,
                   nodes * requests / options.blob_requests});
}

Json number(double value) { return std::stod(fmt::format("{:.4g}", value)); }

}  // namespace

ForecastRow forecast_row(std::string name, double value, std::string unit, double ceiling,
                         double target) {
  ForecastRow out{std::move(name), value, std::move(unit), ceiling, 0, target, false};
  if (ceiling > 0) out.ratio = value / ceiling;
  out.met = target > 0 && out.ratio <= target;
  return out;
}

std::string rate_text(double bytes_per_second) {
  return fmt::format("{:.4g} Gbit/s", bytes_per_second * 8 / kGiga);
}

Result<Forecast> forecast_fan_out_read(const ForecastOptions& options) {
  Forecast forecast = begin("fan-out-read", options);
  auto size = static_cast<double>(options.size);
  auto nodes = static_cast<double>(options.nodes);
  SHOAL_ASSIGN_OR_RETURN(Measured ours, fan_out(options, options.nodes, true));
  SHOAL_ASSIGN_OR_RETURN(Measured alone, fan_out(options_alone(options), options.nodes, false));
  auto& rows = forecast.rows;
  rows.push_back(forecast_row("start of all nodes", ours.start, "s"));
  rows.push_back(forecast_row("read, last node", ours.last, "s", cluster_ceiling(options), 1.25));
  rows.push_back(forecast_row("read, first node", ours.first, "s"));
  rows.push_back(
      forecast_row("bytes from the origin", ours.origin_bytes / kGiga, "GB", size / kGiga, 1.02));
  rows.push_back(forecast_row("requests at the origin",
                              ours.origin_bytes / (8.0 * kMiB) / ours.last, "/s",
                              options.blob_requests));
  rows.push_back(forecast_row("look-ups at the origin", ours.lookups, ""));
  rows.push_back(
      forecast_row("bytes between nodes", ours.peer_bytes / kGiga, "GB", size * nodes / kGiga));
  rows.push_back(forecast_row("busiest sender over the mean", ours.busiest, ""));
  rows.push_back(
      forecast_row("each node by itself, last node", alone.last, "s", alone_ceiling(options)));
  rows.push_back(forecast_row("each node by itself, bytes from the origin",
                              alone.origin_bytes / kGiga, "GB", size * nodes / kGiga));
  rows.push_back(forecast_row("each node by itself, requests at the origin",
                              alone.origin_bytes / (8.0 * kMiB) / alone.last, "/s",
                              options.blob_requests));
  rows.push_back(forecast_row("times faster than each by itself", alone.last / ours.last, ""));
  return forecast;
}

Result<Forecast> forecast_fan_in_read(const ForecastOptions& options) {
  Forecast forecast = begin("fan-in-read", options);
  auto size = static_cast<double>(options.size);
  ForecastRun run(options, options.nodes, true);
  SHOAL_ASSIGN_OR_RETURN(double started, run.start());
  SHOAL_ASSIGN_OR_RETURN(double warmed, run.warm());
  double before = run.origin_bytes();
  run.count_traffic();
  SHOAL_ASSIGN_OR_RETURN(double read, run.read_by_client());
  auto& rows = forecast.rows;
  rows.push_back(forecast_row("start of all nodes", started, "s"));
  rows.push_back(
      forecast_row("warm, each chunk at its owner", warmed, "s", size / options.blob_out));
  rows.push_back(forecast_row("read by one client", read, "s", size / options.nic, 1.0 / 0.94));
  rows.push_back(forecast_row("bytes from the origin while reading",
                              (run.origin_bytes() - before) / kGiga, "GB"));
  rows.push_back(forecast_row("busiest owner over the mean", run.busiest_sender(), ""));
  return forecast;
}

Result<Forecast> forecast_scale(const ForecastOptions& options) {
  Forecast forecast = begin("scale", options);
  std::vector<uint64_t> counts;
  for (uint64_t n = 8; n < options.nodes; n *= 2) counts.push_back(n);
  counts.push_back(options.nodes);
  for (uint64_t nodes : counts) {
    SHOAL_ASSIGN_OR_RETURN(Measured one, fan_out(options, nodes, true));
    auto size = static_cast<double>(options.size);
    auto& rows = forecast.rows;
    rows.push_back(forecast_row(fmt::format("{} nodes, start", nodes), one.start, "s"));
    rows.push_back(forecast_row(fmt::format("{} nodes, read, last node", nodes), one.last, "s",
                                cluster_ceiling(options)));
    rows.push_back(forecast_row(fmt::format("{} nodes, bytes from the origin", nodes),
                                one.origin_bytes / kGiga, "GB", size / kGiga, 1.02));
  }
  return forecast;
}

std::string Forecast::to_json() const {
  Json pairs = Json::object();
  for (const auto& [name, value] : parameters) pairs[name] = value;
  Json list = Json::array();
  for (const ForecastRow& each : rows) {
    bool compared = each.ceiling > 0;
    bool aimed = each.target > 0;
    list.push_back({{"name", each.name},
                    {"value", number(each.value)},
                    {"unit", each.unit},
                    {"ceiling", compared ? number(each.ceiling) : Json(nullptr)},
                    {"ratio", compared ? number(each.ratio) : Json(nullptr)},
                    {"target", aimed ? number(each.target) : Json(nullptr)},
                    {"met", aimed ? Json(each.met) : Json(nullptr)}});
  }
  Json document = {{"scenario", scenario},
                   {"parameters", std::move(pairs)},
                   {"machine", {{"kind", "simulated, in virtual time"}}},
                   {"rows", std::move(list)}};
  return document.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string Forecast::to_table() const {
  std::string out = fmt::format("forecast {}\n", scenario);
  auto to = std::back_inserter(out);
  for (const auto& [name, value] : parameters) fmt::format_to(to, "  {:<18} {}\n", name, value);
  size_t width = 4;
  for (const ForecastRow& each : rows) width = std::max(width, each.name.size());
  fmt::format_to(to, "\n{:<{}} {:>10} {:>10} {:>7}  {:<4} {:<14} {}\n", "row", width, "value",
                 "ceiling", "ratio", "unit", "target", "met");
  for (const ForecastRow& each : rows) {
    std::string line =
        fmt::format("{:<{}} {:>10} {:>10} {:>7}  {:<4} {:<14} {}", each.name, width,
                    fmt::format("{:.5g}", each.value),
                    each.ceiling > 0 ? fmt::format("{:.5g}", each.ceiling) : "-",
                    each.ceiling > 0 ? fmt::format("{:.3f}", each.ratio) : "-", each.unit,
                    each.target > 0 ? fmt::format("ratio <= {:.3g}", each.target) : "",
                    each.target > 0 ? (each.met ? "yes" : "NO") : "");
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::format_to(to, "{}\n", line);
  }
  return out;
}

Result<double> parse_amount(const std::string& text) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, static_cast<size_t>(text.data() + text.size() - end));
  constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1},
      {"B", 1},
      {"kB", 1e3},
      {"MB", 1e6},
      {"GB", 1e9},
      {"TB", 1e12},
      {"KiB", 1024.0},
      {"MiB", 1048576.0},
      {"GiB", 1073741824.0},
      {"TiB", 1099511627776.0},
      {"kbit", 125},
      {"Mbit", 125e3},
      {"Gbit", 125e6},
      {"Tbit", 125e9},
  };
  for (const auto& [name, factor] : kUnits) {
    if (error == std::errc() && unit == name && std::isfinite(value) && value > 0) {
      return value * factor;
    }
  }
  return fail(Code::kInvalidArgument,
              fmt::format("\"{}\" is no amount; write it like 140GB, 512MiB or 100Gbit", text));
}

}  // namespace shoal::simulate
