#include "world_sim/blob_service.h"

#include <gtest/gtest.h>

#include <pugixml.hpp>

#include "base/object_name.h"
#include "world_sim/internal/blob_call.h"
#include "world_sim/sim_random.h"

namespace shoal {
namespace {

const WallTime kNow = *parse_blob_date("Sun, 22 Nov 2026 18:00:00 GMT");
const std::string kRoot = "/devstoreaccount1/ccc";

class Client {
 public:
  explicit Client(BlobServiceConfig config = open_config()) : service(std::move(config)) {
    service.add_container("ccc");
  }
  static BlobServiceConfig open_config() {
    BlobServiceConfig config;
    config.require_auth = false;
    return config;
  }
  BlobReply send(std::string method, std::string target, HttpHeaders headers = {},
                 std::string_view body = "") {
    BlobRequest request{std::move(method), std::move(target), std::move(headers),
                        BlobContent::copy_of(body)};
    return service.handle(request, now);
  }
  BlobReply put(std::string name, std::string_view body, HttpHeaders headers = {}) {
    headers.emplace_back("x-ms-blob-type", "BlockBlob");
    return send("PUT", kRoot + "/" + name, std::move(headers), body);
  }
  BlobReply stage(std::string name, std::string_view id, std::string_view body) {
    std::string encoded = percent_encode(base64_encode(id), false);
    return send("PUT", kRoot + "/" + name + "?comp=block&blockid=" + encoded, {}, body);
  }
  BlobReply commit(std::string name, std::vector<std::string> ids, HttpHeaders headers = {},
                   std::string kind = "Latest") {
    std::string xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>";
    for (const auto& id : ids) {
      xml += "<" + kind + ">" + base64_encode(id) + "</" + kind + ">";
    }
    return send("PUT", kRoot + "/" + name + "?comp=blocklist", std::move(headers),
                xml + "</BlockList>");
  }
  BlobReply get(std::string name, HttpHeaders headers = {}) {
    return send("GET", kRoot + "/" + name, std::move(headers));
  }
  BlobService service;
  WallTime now = kNow;
};

std::string code_of(const BlobReply& reply) {
  const std::string* code = reply.header("x-ms-error-code");
  return code ? *code : "";
}
std::string header_of(const BlobReply& reply, std::string_view name) {
  const std::string* value = reply.header(name);
  return value ? *value : "(none)";
}

TEST(BlobContent, slices_joins_and_synthesises) {
  BlobContent content = BlobContent::copy_of(std::string_view("hello "));
  content.append(BlobContent::copy_of(std::string_view("world")));
  EXPECT_EQ(content.to_string(), "hello world");
  EXPECT_EQ(content.slice(4, 4).to_string(), "o wo");
  EXPECT_EQ(content.slice(3, 8).slice(4, 3).to_string(), "orl");
  // Any cut of a synthetic stream gives the bytes that a whole fill gives.
  Buffer whole(3 * kMiB);
  synthetic_fill(9, 5 * kTiB, whole.span());
  BlobContent stream = BlobContent::synthetic(9, 6 * kTiB);
  BlobContent part = stream.slice(5 * kTiB + 12345, 2 * kMiB);
  Buffer read(2 * kMiB);
  part.copy_to(0, read.span());
  EXPECT_EQ(std::memcmp(read.data(), whole.data() + 12345, read.size()), 0);
  EXPECT_TRUE(synthetic_equal(9, 5 * kTiB + 12345, read.span()));
  EXPECT_FALSE(synthetic_equal(9, 5 * kTiB + 12346, read.span()));
  EXPECT_FALSE(synthetic_equal(10, 5 * kTiB + 12345, read.span()));
}

TEST(BlobService, containers) {
  Client client;
  EXPECT_EQ(client.send("PUT", "/devstoreaccount1/new?restype=container").status, 201);
  EXPECT_EQ(client.send("HEAD", "/devstoreaccount1/new?restype=container").status, 200);
  BlobReply again = client.send("PUT", "/devstoreaccount1/new?restype=container");
  EXPECT_EQ(again.status, 409);
  EXPECT_EQ(code_of(again), "ContainerAlreadyExists");
  BlobReply absent = client.send("HEAD", "/devstoreaccount1/old?restype=container");
  EXPECT_EQ(absent.status, 404);
  EXPECT_TRUE(absent.body.empty());
  EXPECT_EQ(code_of(absent), "ContainerNotFound");
  EXPECT_EQ(code_of(client.send("GET", "/devstoreaccount1/old/x")), "ContainerNotFound");
  EXPECT_EQ(client.send("PUT", "/devstoreaccount1/Bad_Name?restype=container").status, 400);
  EXPECT_EQ(client.send("DELETE", "/devstoreaccount1/new?restype=container").status, 202);
}

TEST(BlobService, put_get_head_delete) {
  Client client;
  BlobReply put = client.put("a%20b/%C3%A9", "0123456789",
                             {{"x-ms-meta-color", "red"}, {"x-ms-blob-content-type", "text/x"}});
  ASSERT_EQ(put.status, 201);
  BlobReply got = client.get("a%20b/%C3%A9");
  EXPECT_EQ(got.status, 200);
  EXPECT_EQ(got.body.to_string(), "0123456789");
  EXPECT_EQ(header_of(got, "etag"), header_of(put, "etag"));
  EXPECT_EQ(header_of(got, "x-ms-meta-color"), "red");
  EXPECT_EQ(header_of(got, "content-type"), "text/x");
  EXPECT_EQ(header_of(got, "last-modified"), "Sun, 22 Nov 2026 18:00:00 GMT");
  BlobReply head = client.send("HEAD", kRoot + "/a%20b/%C3%A9");
  EXPECT_EQ(header_of(head, "content-length"), "10");
  EXPECT_TRUE(head.body.empty());
  EXPECT_EQ(client.send("DELETE", kRoot + "/a%20b/%C3%A9").status, 202);
  EXPECT_EQ(code_of(client.get("a%20b/%C3%A9")), "BlobNotFound");
  EXPECT_EQ(client.send("DELETE", kRoot + "/a%20b/%C3%A9").status, 404);
  EXPECT_EQ(client.send("PUT", kRoot + "/x", {}, "y").status, 400);  // no x-ms-blob-type
  EXPECT_EQ(client.put("bad%FF", "x").status, 400);
  EXPECT_EQ(client.put("x", "y", {{"x-ms-meta-a-b", "1"}}).status, 400);
  EXPECT_EQ(client.put("x", "y", {{"x-ms-meta-a", std::string(9000, 'x')}}).status, 400);
}

TEST(BlobService, ranges) {
  Client client;
  client.put("x", "0123456789");
  BlobReply part = client.get("x", {{"x-ms-range", "bytes=2-4"}});
  EXPECT_EQ(part.status, 206);
  EXPECT_EQ(part.body.to_string(), "234");
  EXPECT_EQ(header_of(part, "content-range"), "bytes 2-4/10");
  EXPECT_EQ(header_of(part, "content-length"), "3");
  EXPECT_EQ(client.get("x", {{"range", "bytes=7-"}}).body.to_string(), "789");
  EXPECT_EQ(client.get("x", {{"range", "bytes=8-100"}}).body.to_string(), "89");
  // x-ms-range wins.
  EXPECT_EQ(client.get("x", {{"range", "bytes=0-0"}, {"x-ms-range", "bytes=1-1"}}).body.to_string(),
            "1");
  BlobReply past = client.get("x", {{"x-ms-range", "bytes=10-11"}});
  EXPECT_EQ(past.status, 416);
  EXPECT_EQ(code_of(past), "InvalidRange");
  EXPECT_EQ(header_of(past, "content-range"), "bytes */10");
  EXPECT_EQ(client.get("x", {{"x-ms-range", "bytes=-3"}}).status, 400);
  EXPECT_EQ(client.get("x", {{"x-ms-range", "bytes=5-3"}}).status, 400);
  client.put("empty", "");
  EXPECT_EQ(client.get("empty").status, 200);
  EXPECT_EQ(client.get("empty", {{"x-ms-range", "bytes=0-"}}).status, 416);
}

TEST(BlobService, conditions) {
  Client client;
  std::string first = header_of(client.put("x", "1"), "etag");
  BlobReply lost = client.put("x", "2", {{"if-none-match", "*"}});
  EXPECT_EQ(lost.status, 409);
  EXPECT_EQ(code_of(lost), "BlobAlreadyExists");
  EXPECT_EQ(client.put("new", "2", {{"if-none-match", "*"}}).status, 201);
  BlobReply second = client.put("x", "2", {{"if-match", first}});
  EXPECT_EQ(second.status, 201);
  EXPECT_NE(header_of(second, "etag"), first);
  BlobReply swapped = client.put("x", "3", {{"if-match", first}});
  EXPECT_EQ(swapped.status, 412);
  EXPECT_EQ(code_of(swapped), "ConditionNotMet");
  EXPECT_EQ(client.put("absent", "3", {{"if-match", "*"}}).status, 412);
  EXPECT_EQ(client.get("x", {{"if-match", first}}).status, 412);
  BlobReply same = client.get("x", {{"if-none-match", header_of(second, "etag")}});
  EXPECT_EQ(same.status, 304);
  EXPECT_TRUE(same.body.empty());
  EXPECT_EQ(client.get("x", {{"if-modified-since", blob_date(kNow)}}).status, 304);
  EXPECT_EQ(
      client.get("x", {{"if-modified-since", blob_date(kNow - std::chrono::seconds(1))}}).status,
      200);
  EXPECT_EQ(
      client.get("x", {{"if-unmodified-since", blob_date(kNow - std::chrono::hours(1))}}).status,
      412);
  EXPECT_EQ(client.send("DELETE", kRoot + "/x", {{"if-match", first}}).status, 412);
  EXPECT_EQ(client.send("DELETE", kRoot + "/x", {{"if-match", header_of(second, "etag")}}).status,
            202);
  EXPECT_EQ(client.put("x", "3", {{"if-match", "unquoted"}}).status, 400);
}

TEST(BlobService, blocks) {
  Client client;
  EXPECT_EQ(client.stage("x", "id01", "aaa").status, 201);
  EXPECT_EQ(client.stage("x", "id02", "bbb").status, 201);
  EXPECT_EQ(client.stage("x", "id03", "ccc").status, 201);
  EXPECT_EQ(code_of(client.stage("x", "longer", "ccc")), "InvalidBlobOrBlock");
  EXPECT_EQ(client.stage("x", "id04", "").status, 400);
  EXPECT_EQ(client.send("PUT", kRoot + "/x?comp=block&blockid=%%%", {}, "x").status, 400);
  EXPECT_EQ(client.get("x").status, 404);  // not committed
  EXPECT_EQ(client.send("DELETE", kRoot + "/x").status, 404);
  BlobReply bad = client.commit("x", {"id02", "id09"});
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(code_of(bad), "InvalidBlockList");
  EXPECT_EQ(client.get("x").status, 404);  // all or nothing
  BlobReply done = client.commit("x", {"id02", "id01"}, {{"x-ms-meta-epoch", "7"}});
  ASSERT_EQ(done.status, 201);
  EXPECT_EQ(client.get("x").body.to_string(), "bbbaaa");
  EXPECT_EQ(header_of(client.get("x"), "x-ms-meta-epoch"), "7");
  EXPECT_EQ(client.service.uncommitted_blocks(), 0u);  // id03 was dropped
  // Committed blocks may be listed again, beside new ones.
  client.stage("x", "id05", "eee");
  EXPECT_EQ(client.commit("x", {"id01", "id05", "id01"}).status, 201);
  EXPECT_EQ(client.get("x").body.to_string(), "aaaeeeaaa");
  client.stage("x", "id01", "AAA");
  EXPECT_EQ(client.commit("x", {"id01"}, {}, "Committed").status, 201);
  EXPECT_EQ(client.get("x").body.to_string(), "aaa");
  EXPECT_EQ(client.commit("x", {"id01"}, {}, "Uncommitted").status, 400);
  EXPECT_EQ(client.commit("x", {"id01"}, {{"if-none-match", "*"}}).status, 409);
  EXPECT_EQ(client.send("PUT", kRoot + "/x?comp=blocklist", {}, "<oops").status, 400);
}

TEST(BlobService, block_lists) {
  Client client;
  client.stage("x", "id01", "aaa");
  client.commit("x", {"id01"});
  client.stage("x", "id02", "bbbbb");
  BlobReply reply = client.send("GET", kRoot + "/x?comp=blocklist&blocklisttype=all");
  ASSERT_EQ(reply.status, 200);
  pugi::xml_document document;
  ASSERT_TRUE(document.load_string(reply.body.to_string().c_str()));
  auto list = document.child("BlockList");
  auto committed = list.child("CommittedBlocks").child("Block");
  EXPECT_EQ(committed.child("Name").text().as_string(), base64_encode("id01"));
  EXPECT_EQ(committed.child("Size").text().as_int(), 3);
  auto staged = list.child("UncommittedBlocks").child("Block");
  EXPECT_EQ(staged.child("Name").text().as_string(), base64_encode("id02"));
  EXPECT_EQ(staged.child("Size").text().as_int(), 5);
  EXPECT_EQ(client.send("GET", kRoot + "/none?comp=blocklist").status, 404);
}

TEST(BlobService, body_checksums) {
  Client client;
  EXPECT_EQ(blob_crc64(as_bytes("123456789")), 0xAE8B14860A799888ull);
  EXPECT_EQ(client.put("x", "123456789", {{"content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="}}).status,
            201);
  EXPECT_EQ(header_of(client.get("x"), "content-md5"), "JfnnlDI7RTiF9RgfG2JNCw==");
  EXPECT_EQ(code_of(client.put("x", "12345678", {{"content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="}})),
            "Md5Mismatch");
  std::string crc = blob_crc64_base64(BlobContent::copy_of(std::string_view("123456789")));
  EXPECT_EQ(crc, "iJh5CoYUi64=");
  EXPECT_EQ(client.put("x", "123456789", {{"x-ms-content-crc64", crc}}).status, 201);
  EXPECT_EQ(code_of(client.put("x", "1", {{"x-ms-content-crc64", crc}})), "Crc64Mismatch");
  EXPECT_EQ(client.put("x", "1", {{"x-ms-content-crc64", crc}, {"content-md5", "x"}}).status, 400);
  HttpHeaders ranged = {{"x-ms-range", "bytes=0-8"}, {"x-ms-range-get-content-crc64", "true"}};
  EXPECT_EQ(header_of(client.get("x", ranged), "x-ms-content-crc64"), crc);
  client.service.add_synthetic("ccc", "big", 5 * kMiB, 1);
  ranged[0].second = "bytes=0-4194304";
  EXPECT_EQ(client.get("big", ranged).status, 400);
}

TEST(BlobService, copy_and_metadata) {
  Client client;
  std::string etag = header_of(client.put("from", "bytes", {{"x-ms-meta-a", "1"}}), "etag");
  std::string source = "http://127.0.0.1:1" + kRoot + "/from";
  auto copy = [&](HttpHeaders headers) {
    headers.emplace_back("x-ms-copy-source", source);
    return client.send("PUT", kRoot + "/to", std::move(headers));
  };
  BlobReply copied = copy({{"x-ms-source-if-match", etag}});
  ASSERT_EQ(copied.status, 202);
  EXPECT_EQ(header_of(copied, "x-ms-copy-status"), "success");
  EXPECT_EQ(client.get("to").body.to_string(), "bytes");
  EXPECT_EQ(header_of(client.get("to"), "x-ms-meta-a"), "1");
  EXPECT_EQ(copy({{"if-none-match", "*"}}).status, 409);
  EXPECT_EQ(copy({{"x-ms-source-if-match", "\"0x0\""}}).status, 412);
  EXPECT_EQ(copy({{"x-ms-meta-b", "2"}}).status, 202);
  EXPECT_EQ(header_of(client.get("to"), "x-ms-meta-a"), "(none)");
  source += "gone";
  EXPECT_EQ(copy({}).status, 404);

  BlobReply set = client.send("PUT", kRoot + "/from?comp=metadata",
                              {{"x-ms-meta-z", "26"}, {"if-match", etag}});
  EXPECT_EQ(set.status, 200);
  EXPECT_NE(header_of(set, "etag"), etag);
  EXPECT_EQ(header_of(client.get("from"), "x-ms-meta-a"), "(none)");
  EXPECT_EQ(header_of(client.get("from"), "x-ms-meta-z"), "26");
  EXPECT_EQ(client.get("from").body.to_string(), "bytes");
}

struct Page {
  std::vector<std::string> names;
  std::vector<std::string> prefixes;
  std::string next;
};
Page list(Client& client, const std::string& query) {
  BlobReply reply = client.send("GET", kRoot + "?restype=container&comp=list" + query);
  EXPECT_EQ(reply.status, 200) << reply.body.to_string();
  std::string text = reply.body.to_string();
  pugi::xml_document document;
  EXPECT_TRUE(document.load_string(text.c_str())) << text;
  Page page;
  auto root = document.child("EnumerationResults");
  auto name_of = [](pugi::xml_node node) {
    std::string name = node.child("Name").text().as_string();
    return node.child("Name").attribute("Encoded") ? *percent_decode(name) : name;
  };
  for (auto blob : root.child("Blobs").children("Blob")) page.names.push_back(name_of(blob));
  for (auto one : root.child("Blobs").children("BlobPrefix")) {
    page.prefixes.push_back(name_of(one));
  }
  page.next = root.child("NextMarker").text().as_string();
  return page;
}

TEST(BlobService, lists) {
  Client client;
  std::vector<std::string> names = {"a/1",
                                    "a/2",
                                    "a/b/3",
                                    "a0",
                                    "b&<\">'",
                                    "c\x01"
                                    "d",
                                    "e\xC3\xA9",
                                    "z"};
  for (const auto& name : names) client.service.add("ccc", name, {});
  client.stage("only-staged", "id01", "x");
  EXPECT_EQ(list(client, "").names, names);
  Page folded = list(client, "&delimiter=/");
  EXPECT_EQ(folded.prefixes, std::vector<std::string>{"a/"});
  EXPECT_EQ(folded.names.size(), 5u);
  Page inner = list(client, "&prefix=a%2F&delimiter=%2F");
  EXPECT_EQ(inner.names, (std::vector<std::string>{"a/1", "a/2"}));
  EXPECT_EQ(inner.prefixes, std::vector<std::string>{"a/b/"});
  // Pages of one, folded: every entry exactly once.
  std::vector<std::string> seen;
  std::string marker;
  for (int pages = 0; pages < 20; ++pages) {
    Page page = list(client, "&delimiter=/&maxresults=1&marker=" + percent_encode(marker, false));
    seen.insert(seen.end(), page.names.begin(), page.names.end());
    seen.insert(seen.end(), page.prefixes.begin(), page.prefixes.end());
    marker = page.next;
    if (marker.empty()) break;
  }
  EXPECT_EQ(seen.size(), 6u);
  EXPECT_EQ(seen.front(), "a/");
  EXPECT_EQ(list(client, "&include=uncommittedblobs").names.size(), names.size() + 1);
  EXPECT_EQ(client.send("GET", kRoot + "?restype=container&comp=list&marker=junk").status, 400);
  EXPECT_EQ(client.send("GET", kRoot + "?restype=container&comp=list&maxresults=0").status, 400);
}

TEST(BlobService, lists_many) {
  Client client;
  client.service.add_many("ccc", "m/", 12000, 10, 1);
  size_t count = 0;
  size_t pages = 0;
  std::string marker;
  do {
    Page page = list(client, "&marker=" + percent_encode(marker, false));
    count += page.names.size();
    marker = page.next;
    ++pages;
  } while (!marker.empty());
  EXPECT_EQ(count, 12000u);
  EXPECT_EQ(pages, 3u);
}

// The expected signatures were computed with Python's hmac from the documentation's description.
TEST(BlobAuth, checks_shared_key) {
  BlobServiceConfig config;
  Client client(config);
  client.service.add("ccc", "x y", BlobContent::copy_of(std::string_view("abc")));
  HttpHeaders headers = {
      {"host", "127.0.0.1:10000"},
      {"x-ms-date", "Sun, 22 Nov 2026 18:00:00 GMT"},
      {"x-ms-version", "2023-11-03"},
      {"x-ms-range", "bytes=0-1"},
      {"authorization", "SharedKey devstoreaccount1:CIfjgxJrSeVE8YXtg+Xm7kMJh0le3XyUFXE6jWnk5fM="}};
  BlobReply reply = client.get("x%20y", headers);
  EXPECT_EQ(reply.status, 206) << reply.body.to_string();
  headers.back().second[30] ^= 1;
  BlobReply wrong = client.get("x%20y", headers);
  EXPECT_EQ(wrong.status, 403);
  EXPECT_EQ(code_of(wrong), "AuthenticationFailed");

  HttpHeaders put = {
      {"x-ms-date", "Sun, 22 Nov 2026 18:00:00 GMT"},
      {"x-ms-version", "2023-11-03"},
      {"content-length", "5"},
      {"content-type", "text/plain"},
      {"if-none-match", "*"},
      {"x-ms-meta-b", "two"},
      {"x-ms-meta-a", "one"},
      {"authorization", "SharedKey devstoreaccount1:c3lfkw+fxMhSPSZrMrKf/P9JVxpqo3i61DLLXzzi4bE="}};
  BlobReply staged = client.send("PUT", kRoot + "/x?comp=block&blockid=aWQwMQ%3D%3D", put, "hello");
  EXPECT_EQ(staged.status, 201) << staged.body.to_string();

  client.now += std::chrono::minutes(16);
  EXPECT_EQ(client.get("x%20y", headers).status, 403);
  BlobReply bare = client.get("x%20y");
  EXPECT_EQ(bare.status, 401);
  EXPECT_NE(bare.header("www-authenticate"), nullptr);
}

TEST(BlobAuth, checks_tokens) {
  BlobServiceConfig config;
  config.sas.push_back(
      {"sv=2022-11-02&sr=c&sp=rl&sig=a%2Bb%3D", kNow + std::chrono::hours(1), "rl", "ccc"});
  config.bearer.push_back({"token", kNow + std::chrono::hours(1)});
  Client client(config);
  client.service.add("ccc", "x", BlobContent::copy_of(std::string_view("abc")));
  std::string sas = "?sv=2022-11-02&sr=c&sp=rl&sig=a%2Bb%3D";
  EXPECT_EQ(client.get("x" + sas).status, 200);
  EXPECT_EQ(client.get("x?sv=2022-11-02&sr=c&sp=rl&sig=a%2Bc%3D").status, 403);
  EXPECT_EQ(code_of(client.put("y" + sas, "z")), "AuthorizationPermissionMismatch");
  EXPECT_EQ(
      client.get("x", {{"authorization", "Bearer token"}, {"x-ms-version", "2023-11-03"}}).status,
      200);
  client.now += std::chrono::hours(2);
  EXPECT_EQ(client.get("x" + sas).status, 403);
  BlobReply late =
      client.get("x", {{"authorization", "Bearer token"}, {"x-ms-version", "2023-11-03"}});
  EXPECT_EQ(late.status, 401);
  client.service.config().anonymous_read = true;
  EXPECT_EQ(client.get("x").status, 200);
  EXPECT_EQ(client.put("y", "z").status, 401);
}

// Whatever arrives gets an answer of Azure's form; nothing from outside may abort the service.
TEST(BlobService, survives_mutated_requests) {
  BlobServiceConfig config;
  config.sas.push_back({"sv=1&sig=x", WallTime::max(), "rwdl", ""});
  Client client(config);
  client.service.add_synthetic("ccc", "a", 100, 1);
  const std::vector<std::string> methods = {"GET", "PUT", "HEAD", "DELETE", "POST", ""};
  const std::vector<std::string> targets = {
      kRoot + "/a?sv=1&sig=x", kRoot + "/b?comp=block&blockid=aWQwMQ%3D%3D&sv=1&sig=x",
      kRoot + "/b?comp=blocklist&sv=1&sig=x", kRoot + "/a?comp=metadata&sv=1&sig=x",
      kRoot +
          "?restype=container&comp=list&prefix=a&delimiter=/&maxresults=2&marker=MiFh&sv=1&sig=x"};
  const HttpHeaders all = {{"x-ms-range", "bytes=0-9"},
                           {"if-match", "\"0x8DC0000000000002\""},
                           {"if-none-match", "*"},
                           {"if-modified-since", "Sun, 22 Nov 2026 18:00:00 GMT"},
                           {"x-ms-blob-type", "BlockBlob"},
                           {"x-ms-copy-source", "http://x" + kRoot + "/a?sv=1&sig=x"},
                           {"x-ms-meta-a", "b"},
                           {"content-md5", "x"},
                           {"authorization", "SharedKey devstoreaccount1:x"},
                           {"x-ms-version", "2023-11-03"}};
  const std::string list = "<BlockList><Latest>aWQwMQ==</Latest></BlockList>";
  SeededRandom random(1);
  auto mutate = [&](std::string text) {
    for (uint64_t changes = random.below(3); changes > 0 && !text.empty(); --changes) {
      size_t at = random.below(text.size());
      if (random.below(3) == 0)
        text.resize(at);
      else
        text[at] = static_cast<char>(random.next());
    }
    return text;
  };
  std::map<int, int> statuses;
  for (int i = 0; i < 20000; ++i) {
    client.service.add_synthetic("ccc", "a", 100, 1);
    HttpHeaders headers;
    for (const auto& header : all) {
      if (random.below(5) == 0) headers.emplace_back(header.first, mutate(header.second));
    }
    BlobReply reply = client.send(methods[random.below(methods.size())],
                                  mutate(targets[random.below(targets.size())]), std::move(headers),
                                  random.below(2) == 0 ? mutate(list) : "");
    ++statuses[reply.status];
    ASSERT_NE(reply.header("x-ms-request-id"), nullptr);
    if (reply.status >= 300) ASSERT_FALSE(code_of(reply).empty()) << reply.status;
  }
  for (int status : {200, 201, 202, 206, 304, 400, 403, 404, 409, 412}) {
    EXPECT_GT(statuses[status], 0) << status;
  }
}

TEST(BlobService, what_is_discarded_keeps_the_names_of_its_blocks) {
  BlobServiceConfig config = Client::open_config();
  config.discard_writes = true;
  config.discard_from = 100;
  Client client(std::move(config));
  EXPECT_EQ(client.stage("a", "id-2", std::string(100, 'b')).status, 201);
  EXPECT_EQ(client.stage("a", "id-1", std::string(99, 'c')).status, 201);
  EXPECT_TRUE(client.service.block_ids("ccc", "a").empty());  // not committed
  EXPECT_EQ(client.commit("a", {"id-2", "id-1"}).status, 201);
  EXPECT_EQ(client.service.block_ids("ccc", "a"), (std::vector<std::string>{"id-2", "id-1"}));
  std::string content = client.service.find("ccc", "a")->content.to_string();
  ASSERT_EQ(content.size(), 199u);
  EXPECT_NE(content.substr(0, 100), std::string(100, 'b'));
  EXPECT_EQ(content.substr(100), std::string(99, 'c'));
}

TEST(BlobDate, round_trips_and_refuses) {
  EXPECT_EQ(blob_date(*parse_blob_date("Sun, 06 Nov 1994 08:49:37 GMT")),
            "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_FALSE(parse_blob_date("Mon, 06 Nov 1994 08:49:37 GMT"));
  EXPECT_FALSE(parse_blob_date("Sun, 31 Feb 1994 08:49:37 GMT"));
  EXPECT_FALSE(parse_blob_date("Sunday, 06-Nov-94 08:49:37 GMT"));
  EXPECT_FALSE(parse_blob_date("Fri, 31 Dec 9999 23:59:59 GMT"));  // not in 64 bits of ns
  EXPECT_FALSE(parse_blob_date(""));
}

}  // namespace
}  // namespace shoal
