// Forecasts: how long a cluster of many nodes takes for a job, by the production code in virtual
// time, with stated speeds of networks and of the origin. Bytes are scaled down: one simulated
// chunk of 64 KiB stands for a large part of the object, and all rates are divided by the same
// factor, so that times stay.
//
// Not modelled: CPU time of the nodes, what switches between machines limit, and the speed of disks
// where only reads are forecast.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "world/time.h"

namespace shoal::simulate {

struct ForecastOptions {
  uint64_t nodes = 1000;
  uint64_t size = 140'000'000'000;  // bytes of the object
  double nic = 12.5e9;              // bytes per second of each node, each way; 100 Gbit/s
  double blob_out = 25e9;           // bytes per second of the account; 200 Gbit/s
  double blob_connection = 60e6;    // bytes per second of one connection
  // Per second, of 8 MiB each. Compared with what comes out, not modelled: a simulated request
  // stands for many, and would come in bursts that real ones do not.
  double blob_requests = 40'000;
  uint32_t blob_connections = 64;  // of each node at the same time
  Duration blob_latency = std::chrono::milliseconds(15);
  Duration latency = std::chrono::microseconds(50);  // between nodes, one way
  uint64_t chunks = 1024;                            // that the object has in the simulation
  uint64_t ahead = 16;                               // chunks that a reader keeps in flight
  uint64_t seed = 1;

  // Of the fan-out write.
  uint64_t writers = 0;         // nodes that write, an equal part each; 0: all
  uint64_t file_chunks = 0;     // simulated chunks of each writer's file; 0: chosen
  uint32_t replicas = 2;        // nodes that acknowledged bytes are on
  double nvme = 5e9;            // bytes per second that a node's disks write
  double nvme_read = 10e9;      // and read, at the same time
  double blob_in = 7.5e9;       // bytes per second into the account; 60 Gbit/s
  uint32_t upload_blocks = 16;  // in flight of a node's own files, and as many for other nodes
  Duration interval = std::chrono::minutes(30);  // from one checkpoint to the next
  uint64_t losses = 8;                           // runs in which a node is destroyed
};

struct ForecastRow {
  std::string name;
  double value = 0;
  std::string unit;
  double ceiling = 0;  // what the slowest part alone allows; 0: none
  double ratio = 0;    // of value to ceiling
  double target = 0;   // 0: none
  bool met = false;
};

struct Forecast {
  std::string scenario;
  std::vector<std::pair<std::string, std::string>> parameters;
  std::vector<ForecastRow> rows;

  void add(std::string name, std::string value) {
    parameters.emplace_back(std::move(name), std::move(value));
  }
  // {scenario, parameters, machine, rows: [{name, value, unit, ceiling, ratio, target, met}]}.
  std::string to_json() const;
  std::string to_table() const;
};

// `ceiling`, `target`: 0 is none.
ForecastRow forecast_row(std::string name, double value, std::string unit, double ceiling = 0,
                         double target = 0);
// "100 Gbit/s".
std::string rate_text(double bytes_per_second);

// Many nodes read the same cold object at the same moment.
Result<Forecast> forecast_fan_out_read(const ForecastOptions& options);
// One client reads an object that lies on many nodes.
Result<Forecast> forecast_fan_in_read(const ForecastOptions& options);
// The fan-out read and the start of the cluster, for 8, 16, 32 ... nodes.
Result<Forecast> forecast_scale(const ForecastOptions& options);

// Nodes write a checkpoint, each its part, as replicated; then the same without Shoal: to the local
// disk, and from there one uploader for each node; then nodes that are lost on the way.
// kInvalidArgument: more writers or replicas than nodes, or too few chunks.
Result<Forecast> forecast_fan_out_write(const ForecastOptions& options);

// "140GB", "512MiB", "100" -> bytes; "100Gbit", "12.5GB" -> bytes per second.
Result<double> parse_amount(const std::string& text);

}  // namespace shoal::simulate
