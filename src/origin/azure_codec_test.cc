// Signatures, XML, dates and the error table. The signatures were made with the openssl command:
//   printf '%s' "$TEXT" | openssl dgst -sha256 -mac HMAC -macopt key:"secret key" -binary | base64
#include <gtest/gtest.h>

#include "base/object_name.h"
#include "origin/azure_sign.h"
#include "origin/azure_xml.h"
#include "origin/http_date.h"
#include "origin/http_errors.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;

constexpr WallTime kNow{std::chrono::seconds(1795348800)};

HttpRequest plain_get() {
  HttpRequest request;
  request.method = "GET";
  request.url =
      "https://acct.blob.core.windows.net/box/a%20b?restype=container&comp=list&prefix=x%20y";
  return request;
}

TEST(AzureSign, writes_the_documented_text) {
  HttpRequest request = plain_get();
  request.headers = {{"x-ms-version", "2021-12-02"},
                     {"x-ms-date", "Sun, 22 Nov 2026 12:00:00 GMT"}};
  std::string text = azure_string_to_sign(request, "acct");
  EXPECT_EQ(text,
            "GET\n\n\n\n\n\n\n\n\n\n\n\n"
            "x-ms-date:Sun, 22 Nov 2026 12:00:00 GMT\nx-ms-version:2021-12-02\n"
            "/acct/box/a%20b\ncomp:list\nprefix:x y\nrestype:container");
  EXPECT_EQ(hmac_sha256_base64("secret key", text), "O7xf/y3sIB0dn8EbclFeFteA4qLcj+hSDF5ETZmgGHc=");
}

TEST(AzureSign, names_the_emulators_account_twice) {
  HttpRequest request;
  request.method = "PUT";
  request.url = "http://127.0.0.1:10000/devstoreaccount1/box/a";
  request.body = as_bytes("abc");
  request.headers = {{"X-Ms-Meta-A", " b "},
                     {"If-Match", "\"v1\""},
                     {"Content-Type", "application/octet-stream"},
                     {"x-ms-blob-type", "BlockBlob"},
                     {"x-ms-version", "2021-12-02"},
                     {"x-ms-date", "Sun, 22 Nov 2026 12:00:00 GMT"}};
  std::string text = azure_string_to_sign(request, "devstoreaccount1");
  EXPECT_EQ(text,
            "PUT\n\n\n3\n\napplication/octet-stream\n\n\n\"v1\"\n\n\n\n"
            "x-ms-blob-type:BlockBlob\nx-ms-date:Sun, 22 Nov 2026 12:00:00 GMT\nx-ms-meta-a:b\n"
            "x-ms-version:2021-12-02\n/devstoreaccount1/devstoreaccount1/box/a");
  std::string key = base64_decode(kEmulatorKey).value();
  EXPECT_EQ(hmac_sha256_base64(key, text), "N9btbEua6A2viaJp8EKfNMKUvW3se+SNvzrnLNh0obY=");
}

TEST(AzureSign, completes_a_request) {
  HttpRequest request = plain_get();
  AzureSigner signer("acct", {base64_encode("secret key"), ""}, "2021-12-02");
  signer.sign(request, kNow, "id-1");
  ASSERT_EQ(request.headers.size(), 4u);
  EXPECT_EQ(request.headers[2].second, "id-1");
  EXPECT_EQ(request.headers[3].first, "Authorization");
  EXPECT_TRUE(request.headers[3].second.starts_with("SharedKey acct:"));

  HttpRequest with_token = plain_get();
  AzureSigner token("acct", {"", "sv=1&sig=x"}, "2021-12-02");
  token.sign(with_token, kNow, "id-1");
  EXPECT_TRUE(with_token.url.ends_with("&prefix=x%20y&sv=1&sig=x"));
  EXPECT_EQ(with_token.headers.size(), 3u);
  EXPECT_EQ(token.with_sas("http://h/p"), "http://h/p?sv=1&sig=x");
}

TEST(AzureSign, joins_and_sorts_parameters) {
  HttpRequest request;
  request.method = "GET";
  request.url = "https://acct.blob.core.windows.net/?b=2&A=1&b=1&flag&&c=%2F";
  std::string text = azure_string_to_sign(request, "acct");
  EXPECT_TRUE(text.ends_with("\n/acct/\na:1\nb:1,2\nc:/\nflag:")) << text;
}

TEST(HttpDate, round_trips) {
  EXPECT_EQ(format_http_date(kNow), "Sun, 22 Nov 2026 12:00:00 GMT");
  EXPECT_EQ(parse_http_date("Sun, 22 Nov 2026 12:00:00 GMT"), kNow);
  EXPECT_EQ(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            WallTime(std::chrono::seconds(784111777)));
  for (int64_t at = -2'000'000'000; at < 8'000'000'000; at += 86'399'977) {
    WallTime time{std::chrono::seconds(at)};
    EXPECT_EQ(parse_http_date(format_http_date(time)), time);
  }
  for (const char* bad : {"", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 31 Feb 2020 00:00:00 GMT",
                          "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 9994 08:49:37 GMT",
                          "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, -6 Nov 1994 08:49:37 GMT"}) {
    EXPECT_FALSE(parse_http_date(bad)) << bad;
  }
}

constexpr std::string_view kPage =
    "\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"utf-8\"?>"
    "<EnumerationResults ServiceEndpoint=\"https://a.blob.core.windows.net/\" "
    "ContainerName=\"c\"><Prefix>p/</Prefix><Blobs>"
    "<Blob><Name>p/a &amp; &lt;b&gt; &#x1F41F;</Name><Properties>"
    "<Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified><Etag>0x8D1</Etag>"
    "<Content-Length>12345678901</Content-Length></Properties>"
    "<Metadata><Mode>0644</Mode><empty /></Metadata></Blob>"
    "<Blob><Name Encoded=\"true\">p/odd%EF%BF%BE%25</Name><Properties><Etag>\"0x8D2\"</Etag>"
    "<Content-Length>0</Content-Length><ResourceType>directory</ResourceType></Properties></Blob>"
    "<Blob><Name> </Name><Properties><Etag>x</Etag><Content-Length>1</Content-Length></Properties>"
    "</Blob><BlobPrefix><Name>p/dir/</Name></BlobPrefix></Blobs>"
    "<NextMarker>2!76!abc=</NextMarker></EnumerationResults>";

TEST(AzureXml, reads_a_list_page) {
  Result<ListPage> page = parse_list_page(kPage);
  ASSERT_TRUE(page) << page.error().to_string();
  ASSERT_EQ(page->objects.size(), 3u);
  const ObjectInfo& first = page->objects[0];
  EXPECT_EQ(first.name, "p/a & <b> \xf0\x9f\x90\x9f");
  EXPECT_EQ(first.size, 12345678901u);
  EXPECT_EQ(first.etag, "0x8D1");
  EXPECT_EQ(first.modified, WallTime(std::chrono::seconds(784111777)));
  EXPECT_EQ(first.metadata, (Metadata{{"mode", "0644"}, {"empty", ""}}));
  EXPECT_EQ(page->objects[1].name, "p/odd\xEF\xBF\xBE%");
  EXPECT_EQ(page->objects[1].etag, "0x8D2");
  EXPECT_EQ(page->objects[1].metadata.at("hdi_isfolder"), "true");
  EXPECT_EQ(page->objects[2].name, " ");
  EXPECT_EQ(page->prefixes, std::vector<std::string>{"p/dir/"});
  EXPECT_EQ(page->next_marker, "2!76!abc=");
}

TEST(AzureXml, trusts_no_list_page) {
  auto page = [](std::string blob) {
    return parse_list_page("<EnumerationResults><Blobs><Blob>" + blob +
                           "</Blob></Blobs></EnumerationResults>");
  };
  const std::string properties =
      "<Properties><Etag>e</Etag><Content-Length>1</Content-Length>"
      "</Properties>";
  EXPECT_TRUE(page("<Name>x</Name>" + properties));
  EXPECT_FALSE(page(properties));
  EXPECT_FALSE(page("<Name></Name>" + properties));
  EXPECT_FALSE(page("<Name>" + std::string(5000, 'x') + "</Name>" + properties));
  EXPECT_FALSE(page("<Name Encoded=\"true\">%4</Name>" + properties));
  EXPECT_FALSE(page("<Name>x</Name>"));
  for (const char* size : {"", "-1", "1e3", "99999999999999999999", " 1", "1x"}) {
    EXPECT_FALSE(page("<Name>x</Name><Properties><Etag>e</Etag><Content-Length>" +
                      std::string(size) + "</Content-Length></Properties>"))
        << size;
  }
  for (std::string_view bad : {"", "<", "<html/>", "<EnumerationResults>", "not xml"}) {
    Result<ListPage> result = parse_list_page(bad);
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().code(), Code::kUnavailable);
  }
  EXPECT_FALSE(parse_list_page(kPage.substr(0, kPage.size() - 30)));
}

TEST(AzureXml, reads_and_writes_block_lists) {
  Result<std::vector<BlockInfo>> blocks = parse_block_list(
      "<?xml version=\"1.0\"?><BlockList><CommittedBlocks><Block><Name>QQ==</Name><Size>1</Size>"
      "</Block></CommittedBlocks><UncommittedBlocks><Block><Name>Qg==</Name><Size>4194304000</Size>"
      "</Block><Block><Name>Qw==</Name><Size>3</Size></Block></UncommittedBlocks></BlockList>");
  ASSERT_TRUE(blocks);
  ASSERT_EQ(blocks->size(), 2u);
  EXPECT_EQ((*blocks)[0].id, "Qg==");
  EXPECT_EQ((*blocks)[0].size, 4194304000u);
  EXPECT_TRUE(parse_block_list("<BlockList/>")->empty());
  EXPECT_FALSE(
      parse_block_list("<BlockList><UncommittedBlocks><Block><Size>1</Size></Block>"
                       "</UncommittedBlocks></BlockList>"));
  EXPECT_FALSE(
      parse_block_list("<BlockList><UncommittedBlocks><Block><Name>Qg==</Name>"
                       "<Size>many</Size></Block></UncommittedBlocks></BlockList>"));
  EXPECT_NE(
      format_block_list({"Qg==", "Qw=="}).find("<Latest>Qg==</Latest>\n<Latest>Qw==</Latest>"),
      std::string::npos);
}

TEST(AzureXml, reads_error_bodies) {
  AzureErrorBody body = parse_error_body(
      "\xEF\xBB\xBF<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>Slow down.\n"
      "RequestId:1</Message></Error>");
  EXPECT_EQ(body.code, "ServerBusy");
  EXPECT_EQ(body.message, "Slow down.");
  EXPECT_EQ(parse_error_body("<html>503</html>").code, "");
  EXPECT_EQ(parse_error_body("").code, "");
  EXPECT_EQ(parse_error_body("<Error><Code>a b</Code></Error>").code, "");
}

HttpResponse refusal(int status, std::string code, HttpHeaders headers = {}) {
  if (!code.empty()) headers.emplace_back("x-ms-error-code", std::move(code));
  return {status, std::move(headers), "", 0};
}

TEST(HttpErrors, means_what_azure_means) {
  ErrorPlace place{"reading az://acct/box/a", "acct", "box", false, false};
  struct {
    int status;
    const char* code;
    Code meaning;
    const char* says;
  } cases[] = {
      {404, "BlobNotFound", Code::kNotFound, "does not exist"},
      {404, "ContainerNotFound", Code::kNotFound, "az storage container create"},
      {409, "BlobAlreadyExists", Code::kAlreadyExists, "exists already"},
      {409, "LeaseIdMissing", Code::kBusy, "lease"},
      {412, "LeaseIdMissing", Code::kBusy, "lease"},
      {412, "ConditionNotMet", Code::kConflict, "somebody else"},
      {412, "", Code::kConflict, "somebody else"},
      {409, "Whatever", Code::kConflict, "Whatever"},
      {416, "InvalidRange", Code::kInvalidArgument, "past its end"},
      {400, "InvalidBlockList", Code::kNotFound, "blocks"},
      {400, "Md5Mismatch", Code::kUnavailable, "changed on their way"},
      {403, "AuthenticationFailed", Code::kUnauthenticated, "AZURE_STORAGE_KEY"},
      {401, "", Code::kUnauthenticated, "AZURE_STORAGE_KEY"},
      {403, "AuthorizationPermissionMismatch", Code::kPermissionDenied, "Contributor"},
      {403, "", Code::kPermissionDenied, "box"},
      {429, "", Code::kThrottled, "slow down"},
      {503, "ServerBusy", Code::kThrottled, "slow down"},
      {500, "OperationTimedOut", Code::kUnavailable, "in time"},
      {500, "InternalError", Code::kUnavailable, "failed"},
      {502, "", Code::kUnavailable, "failed"},
      {408, "", Code::kUnavailable, "in time"},
      {307, "", Code::kInvalidArgument, "redirect"},
      {400, "Strange", Code::kInvalidArgument, "refused"},
      {413, "RequestBodyTooLarge", Code::kTooLarge, "smaller"},
      {501, "", Code::kNotSupported, "offer"},
  };
  for (const auto& row : cases) {
    Error error = azure_error(refusal(row.status, row.code), place, kNow);
    EXPECT_EQ(error.code(), row.meaning) << row.status << " " << row.code;
    EXPECT_NE(error.message().find(row.says), std::string::npos) << error.message();
    EXPECT_TRUE(error.message().starts_with(place.what)) << error.message();
    EXPECT_EQ(error.message().find("{a}"), std::string::npos) << error.message();
    EXPECT_EQ(error.message().find("{c}"), std::string::npos) << error.message();
  }
}

TEST(HttpErrors, tells_keys_tokens_and_clocks_apart) {
  HttpResponse failed = refusal(403, "AuthenticationFailed");
  ErrorPlace place{"reading x", "acct", "box", true, false};
  EXPECT_NE(azure_error(failed, place, kNow).message().find("expired"), std::string::npos);
  place = {"reading x", "acct", "box", false, true};
  EXPECT_NE(azure_error(failed, place, kNow).message().find("none were given"), std::string::npos);
  failed.headers.emplace_back("date", format_http_date(kNow - std::chrono::hours(1)));
  Error error = azure_error(failed, place, kNow);
  EXPECT_NE(error.message().find("clock"), std::string::npos);
  EXPECT_EQ(error.code(), Code::kUnauthenticated);
}

TEST(HttpErrors, reads_how_long_to_wait) {
  auto wait = [](const char* name, const char* value) {
    return retry_after_of(refusal(503, "", {{name, value}}), kNow);
  };
  EXPECT_EQ(wait("retry-after", "3"), milliseconds(3000));
  EXPECT_EQ(wait("retry-after", "Sun, 22 Nov 2026 12:00:05 GMT"), milliseconds(5000));
  EXPECT_EQ(wait("retry-after", "Sun, 22 Nov 2026 11:00:05 GMT"), milliseconds(0));
  EXPECT_EQ(wait("retry-after", "99999999999"), std::chrono::minutes(10));
  EXPECT_EQ(wait("retry-after", "soon"), milliseconds(0));
  EXPECT_EQ(wait("retry-after-ms", "150"), milliseconds(150));
  EXPECT_EQ(wait("x-ms-retry-after-ms", "18446744073709551615"), std::chrono::minutes(10));
  EXPECT_EQ(wait("other", "1"), milliseconds(0));
}

}  // namespace
}  // namespace shoal
