// Azure's flows against a script: retries, resumed reads, lost answers, throttling.
#include "origin/azure_origin.h"

#include <fmt/format.h>

#include "base/object_name.h"
#include "origin/internal/crc64.h"
#include "origin/internal/test_world.h"
#include "origin/make_origin.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Answer = ScriptedHttp::Answer;

constexpr std::string_view kBlob = "https://acct.blob.core.windows.net/box/a";

class AzureFlow : public testing::Test {
 protected:
  AzureFlow() { make("az://acct/box", {base64_encode("secret key"), ""}); }

  void make(const std::string& location, Credentials credentials, RetryOptions retry = {}) {
    Result<OriginUrl> url = parse_origin_url(location);
    ASSERT_TRUE(url) << url.error().to_string();
    AzureConfig config;
    config.url = *url;
    config.credentials = std::move(credentials);
    config.retry = retry;
    origin_ = std::make_unique<AzureOrigin>(std::move(config), world_, registry_, log_);
  }
  template <typename T>
  T run(Task<T> task) {
    return run_to_end(executor_, std::move(task));
  }
  Status read(uint64_t offset, std::string& into, Context context = {},
              std::function<void(uint64_t)> progress = {}) {
    return run(origin_->read("a", "v1", offset, std::as_writable_bytes(std::span(into)),
                             std::move(progress), context));
  }
  double elapsed() const { return to_seconds(executor_.now().time_since_epoch()); }

  TestExecutor executor_;
  CountingRandom random_;
  NoDisk disk_;
  ScriptedHttp http_{executor_};
  NoNetwork network_;
  World world_{executor_, random_, disk_, http_, network_};
  Registry registry_;
  OriginMetrics metrics_{registry_};
  Log log_;
  std::unique_ptr<AzureOrigin> origin_;
};

Answer part(std::string body, uint64_t first, uint64_t total, std::string etag = "v1") {
  return {206,
          {{"etag", "\"" + etag + "\""},
           {"content-range", fmt::format("bytes {}-{}/{}", first, first + body.size() - 1, total)}},
          std::move(body)};
}
Answer refusal(int status, std::string code, HttpHeaders more = {}) {
  more.emplace_back("x-ms-error-code", std::move(code));
  return {status, std::move(more), ""};
}
Answer found(std::string etag, size_t size, std::string write_id = "") {
  HttpHeaders headers = {{"etag", "\"" + etag + "\""}, {"content-length", std::to_string(size)}};
  if (!write_id.empty()) headers.emplace_back("x-ms-meta-shoalwriteid", write_id);
  return {200, headers, ""};
}

TEST_F(AzureFlow, reads_a_range_of_one_version) {
  http_.script = {part("cdef", 2, 10)};
  std::string into(4, '?');
  Status status = read(2, into);
  ASSERT_TRUE(status) << status.error().to_string();
  EXPECT_EQ(into, "cdef");
  EXPECT_EQ(http_.requests[0].url, kBlob);
  EXPECT_EQ(http_.sent(0, "x-ms-range"), "bytes=2-5");
  EXPECT_EQ(http_.sent(0, "If-Match"), "\"v1\"");
  EXPECT_EQ(http_.sent(0, "x-ms-date"), "Sun, 22 Nov 2026 12:00:00 GMT");
  EXPECT_TRUE(http_.sent(0, "Authorization").starts_with("SharedKey acct:"));
  EXPECT_EQ(metrics_.retries.value(), 0u);
}

TEST_F(AzureFlow, resumes_at_the_last_byte_under_the_same_version) {
  Answer cut = part("0123456789", 100, 1000);
  cut.lost_after = 4;
  Answer cut_again = part("456789", 104, 1000);
  cut_again.lost_after = 3;
  http_.script = {cut, cut_again, {}, part("789", 107, 1000)};
  std::string into(10, '?');
  std::vector<uint64_t> seen;
  ASSERT_TRUE(read(100, into, {}, [&seen](uint64_t bytes) { seen.push_back(bytes); }));
  EXPECT_EQ(into, "0123456789");
  EXPECT_EQ(http_.sent(1, "x-ms-range"), "bytes=104-109");
  EXPECT_EQ(http_.sent(2, "x-ms-range"), "bytes=107-109");
  EXPECT_EQ(http_.sent(3, "x-ms-range"), "bytes=107-109");
  EXPECT_EQ(http_.sent(3, "If-Match"), "\"v1\"");
  EXPECT_EQ(seen, (std::vector<uint64_t>{4, 7, 10}));
  EXPECT_EQ(metrics_.retries.value(), 3u);
  EXPECT_EQ(metrics_.errors.value(), 3u);
  EXPECT_NE(http_.sent(0, "x-ms-date"), "(none)");
  EXPECT_NE(http_.sent(0, "x-ms-client-request-id"), http_.sent(1, "x-ms-client-request-id"));
}

TEST_F(AzureFlow, wants_an_answer_even_when_all_bytes_came) {
  Answer cut = part("0123X", 0, 4);  // the fifth byte stands for the lost end
  cut.lost_after = 4;
  http_.script = {cut, part("3", 3, 4)};
  std::string into(4, '?');
  ASSERT_TRUE(read(0, into));
  EXPECT_EQ(into, "0123");
  EXPECT_EQ(http_.sent(1, "x-ms-range"), "bytes=3-3");
}

TEST_F(AzureFlow, never_takes_another_version_or_range) {
  Answer cut = part("0123456789", 0, 10);
  cut.lost_after = 5;
  http_.script = {cut, refusal(412, "ConditionNotMet")};
  std::string into(10, '?');
  Status status = read(0, into);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kStale);

  http_.script.push_back(part("0123456789", 0, 10, "v2"));  // a server that ignores If-Match
  status = read(0, into);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kStale);

  http_.script.push_back(refusal(404, "BlobNotFound"));
  EXPECT_EQ(read(0, into).error().code(), Code::kStale);
  http_.script.push_back(refusal(404, "ContainerNotFound"));
  EXPECT_EQ(read(0, into).error().code(), Code::kNotFound);

  Answer other = part("0123456789", 0, 100);
  other.headers[1].second = "bytes 90-99/100";  // and one that ignores the range
  http_.script.push_back(other);
  http_.script.push_back(part("0123456789", 0, 100));
  EXPECT_TRUE(read(0, into));
  EXPECT_EQ(into, "0123456789");
}

TEST_F(AzureFlow, tells_a_range_past_the_end) {
  Answer shorter = part("01", 8, 10);
  http_.script = {shorter, refusal(416, "InvalidRange")};
  std::string into(5, '?');
  EXPECT_EQ(read(8, into).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(read(10, into).error().code(), Code::kInvalidArgument);
}

TEST_F(AzureFlow, retries_what_may_pass_and_nothing_else) {
  for (int status : {408, 429, 500, 502, 503, 504}) {
    http_.script.push_back(refusal(status, ""));
    http_.script.push_back(found("v1", 5));
    EXPECT_TRUE(run(origin_->head("a", {}))) << status;
  }
  for (int status : {400, 401, 403, 404, 409, 412}) {
    http_.script.push_back(refusal(status, ""));
    EXPECT_FALSE(run(origin_->head("a", {}))) << status;
  }
}

TEST_F(AzureFlow, backs_off_up_to_the_deadline) {
  http_.otherwise = [](const HttpRequest&) { return Answer{503, {}, ""}; };
  Result<ObjectInfo> info = run(origin_->head("a", Context::within(executor_, seconds(100))));
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), Code::kThrottled);
  EXPECT_NE(info.error().message().find("given up after"), std::string::npos)
      << info.error().message();
  EXPECT_LE(elapsed(), 100);
  EXPECT_GE(elapsed(), 25);
  // 0.1, 0.2, ... 51.2 s: nine or ten, not hundreds.
  EXPECT_GE(http_.requests.size(), 8u);
  EXPECT_LE(http_.requests.size(), 11u);
}

TEST_F(AzureFlow, stops_by_itself_without_a_deadline) {
  http_.otherwise = [](const HttpRequest&) { return Answer{}; };
  Result<ObjectInfo> info = run(origin_->head("a", {}));
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), Code::kUnavailable);
  EXPECT_LE(elapsed(), 61);
  EXPECT_GE(elapsed(), 15);
}

TEST_F(AzureFlow, waits_as_long_as_it_is_told) {
  http_.script = {refusal(503, "ServerBusy", {{"retry-after", "7"}}), found("v1", 5),
                  refusal(429, "", {{"x-ms-retry-after-ms", "2500"}}), found("v1", 5)};
  EXPECT_TRUE(run(origin_->head("a", {})));
  EXPECT_GE(elapsed(), 7);
  EXPECT_LT(elapsed(), 7.1);
  EXPECT_TRUE(run(origin_->head("a", {})));
  EXPECT_GE(elapsed(), 9.5);
  EXPECT_LT(elapsed(), 9.7);
}

TEST_F(AzureFlow, ends_when_the_caller_gives_up) {
  http_.script = {refusal(503, "ServerBusy", {{"retry-after", "20"}})};
  Cancel cancel;
  Gate gate(executor_);
  struct Stop final : Timer {
    explicit Stop(Cancel& who) : cancel(who) {}
    void run() noexcept override { cancel.request(); }
    Cancel& cancel;
  } stop(cancel);
  executor_.start_timer(stop, executor_.now() + seconds(3));
  Result<ObjectInfo> info = run(origin_->head("a", {kNever, &cancel}));
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), Code::kCancelled);
  EXPECT_LT(elapsed(), 3.1);
}

TEST_F(AzureFlow, knows_its_own_put_after_a_lost_answer) {
  PutOptions options{Condition::absent(), {{"shoalwriteid", "mine"}}};
  http_.script = {{}, refusal(409, "BlobAlreadyExists"), found("v9", 3, "mine")};
  Result<ObjectInfo> info = run(origin_->put("a", as_bytes("abc"), options, {}));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->etag, "v9");
  // Somebody else's: of another id, or of another size.
  http_.script.insert(http_.script.end(),
                      {{}, refusal(409, "BlobAlreadyExists"), found("v9", 3, "other")});
  EXPECT_EQ(run(origin_->put("a", as_bytes("abc"), options, {})).error().code(),
            Code::kAlreadyExists);
  http_.script.insert(http_.script.end(),
                      {{}, refusal(409, "BlobAlreadyExists"), found("v9", 4, "mine")});
  EXPECT_EQ(run(origin_->put("a", as_bytes("abc"), options, {})).error().code(),
            Code::kAlreadyExists);
  // A first answer is believed at once.
  http_.script.push_back(refusal(409, "BlobAlreadyExists"));
  EXPECT_EQ(run(origin_->put("a", as_bytes("abc"), options, {})).error().code(),
            Code::kAlreadyExists);
  // So is one after mere throttling, which carries nothing out.
  http_.script.insert(http_.script.end(), {refusal(429, ""), refusal(409, "BlobAlreadyExists")});
  EXPECT_EQ(run(origin_->put("a", as_bytes("abc"), options, {})).error().code(),
            Code::kAlreadyExists);
}

TEST_F(AzureFlow, knows_its_own_commit_after_a_lost_answer) {
  PutOptions options{Condition::match("v1"), {{"shoalwriteid", "mine"}}};
  std::vector<BlockInfo> blocks = {{"id0", 4}, {"id1", 3}};
  http_.script = {refusal(500, "OperationTimedOut"), refusal(400, "InvalidBlockList"),
                  found("v2", 7, "mine")};
  Result<ObjectInfo> info = run(origin_->commit_blocks("a", blocks, options, {}));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->etag, "v2");
  EXPECT_EQ(info->size, 7u);
  EXPECT_EQ(http_.bodies[0],
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>\n<Latest>aWQw</Latest>\n"
            "<Latest>aWQx</Latest>\n</BlockList>");
  EXPECT_EQ(http_.sent(0, "If-Match"), "\"v1\"");

  http_.script.insert(http_.script.end(),
                      {{}, refusal(412, "ConditionNotMet"), found("v2", 7, "mine")});
  EXPECT_TRUE(run(origin_->commit_blocks("a", blocks, options, {})));
  http_.script.push_back(refusal(400, "InvalidBlockList"));
  EXPECT_EQ(run(origin_->commit_blocks("a", blocks, options, {})).error().code(), Code::kNotFound);
}

TEST_F(AzureFlow, asks_for_a_block_whose_answer_was_lost) {
  auto listing = [](std::string id) {
    return Answer{200,
                  {},
                  "<BlockList><UncommittedBlocks><Block><Name>" + id +
                      "</Name><Size>4</Size></Block></UncommittedBlocks></BlockList>"};
  };
  // {} has no answer. It was carried out; then another one that was not.
  http_.script = {{}, listing("aWQ="), {}, listing("b3RoZXI="), {201, {}, ""}};
  ASSERT_TRUE(run(origin_->put_block("a", "id", 0, as_bytes("1234"), {})));
  EXPECT_EQ(http_.requests.size(), 2u);
  EXPECT_EQ(http_.requests[1].url,
            std::string(kBlob) + "?comp=blocklist&blocklisttype=uncommitted");
  ASSERT_TRUE(run(origin_->put_block("a", "id", 0, as_bytes("1234"), {})));
  EXPECT_EQ(http_.requests.size(), 5u);
  EXPECT_EQ(http_.requests[4].method, "PUT");
  // Who was told to wait knows that nothing was done.
  http_.script.insert(http_.script.end(), {refusal(503, "ServerBusy"), {201, {}, ""}});
  ASSERT_TRUE(run(origin_->put_block("a", "id", 0, as_bytes("1234"), {})));
  EXPECT_EQ(http_.requests.size(), 7u);
}

TEST_F(AzureFlow, notices_a_commit_that_was_cut_off) {
  http_.script = {{201, {{"etag", "\"v2\""}}, ""}, found("v2", 0)};
  Result<ObjectInfo> info = run(origin_->commit_blocks("a", {{"id0", 4}}, {}, {}));
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), Code::kCorrupt);
  http_.script.insert(http_.script.end(), {{201, {{"etag", "\"v3\""}}, ""}, found("v4", 9)});
  EXPECT_EQ(run(origin_->commit_blocks("a", {{"id0", 4}}, {}, {}))->etag, "v3");
}

TEST_F(AzureFlow, knows_its_own_remove_after_a_lost_answer) {
  http_.script = {{}, refusal(404, "BlobNotFound"), refusal(404, "BlobNotFound")};
  EXPECT_TRUE(run(origin_->remove("a", Condition::none(), {})));
  EXPECT_EQ(run(origin_->remove("a", Condition::none(), {})).error().code(), Code::kNotFound);
}

TEST_F(AzureFlow, waits_for_a_slow_copy) {
  Answer pending = found("v5", 10);
  pending.headers.emplace_back("x-ms-copy-status", "pending");
  Answer done = found("v6", 10);
  done.headers.emplace_back("x-ms-copy-status", "success");
  http_.script = {{202, {{"etag", "\"v5\""}}, ""}, pending, pending, done};
  Result<ObjectInfo> info = run(origin_->copy("from here", "v1", "a", {}, {}));
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->etag, "v6");
  EXPECT_EQ(http_.sent(0, "x-ms-copy-source"),
            "https://acct.blob.core.windows.net/box/from%20here");
  EXPECT_EQ(http_.sent(0, "x-ms-source-if-match"), "\"v1\"");
  Answer failed = pending;
  failed.headers.back().second = "failed";
  http_.script.insert(http_.script.end(), {{202, {{"etag", "\"v5\""}}, ""}, failed});
  EXPECT_FALSE(run(origin_->copy("from here", "v1", "a", {}, {})));
}

TEST_F(AzureFlow, sends_a_token_instead_of_a_signature) {
  make("az://acct/box/pre fix", {"", "sv=2022-11-02&sp=rw&sig=abc%3D"});
  http_.script = {found("v1", 5), {202, {{"etag", "\"v5\""}}, ""}, found("v6", 10)};
  EXPECT_TRUE(run(origin_->head("a", {})));
  EXPECT_EQ(http_.requests[0].url,
            "https://acct.blob.core.windows.net/box/pre%20fix/a?sv=2022-11-02&sp=rw&sig=abc%3D");
  EXPECT_EQ(http_.sent(0, "Authorization"), "(none)");
  EXPECT_TRUE(run(origin_->copy("b", "v1", "a", {}, {})));
  EXPECT_EQ(http_.sent(1, "x-ms-copy-source"),
            "https://acct.blob.core.windows.net/box/pre%20fix/b?sv=2022-11-02&sp=rw&sig=abc%3D");
  EXPECT_EQ(origin_->display_name().find("sig"), std::string::npos);
}

TEST_F(AzureFlow, follows_empty_pages) {
  auto page = [](std::string blobs, std::string marker) {
    return Answer{200,
                  {},
                  "\xEF\xBB\xBF<?xml version=\"1.0\"?><EnumerationResults><Blobs>" + blobs +
                      "</Blobs><NextMarker>" + marker + "</NextMarker></EnumerationResults>"};
  };
  http_.script = {page("", "m 1"), page("", "m2"),
                  page("<Blob><Name>x</Name><Properties><Content-Length>1</Content-Length>"
                       "<Etag>e</Etag></Properties></Blob>",
                       "m3"),
                  page("", "m4"), page("", "m4")};
  Result<ListPage> list = run(origin_->list({.entries_max = 3}, {}));
  ASSERT_TRUE(list) << list.error().to_string();
  EXPECT_EQ(list->objects.size(), 1u);
  EXPECT_EQ(list->next_marker, "m3");
  EXPECT_NE(http_.requests[1].url.find("&marker=m%201"), std::string::npos);
  EXPECT_NE(http_.requests[0].url.find("&maxresults=3"), std::string::npos);
  // A server that repeats itself does not hold us.
  EXPECT_EQ(run(origin_->list({}, {})).error().code(), Code::kUnavailable);
}

TEST_F(AzureFlow, refuses_foreign_names_in_a_listing) {
  make("az://acct/box/mine", {});
  http_.script = {{200,
                   {},
                   "<EnumerationResults><Blobs><Blob><Name>theirs/x</Name><Properties>"
                   "<Content-Length>1</Content-Length><Etag>e</Etag></Properties></Blob></Blobs>"
                   "</EnumerationResults>"}};
  EXPECT_EQ(run(origin_->list({}, {})).error().code(), Code::kUnavailable);
}

Task<Status> head_once(Origin& origin) {
  Result<ObjectInfo> info = co_await origin.head("a", {});
  co_return info ? Status() : Status(fail(info.error()));
}
Task<Status> head_many(Executor& executor, Origin& origin, int count) {
  std::vector<Task<Status>> tasks;
  for (int i = 0; i < count; ++i) tasks.push_back(head_once(origin));
  co_return co_await run_all(executor, std::move(tasks), 1000);
}

TEST_F(AzureFlow, asks_less_at_once_when_throttled_and_more_again_later) {
  int refusals = 40;
  http_.otherwise = [&refusals](const HttpRequest&) {
    if (refusals > 0) {
      --refusals;
      return Answer{503, {{"x-ms-error-code", "ServerBusy"}}, "", SIZE_MAX, milliseconds(20)};
    }
    Answer answer = found("v1", 5);
    answer.takes = milliseconds(20);
    return answer;
  };
  EXPECT_EQ(origin_->concurrency_limit(), 64u);
  ASSERT_TRUE(run(head_many(executor_, *origin_, 150)));
  EXPECT_EQ(http_.in_flight_max, 64);
  uint64_t after = origin_->concurrency_limit();
  EXPECT_LE(after, 50u);  // one cut in a burst: 44, and some regrowth
  EXPECT_GE(after, 44u);
  ASSERT_TRUE(run(head_many(executor_, *origin_, 3000)));
  EXPECT_EQ(origin_->concurrency_limit(), 64u);
}

TEST_F(AzureFlow, never_asks_for_less_than_one) {
  ConcurrencyLimit limit(executor_, 4);
  for (int i = 0; i < 20; ++i) {
    run(sleep_for(executor_, seconds(2), {})).value();
    limit.on_throttled();
  }
  EXPECT_EQ(limit.limit(), 1u);
}

TEST_F(AzureFlow, refuses_metadata_that_no_header_carries) {
  for (const Metadata& bad : {Metadata{{"Upper", "x"}}, Metadata{{"a-b", "x"}}, Metadata{{"", "x"}},
                              Metadata{{"1a", "x"}}, Metadata{{"a", "line\nfeed"}},
                              Metadata{{"a", "\xc3\xa9"}}, Metadata{{"a", " outer "}}}) {
    EXPECT_EQ(run(origin_->put("a", {}, {Condition::none(), bad}, {})).error().code(),
              Code::kInvalidArgument);
  }
  EXPECT_EQ(run(origin_->put("a", {}, {Condition::none(), {{"a", std::string(9000, 'x')}}}, {}))
                .error()
                .code(),
            Code::kTooLarge);
}

TEST_F(AzureFlow, sends_a_checksum_when_asked) {
  EXPECT_EQ(crc64_nvme(as_bytes("123456789")), 0xAE8B14860A799888ull);
  EXPECT_EQ(crc64_nvme({}), 0u);
  AzureConfig config;
  config.url = *parse_origin_url("az://acct/box");
  config.content_crc64 = true;
  AzureOrigin origin(config, world_, registry_, log_);
  http_.script = {{201, {{"etag", "\"v1\""}}, ""}, {201, {{"etag", "\"v1\""}}, ""}};
  EXPECT_TRUE(run(origin.put_block("a", "id", 0, as_bytes("123456789"), {})));
  // 0xAE8B14860A799888, little-endian, base64.
  EXPECT_EQ(http_.sent(0, "x-ms-content-crc64"), "iJh5CoYUi64=");
  EXPECT_EQ(http_.requests[0].url, std::string(kBlob) + "?comp=block&blockid=aWQ%3D");
  EXPECT_TRUE(run(origin.put("a", {}, {}, {})));
  EXPECT_EQ(http_.sent(1, "x-ms-content-crc64"), "(none)");
}

TEST_F(AzureFlow, probes_quickly_even_when_nobody_answers) {
  http_.otherwise = [](const HttpRequest&) { return Answer{}; };
  Status status = run(origin_->probe(true, {}));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kUnavailable);
  EXPECT_EQ(http_.requests.size(), 4u);
  EXPECT_NE(status.error().message().find("az://acct/box"), std::string::npos);
}

TEST_F(AzureFlow, is_made_from_what_users_type) {
  OriginConfig config;
  config.location = "s3://bucket/x";
  EXPECT_EQ(make_origin(config, world_, registry_, log_).error().code(), Code::kNotSupported);
  config.location = "relative";
  EXPECT_EQ(make_origin(config, world_, registry_, log_).error().code(), Code::kInvalidArgument);
  config.location = "/data";
  EXPECT_EQ(make_origin(config, world_, registry_, log_).value()->display_name(), "/data");
  config.location = "az://acct/box/p";
  EXPECT_EQ(make_origin(config, world_, registry_, log_).value()->identity(), "azure:acct/box/p/");
}

}  // namespace
}  // namespace shoal
