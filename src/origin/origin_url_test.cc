#include "origin/origin_url.h"

#include <gtest/gtest.h>

#include "origin/directory_layout.h"

namespace shoal {
namespace {

OriginUrl parse(std::string_view text) {
  Result<OriginUrl> url = parse_origin_url(text);
  if (!url) ADD_FAILURE() << text << ": " << url.error().to_string();
  return url ? *url : OriginUrl{};
}

TEST(OriginUrl, knows_directories) {
  EXPECT_EQ(parse("/data/x").directory, "/data/x");
  EXPECT_EQ(parse("./rel").directory, "./rel");
  EXPECT_EQ(parse("file:///data/a%20b").directory, "/data/a b");
  EXPECT_EQ(parse("/data").identity(), "file:/data");
  EXPECT_EQ(parse("s3x").kind, OriginUrl::Kind::kDirectory);
}

TEST(OriginUrl, knows_azure) {
  OriginUrl url = parse("az://acct/box/pre/fix/");
  EXPECT_EQ(url.kind, OriginUrl::Kind::kAzure);
  EXPECT_EQ(url.endpoint, "https://acct.blob.core.windows.net");
  EXPECT_EQ(url.account, "acct");
  EXPECT_EQ(url.container, "box");
  EXPECT_EQ(url.prefix, "pre/fix/");
  EXPECT_EQ(url.display_name(), "az://acct/box/pre/fix");
  EXPECT_EQ(parse("az://acct/box").prefix, "");
}

TEST(OriginUrl, gives_one_place_one_identity) {
  std::string identity = parse("az://acct/box/p").identity();
  for (const char* same : {"az://acct/box/p/", "AZ://acct/box/p", "az://acct/box//p",
                           "https://acct.blob.core.windows.net/box/p",
                           "https://ACCT.blob.core.windows.net/box/p/?sv=1&sig=x"}) {
    EXPECT_EQ(parse(same).identity(), identity) << same;
  }
  for (const char* other : {"az://acct/box", "az://acct/box/q", "az://acct2/box/p",
                            "http://127.0.0.1:10000/acct/box/p"}) {
    EXPECT_NE(parse(other).identity(), identity) << other;
  }
}

TEST(OriginUrl, finds_the_account) {
  OriginUrl url = parse("http://127.0.0.1:10000/devstoreaccount1/box/a%20b/c");
  EXPECT_EQ(url.endpoint, "http://127.0.0.1:10000/devstoreaccount1");
  EXPECT_EQ(url.account, "devstoreaccount1");
  EXPECT_EQ(url.container, "box");
  EXPECT_EQ(url.prefix, "a b/c/");
  for (const char* path_style : {"http://localhost/acct/box", "http://blobstub:10000/acct/box",
                                 "https://stub.example.com:8443/acct/box",
                                 "http://[::1]:10000/acct/box", "http://10.0.0.1/acct/box"}) {
    EXPECT_EQ(parse(path_style).account, "acct") << path_style;
    EXPECT_TRUE(parse(path_style).endpoint.ends_with("/acct")) << path_style;
  }
  url = parse("https://acct.blob.core.chinacloudapi.cn/box");
  EXPECT_EQ(url.account, "acct");
  EXPECT_EQ(url.endpoint, "https://acct.blob.core.chinacloudapi.cn");
  EXPECT_EQ(url.display_name(), "https://acct.blob.core.chinacloudapi.cn/box");
}

TEST(OriginUrl, hides_tokens) {
  OriginUrl url = parse("https://acct.blob.core.windows.net/box/p?sv=2022-11-02&sig=SECRET");
  EXPECT_EQ(url.sas_token, "sv=2022-11-02&sig=SECRET");
  EXPECT_EQ(url.display_name().find("SECRET"), std::string::npos);
  EXPECT_EQ(url.identity().find("SECRET"), std::string::npos);
  Result<OriginUrl> bad = parse_origin_url("https://me:SECRET@acct.example.com/box");
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().message().find("SECRET"), std::string::npos);
}

TEST(OriginUrl, explains_mistakes) {
  struct {
    const char* text;
    const char* says;
  } cases[] = {
      {"", "no origin"},
      {"azz://acct/box", "azz"},
      {"az:/acct/box", "//"},
      {"https:/acct", "//"},
      {"az://", "missing"},
      {"az://acct", "missing"},
      {"az://acct/", "missing"},
      {"az://Acct/box", "account"},
      {"az://a/box", "account"},
      {"az://acct/Box", "container"},
      {"az://acct/bo--x", "container"},
      {"az://acct/b", "container"},
      {"az://acct/box/a/../b", "prefix"},
      {"https://acct.blob.core.windows.net/", "container"},
      {"https://acct.blob.core.windows.net/?sig=x", "container"},
      {"http://127.0.0.1:10000/", "account"},
      {"http://127.0.0.1:10000/acct", "container"},
      {"http://127.0.0.1:port/acct/box", "host"},
      {"http:///acct/box", "host"},
      {"http://ho st/acct/box", "host"},
      {"file://host/data", "file:///"},
      {"s3://", "bucket"},
      {"gs://bucket", "gs"},
  };
  for (const auto& row : cases) {
    Result<OriginUrl> url = parse_origin_url(row.text);
    ASSERT_FALSE(url) << row.text;
    EXPECT_EQ(url.error().code(), Code::kInvalidArgument) << row.text;
    EXPECT_NE(url.error().message().find(row.says), std::string::npos) << url.error().message();
  }
}

TEST(ConnectionString, names_account_key_and_endpoint) {
  auto known = parse_connection_string(
      "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5PT0=;"
      "EndpointSuffix=core.windows.net");
  ASSERT_TRUE(known);
  EXPECT_EQ(known->account, "acct");
  EXPECT_EQ(known->credentials.account_key, "a2V5PT0=");
  EXPECT_EQ(known->endpoint, "https://acct.blob.core.windows.net");
  known = parse_connection_string(
      "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=a%3D;");
  ASSERT_TRUE(known);
  EXPECT_EQ(known->endpoint, "https://acct.blob.core.windows.net");
  EXPECT_EQ(known->credentials.sas_token, "sv=1&sig=a%3D");
  EXPECT_EQ(parse_connection_string("UseDevelopmentStorage=true")->account, kEmulatorAccount);
  for (const char* bad : {"", "nonsense", "=x", "AccountKey=SECRET",
                          "DefaultEndpointsProtocol=ftp;AccountName=acct"}) {
    auto result = parse_connection_string(bad);
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().message().find("SECRET"), std::string::npos);
  }
}

TEST(Credentials, are_those_of_the_account) {
  AzureAccount known{"acct", "", {"a2V5", ""}};
  EXPECT_EQ(resolve_azure(parse("az://acct/box"), known)->credentials.account_key, "a2V5");
  EXPECT_TRUE(resolve_azure(parse("az://other/box"), known)->credentials.anonymous());
  AzureAccount nameless{"", "", {"a2V5", ""}};
  EXPECT_EQ(resolve_azure(parse("az://other/box"), nameless)->credentials.account_key, "a2V5");
  auto emulator = resolve_azure(parse("az://devstoreaccount1/box"), {});
  EXPECT_EQ(emulator->credentials.account_key, kEmulatorKey);
  EXPECT_EQ(emulator->url.endpoint, kEmulatorEndpoint);
  auto token = resolve_azure(parse("https://acct.blob.core.windows.net/box?sig=x"), known);
  EXPECT_EQ(token->credentials.sas_token, "sig=x");
  EXPECT_TRUE(token->credentials.account_key.empty());
  AzureAccount with_question{"acct", "", {"", "?sv=1&sig=x"}};
  EXPECT_EQ(resolve_azure(parse("az://acct/box"), with_question)->credentials.sas_token,
            "sv=1&sig=x");
  AzureAccount elsewhere{"acct", "http://stub:10000/acct", {"a2V5", ""}};
  EXPECT_EQ(resolve_azure(parse("az://acct/box"), elsewhere)->url.endpoint,
            "http://stub:10000/acct");
}

TEST(Credentials, that_cannot_work_are_refused_without_quoting_them) {
  AzureAccount bad_key{"acct", "", {"SECRET!", ""}};
  AzureAccount bad_token{"acct", "", {"", "SECRET"}};
  AzureAccount split_token{"acct", "", {"", "sig=SECRET\r\nHost: x"}};
  for (const AzureAccount& known : {bad_key, bad_token, split_token}) {
    auto result = resolve_azure(parse("az://acct/box"), known);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), Code::kUnauthenticated);
    EXPECT_EQ(result.error().message().find("SECRET"), std::string::npos);
  }
}

TEST(DirectoryLayout, keeps_metadata_exactly) {
  StoredMetadata stored{0xfedcba9876543210, {{"a", "b=c\nd%"}, {"empty", ""}, {"z", "  "}}};
  Result<StoredMetadata> read = parse_metadata(format_metadata(stored));
  ASSERT_TRUE(read) << read.error().to_string();
  EXPECT_EQ(read->generation, stored.generation);
  EXPECT_EQ(read->metadata, stored.metadata);
  std::string text = format_metadata(stored);
  for (size_t cut = 0; cut < text.size(); ++cut) {
    EXPECT_FALSE(parse_metadata(text.substr(0, cut))) << "a torn file of " << cut << " bytes";
  }
}

TEST(DirectoryLayout, reads_markers_back) {
  BlockMarker marker{"00000001deadbeef", 1ull << 40, 4194304, "layer-0"};
  Result<BlockMarker> read = parse_marker(marker.file_name());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->id, marker.id);
  EXPECT_EQ(read->offset, marker.offset);
  EXPECT_EQ(read->size, marker.size);
  EXPECT_EQ(read->layer, marker.layer);
  for (const char* bad : {"", "b", "b.id.0.0.l", "b.id.0.1", "b.id.x.1.l", "b.i/d.0.1.l",
                          "b.id.ffffffffffffffff.1.l", "c.id.0.1.l", "b.id.0.1.l.m"}) {
    EXPECT_FALSE(parse_marker(bad)) << bad;
  }
}

TEST(DirectoryLayout, keeps_its_own_files_to_itself) {
  EXPECT_FALSE(validate_directory_object(".shoal/.directory/lock"));
  EXPECT_FALSE(validate_directory_object(".shoal/.directory"));
  EXPECT_TRUE(validate_directory_object(".shoal/cluster/map"));
  EXPECT_FALSE(validate_directory_object("a/../b"));
  EXPECT_FALSE(is_listed("", ".shoal", ""));
  EXPECT_TRUE(is_listed("", ".shoal", ".shoal/"));
  EXPECT_FALSE(is_listed(".shoal", ".directory", ".shoal/"));
}

}  // namespace
}  // namespace shoal
