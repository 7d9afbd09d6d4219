#include "apps/options.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "apps/units.h"

namespace shoal {
namespace {

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    char name[] = "/tmp/shoal_options_XXXXXX";
    int file = mkstemp(name);
    EXPECT_GE(file, 0);
    close(file);
    path_ = name;
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string error_of(const OptionSources& sources) {
  auto resolved = resolve_options(sources);
  return resolved ? "no error" : resolved.error().message();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Options, flag_beats_environment_beats_file_beats_default) {
  ConfigFile file("attr-ttl = \"1s\"\nnegative-ttl = \"1s\"\nupload-delay = \"1s\"\n");
  OptionSources sources;
  sources.config_file = file.path();
  sources.environment = {{"SHOAL_ATTR_TTL", "2s"}, {"SHOAL_NEGATIVE_TTL", "2s"}};
  sources.flags = {{"attr-ttl", "3s"}};
  auto resolved = resolve_options(sources);
  ASSERT_TRUE(resolved) << resolved.error().message();
  EXPECT_EQ(resolved->options.attr_ttl, std::chrono::seconds(3));
  EXPECT_EQ(resolved->options.negative_ttl, std::chrono::seconds(2));
  EXPECT_EQ(resolved->options.upload_delay, std::chrono::seconds(1));
  EXPECT_EQ(resolved->options.origin_timeout, Options{}.origin_timeout);
  EXPECT_TRUE(resolved->warnings.empty());
}

TEST(Options, the_file_can_be_named_by_the_environment) {
  ConfigFile file(
      "read-only = true\nconnections = 7\nfile-mode = \"0600\"\ncache-size = 1073741824\n");
  auto resolved = resolve_options({{}, {{"SHOAL_CONFIG", file.path()}}, ""});
  ASSERT_TRUE(resolved) << resolved.error().message();
  EXPECT_TRUE(resolved->options.read_only);
  EXPECT_EQ(resolved->options.connections, 7u);
  EXPECT_EQ(resolved->options.file_mode, 0600u);
  EXPECT_EQ(resolved->options.cache_size, kGiB);
}

TEST(Options, unknown_keys_name_the_line_and_the_nearest_key) {
  ConfigFile file("# comment\nattr-ttl = \"5s\"\ncache-dri = \"/x\"\n");
  std::string error = error_of({{}, {}, file.path()});
  EXPECT_TRUE(contains(error, file.path() + ":3:")) << error;
  EXPECT_TRUE(contains(error, "did you mean \"cache-dir\"?")) << error;

  ConfigFile underscore("cache_size = \"1GiB\"\n");
  EXPECT_TRUE(contains(error_of({{}, {}, underscore.path()}), "did you mean \"cache-size\"?"));

  ConfigFile table("[cache]\ndir = \"/x\"\n");
  EXPECT_TRUE(contains(error_of({{}, {}, table.path()}), "unknown key \"cache\""));
}

TEST(Options, mistyped_values_name_the_line_and_what_is_wanted) {
  ConfigFile number("\nread-only = \"yes\"\n");
  std::string error = error_of({{}, {}, number.path()});
  EXPECT_TRUE(contains(error, ":2: read-only must be true or false")) << error;
  ConfigFile mode("dir-mode = 755\n");
  EXPECT_TRUE(contains(error_of({{}, {}, mode.path()}), "octal"));
  ConfigFile broken("attr-ttl = \n");
  EXPECT_TRUE(contains(error_of({{}, {}, broken.path()}), ":1: not TOML"));
  ConfigFile bad("ack = \"sometimes\"\n");
  EXPECT_TRUE(contains(error_of({{}, {}, bad.path()}), ":1: ack"));
  EXPECT_TRUE(contains(error_of({{}, {}, "/nowhere/x.toml"}), "/nowhere/x.toml"));
}

TEST(Options, errors_name_their_source) {
  EXPECT_TRUE(contains(error_of({{{"cache-size", "many"}}, {}, ""}), "--cache-size"));
  EXPECT_TRUE(contains(error_of({{}, {{"SHOAL_HTTP", "7071"}}, ""}), "SHOAL_HTTP"));
  EXPECT_TRUE(contains(error_of({{{"connections", "0"}}, {}, ""}), "from 1 to 1024"));
  EXPECT_TRUE(contains(error_of({{{"cache-size", "1KiB"}}, {}, ""}), "the least is"));
  EXPECT_TRUE(contains(error_of({{{"sas-file", "/a"}, {"account-key-file", "/b"}}, {}, ""}),
                       "exclude each other"));
}

TEST(Options, unknown_variables_are_warned_of) {
  auto resolved = resolve_options({{}, {{"SHOAL_CACHE_DRI", "/x"}}, ""});
  ASSERT_TRUE(resolved);
  ASSERT_EQ(resolved->warnings.size(), 1u);
  EXPECT_TRUE(contains(resolved->warnings[0], "SHOAL_CACHE_DIR")) << resolved->warnings[0];
}

TEST(Options, an_asked_for_http_address_is_told_from_the_default) {
  EXPECT_FALSE(resolve_options({})->options.http_explicit);
  auto resolved = resolve_options({{{"http", "127.0.0.1:7071"}}, {}, ""});
  ASSERT_TRUE(resolved);
  EXPECT_TRUE(resolved->options.http_explicit);
}

TEST(Options, a_node_may_have_several_network_cards) {
  auto resolved = resolve_options({{{"advertise", "10.0.0.1,10.0.1.1:7072"},
                                    {"interface", "eth0,eth1"},
                                    {"listen", "10.0.0.1:7070,10.0.1.1:7072"}},
                                   {},
                                   ""});
  ASSERT_TRUE(resolved) << resolved.error().message();
  using List = std::vector<std::string>;
  EXPECT_EQ(resolved->options.advertise, (List{"10.0.0.1", "10.0.1.1:7072"}));
  EXPECT_EQ(resolved->options.interfaces, (List{"eth0", "eth1"}));
  EXPECT_EQ(resolved->options.listen, (List{"10.0.0.1:7070", "10.0.1.1:7072"}));

  std::map<std::string, std::string> wrong = {{"a,a", "\"a\" is there twice"},
                                              {"a,", "is not a word"},
                                              {"a,,b", "is not a word"},
                                              {"a,b c", "is not a word"},
                                              {"a,b,c,d,e,f,g,h,i", "9 are too many; at most 8"}};
  for (const auto& [value, text] : wrong) {
    std::string error = error_of({{{"advertise", value}}, {}, ""});
    EXPECT_TRUE(contains(error, text)) << value << ": " << error;
  }
  EXPECT_TRUE(contains(error_of({{{"listen", "10.0.0.1:7070,10.0.1.1"}}, {}, ""}),
                       "\"10.0.1.1\" is not ADDR:PORT"));
}

TEST(Options, the_table_is_consistent) {
  std::set<std::string_view> names;
  for (const OptionSpec& spec : option_specs()) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
    EXPECT_EQ(spec.kind == OptionKind::kSwitch, spec.placeholder.empty()) << spec.name;
    EXPECT_FALSE(spec.help.empty()) << spec.name;
    EXPECT_EQ(find_option(spec.name), &spec);
  }
  EXPECT_EQ(environment_name("cache-dir"), "SHOAL_CACHE_DIR");
}

TEST(Options, different_origins_have_different_default_caches) {
  EXPECT_NE(default_cache_dir("file:/a"), default_cache_dir("file:/b"));
  EXPECT_EQ(default_cache_dir("file:/a"), default_cache_dir("file:/a"));
}

TEST(Units, durations) {
  using namespace std::chrono_literals;
  EXPECT_EQ(parse_duration("250ms"), Duration(250ms));
  EXPECT_EQ(parse_duration("5s"), Duration(5s));
  EXPECT_EQ(parse_duration("1.5h"), Duration(90min));
  EXPECT_EQ(parse_duration("10 m"), Duration(10min));
  EXPECT_EQ(parse_duration("0"), Duration(0));
  EXPECT_EQ(parse_duration("3"), Duration(3s));
  for (const char* bad : {"", "s", "-1s", "5x", "1e3s", "nan", "inf", "99999999999d", "5s5s"}) {
    EXPECT_FALSE(parse_duration(bad)) << bad;
  }
  EXPECT_EQ(format_duration(250ms), "250ms");
  EXPECT_EQ(format_duration(90min), "1h30m");
  EXPECT_EQ(format_duration(0s), "0s");
  EXPECT_EQ(format_duration(50h), "2d2h");
}

TEST(Units, nearest_name_knows_slips_from_other_words) {
  std::vector<std::string> names = {"mount", "unmount", "status"};
  EXPECT_EQ(nearest_name("moutn", names), "mount");
  EXPECT_EQ(nearest_name("statsu", names), "status");
  EXPECT_EQ(nearest_name("kubernetes", names), "");
}

TEST(Units, shares_are_100_only_when_done) {
  EXPECT_EQ(format_share(999, 1000), "99%");
  EXPECT_EQ(format_share(1000, 1000), "100%");
  EXPECT_EQ(format_share(0, 0), "100%");
}

}  // namespace
}  // namespace shoal
