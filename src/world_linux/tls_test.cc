#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <csignal>
#include <cstdio>
#include <memory>

#include "async/http_io.h"
#include "base/bytes.h"
#include "world_linux/curl_http.h"
#include "world_linux/test_server.h"
#include "world_linux/test_support.h"

namespace shoal {
namespace {

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* it) const {
    kFree(it);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using TlsContext = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;

// A certificate that vouches for itself, made for one address.
Certificate make_certificate(EVP_PKEY* key, const char* address) {
  Certificate certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
  X509_set_pubkey(certificate.get(), key);
  X509_NAME* name = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("shoal test"), -1, -1, 0);
  X509_set_issuer_name(certificate.get(), name);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, address);
  SHOAL_ASSERT(extension != nullptr);
  X509_add_ext(certificate.get(), extension, -1);
  X509_EXTENSION_free(extension);
  SHOAL_ASSERT(X509_sign(certificate.get(), key, EVP_sha256()) > 0);
  return certificate;
}

class TlsConnection final : public TestServer::Connection {
 public:
  TlsConnection(int descriptor, SSL_CTX* context) : Connection(descriptor), ssl_(SSL_new(context)) {
    SSL_set_fd(ssl_, descriptor);
  }
  ~TlsConnection() override { SSL_free(ssl_); }
  bool accept() { return SSL_accept(ssl_) == 1; }
  void send(std::string_view bytes) override {
    if (!bytes.empty()) SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()));
  }
  size_t receive(char* into, size_t size) override {
    int got = SSL_read(ssl_, into, static_cast<int>(size));
    return got > 0 ? static_cast<size_t>(got) : 0;
  }

 private:
  SSL* ssl_;
};

class TlsTest : public testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);  // the test's own server writes with OpenSSL
    serve_for("IP:127.0.0.1");
  }

  void serve_for(const char* address) {
    server_.reset();
    key_.reset(EVP_EC_gen("P-256"));
    certificate_ = make_certificate(key_.get(), address);
    context_.reset(SSL_CTX_new(TLS_server_method()));
    SHOAL_ASSERT(SSL_CTX_use_certificate(context_.get(), certificate_.get()) == 1);
    SHOAL_ASSERT(SSL_CTX_use_PrivateKey(context_.get(), key_.get()) == 1);
    FILE* file = std::fopen(ca_file().c_str(), "w");
    SHOAL_ASSERT(file != nullptr && PEM_write_X509(file, certificate_.get()) == 1);
    std::fclose(file);
    server_ = std::make_unique<TestServer>(
        [](TestServer::Connection& connection, const TestServer::Request& request) {
          connection.reply(200, request.body.empty() ? std::string(kMiB, 'x') : request.body);
          return true;
        },
        [this](int descriptor) -> std::unique_ptr<TestServer::Connection> {
          auto connection = std::make_unique<TlsConnection>(descriptor, context_.get());
          if (!connection->accept()) return nullptr;
          return connection;
        });
  }
  std::string ca_file() const { return directory_ / "ca.pem"; }
  std::string url() const { return server_->url("/object", "https"); }

  TemporaryDirectory directory_;
  Key key_;
  Certificate certificate_;
  TlsContext context_;
  std::unique_ptr<TestServer> server_;
};

Task<Result<HttpResponse>> fetch(World& world, std::string url, ByteSpan into) {
  HttpExchange exchange(world.http, Context::within(world.executor, std::chrono::seconds(30)));
  exchange.request.method = "GET";
  exchange.request.url = std::move(url);
  exchange.into = into;
  co_return co_await exchange;
}

Result<HttpResponse> fetch_with(CurlOptions options, const std::string& url, ByteSpan into,
                                int times) {
  auto client = CurlClient::create(std::move(options));
  if (!client) return fail(std::move(client).error());
  ShardOptions shard_options;
  shard_options.curl = client->get();
  auto shard = start_test_shard(std::move(shard_options));
  Result<HttpResponse> result = fail(Code::kInternal, "not fetched");
  for (int i = 0; i < times; ++i) {
    result = run_blocking(*shard, fetch(shard->world(), url, into));
  }
  return result;
}

TEST_F(TlsTest, trusts_the_file_of_authorities) {
  Buffer into(kMiB);
  CurlOptions options;
  options.ca_file = ca_file();
  auto result = fetch_with(std::move(options), url(), into.span(), 3);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->into_bytes, kMiB);
  EXPECT_EQ(as_text(into.span()), std::string(kMiB, 'x'));
  EXPECT_EQ(server_->connections(), 1);  // kept
}

TEST_F(TlsTest, refuses_who_is_not_vouched_for) {
  Buffer into(kMiB);
  auto unknown = fetch_with({}, url(), into.span(), 1);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code(), Code::kUnavailable);
  EXPECT_NE(unknown.error().message().find("not trusted"), std::string::npos)
      << unknown.error().message();
  EXPECT_EQ(server_->requests(), 0);

  serve_for("IP:127.0.0.2");  // vouched for, but as somebody else
  CurlOptions options;
  options.ca_file = ca_file();
  auto other = fetch_with(std::move(options), url(), into.span(), 1);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message().find("not trusted"), std::string::npos)
      << other.error().message();
  EXPECT_EQ(server_->requests(), 0);
}

}  // namespace
}  // namespace shoal
