#include <gtest/gtest.h>

#include "observe/log.h"
#include "observe/metrics.h"

namespace shoal {
namespace {

TEST(Metrics, prints_prometheus_text) {
  Registry registry;
  Counter& reads = registry.counter("shoal_reads_total", "Reads.");
  EXPECT_EQ(&reads, &registry.counter("shoal_reads_total", "Reads."));
  reads.add(3);
  registry.gauge("shoal_level", "A level.", [] { return 1.5; });
  Histogram& latency = registry.histogram("shoal_latency_us", "Latency.");
  for (uint64_t v : {0, 1, 5, 6, 7, 1000}) latency.record(v);
  std::string text = registry.prometheus_text();
  EXPECT_NE(text.find("shoal_reads_total 3\n"), std::string::npos);
  EXPECT_NE(text.find("shoal_level 1.5\n"), std::string::npos);
  EXPECT_NE(text.find("shoal_latency_us_bucket{le=\"7\"} 5\n"), std::string::npos);
  EXPECT_NE(text.find("shoal_latency_us_count 6\n"), std::string::npos);
  EXPECT_EQ(latency.quantile(0.5), 7u);
  EXPECT_EQ(latency.quantile(1), 1023u);
}

TEST(Log, hides_secrets_in_urls) {
  EXPECT_EQ(redact_url("https://a.example/c/b?sv=1&sig=abc%3D&se=2"),
            "https://a.example/c/b?sv=1&sig=***&se=2");
  EXPECT_EQ(redact_url("http://me:pw@host/x"), "http://***@host/x");
  EXPECT_EQ(redact_url("https://host/a@b"), "https://host/a@b");
}

TEST(Log, respects_its_level) {
  std::string seen;
  Log log(LogLevel::kWarning, [&](LogLevel, std::string_view m) { seen += m; });
  log.info("a{}", 1);
  log.warning("b{}", 2);
  EXPECT_EQ(seen, "b2");
}

}  // namespace
}  // namespace shoal
