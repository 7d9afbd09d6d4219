#include "origin/origin.h"

namespace shoal {

OriginMetrics::OriginMetrics(Registry& registry)
    : reads(registry.counter("shoal_origin_reads_total", "Range reads answered by the origin.")),
      bytes_read(registry.counter("shoal_origin_bytes_read_total", "Bytes read from the origin.")),
      writes(registry.counter("shoal_origin_writes_total", "Changes made in the origin.")),
      bytes_written(
          registry.counter("shoal_origin_bytes_written_total", "Bytes written to the origin.")),
      lists(registry.counter("shoal_origin_lists_total", "List pages from the origin.")),
      heads(registry.counter("shoal_origin_heads_total", "Attribute look-ups in the origin.")),
      errors(registry.counter("shoal_origin_errors_total",
                              "Attempts that the origin or the network failed.")),
      retries(registry.counter("shoal_origin_retries_total", "Attempts made again.")) {}

namespace {
Task<Status> refuse(std::string message) {
  co_return fail(Code::kNotSupported, std::move(message));
}
}  // namespace

Task<Status> Origin::rename(std::string from, std::string, Context) {
  return refuse("renaming " + from + ": this origin has no rename; copy and remove instead");
}

}  // namespace shoal
