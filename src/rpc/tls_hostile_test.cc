// TLS peers that misbehave, made with OpenSSL by hand: who cannot show the key, who would have the
// other side keep state or work for nothing, who speaks in the clear where the key is expected.
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "async/net_io.h"
#include "rpc/internal/tls_session.h"
#include "rpc/scenarios_test_support.h"

namespace shoal {
namespace {

using scenarios::Pair;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A TLS end of whatever kind.
struct RawTls {
  RawTls(World& where, SocketId to, SSL_CTX* context, bool calls)
      : world(where), socket(to), ssl(SSL_new(context)), in(BIO_new(BIO_s_mem())) {
    out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, in, out);
    calls ? SSL_set_connect_state(ssl) : SSL_set_accept_state(ssl);
  }
  ~RawTls() {
    SSL_free(ssl);
    world.network.close(socket);
  }
  Task<Status> flush() {
    std::string bytes(BIO_ctrl_pending(out), '\0');
    if (bytes.empty()) co_return Status();
    BIO_read(out, bytes.data(), static_cast<int>(bytes.size()));
    std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
    co_return co_await net_io::send(world.network, world.executor, socket, parts, false, {});
  }
  // True: established.
  Task<bool> shake() {
    while (true) {
      int result = SSL_do_handshake(ssl);
      if (!co_await flush()) co_return false;
      if (result == 1) co_return true;
      if (SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ) co_return false;
      std::array<std::byte, 4096> bytes;
      auto came =
          co_await net_io::receive(world.network, world.executor, socket, bytes, 1,
                                   Context::within(world.executor, std::chrono::seconds(20)));
      if (!came) co_return false;
      BIO_write(in, bytes.data(), static_cast<int>(*came));
    }
  }

  World& world;
  SocketId socket;
  SSL* ssl;
  BIO* in;
  BIO* out = nullptr;
};

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using OwnContext = std::unique_ptr<SSL_CTX, FreeContext>;

Task<SocketId> dial(Pair& pair) {
  World& world = pair.bed.caller();
  auto socket = co_await net_io::connect(world.network, world.executor, pair.rpc_server->address(),
                                         pair.soon());
  SHOAL_ASSERT(socket.has_value());
  co_return *socket;
}

struct Ending {
  Duration after{};
  std::string said;  // by the other side, before it ended the stream
};
Task<Ending> until_hung_up(World& world, SocketId socket) {
  Ending ending;
  SteadyTime began = world.executor.now();
  std::array<std::byte, 4096> bytes;
  while (true) {
    auto came = co_await net_io::receive(world.network, world.executor, socket, bytes, 1,
                                         Context::within(world.executor, seconds(60)));
    if (!came) break;
    ending.said += as_text(std::span(bytes).first(*came));
  }
  ending.after = world.executor.now() - began;
  co_return ending;
}

std::string with_length(size_t bytes, std::string_view text) {
  std::string out;
  for (size_t i = bytes; i-- > 0;) out += static_cast<char>(text.size() >> (8 * i) & 0xFF);
  return out + std::string(text);
}
std::string record_of(std::string_view bytes) { return "\x16\x03\x01" + with_length(2, bytes); }

// A right ClientHello that shows no key and asks for another round, since it has no share.
std::string hello_for_another_round() {
  auto extension = [](char type, std::string_view body) {
    return std::string(1, '\0') + type + with_length(2, body);
  };
  std::string extensions = extension(43, with_length(1, std::string_view("\x03\x04", 2))) +
                           extension(10, with_length(2, std::string_view("\x00\x1d", 2))) +
                           extension(51, with_length(2, "")) +
                           extension(13, with_length(2, std::string_view("\x04\x03", 2)));
  std::string body = "\x03\x03" + std::string(32, 'r') + std::string(1, '\0') +
                     with_length(2, std::string_view("\x13\x01", 2)) + std::string("\x01\x00", 2) +
                     with_length(2, extensions);
  return "\x01" + with_length(3, body);
}

// Nothing is kept, and no memory taken, for who has not shown the key with its first message.
Task<void> keeps_nothing_for_strangers(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  World& world = bed.caller();
  std::string hello = hello_for_another_round();
  std::vector<std::string> all = {
      record_of(hello),
      record_of(hello.substr(0, 20)) + record_of(hello.substr(20)),
      // The beginning of one of 128 KiB.
      record_of(std::string("\x01\x01\xff\xff", 4) + std::string(1000, 'x')),
      record_of(std::string("\x01\x00\x3f\xfc", 4) + std::string(16380, 'x')),
      record_of(std::string("\x02\x00\x00\x10", 4) + std::string(16, 'x')),
  };
  for (const std::string& bytes : all) {
    SocketId socket = co_await dial(pair);
    std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
    (void)co_await net_io::send(world.network, world.executor, socket, parts, false, pair.soon());
    Ending ending = co_await until_hung_up(world, socket);
    EXPECT_EQ(ending.after, Duration(0)) << "waited for more";
    EXPECT_LE(ending.said.size(), 7u) << "an alert at most";
    world.network.close(socket);
  }
  EXPECT_EQ(pair.server.metrics.refused.value(), all.size());
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  co_await pair.stop();
}

// One that says nothing, and one that says it byte by byte.
Task<void> first_message_has_its_time(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  World& world = bed.caller();
  std::string bytes = record_of(std::string("\x01\x00\x0f\xfc", 4) + std::string(4092, 'x'));
  SocketId socket = co_await dial(pair);
  size_t sent = 0;
  for (; sent < bytes.size(); ++sent) {
    std::array<ConstByteSpan, 1> parts = {as_bytes(bytes).subspan(sent, 1)};
    if (!co_await net_io::send(world.network, world.executor, socket, parts, false, {})) break;
    (void)co_await sleep_for(world.executor, milliseconds(10), {});
  }
  EXPECT_GT(sent, 490u);
  EXPECT_LT(sent, 520u) << "5 s for all of it";
  world.network.close(socket);
  co_await pair.stop();
}

Task<void> refuses_other_kinds_of_tls(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  World& world = bed.caller();
  for (int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    OwnContext context(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_max_proto_version(context.get(), version);
    RawTls peer(world, co_await dial(pair), context.get(), true);
    EXPECT_FALSE(co_await peer.shake());
    Ending ending = co_await until_hung_up(world, peer.socket);
    EXPECT_EQ(ending.after, Duration(0));
  }
  EXPECT_EQ(pair.server.metrics.refused.value(), 2u);
  co_await pair.stop();
}

// No tickets, so that nothing but the key lets anybody in; and each session has secrets of its own.
Task<void> gives_no_tickets(MemoryBed& bed) {
  bed.tls = true;
  Pair pair(bed);
  co_await pair.start();
  RawTls peer(bed.caller(), co_await dial(pair), pair.caller.tls->native(), true);
  EXPECT_TRUE(co_await peer.shake());
  EXPECT_EQ(SSL_session_reused(peer.ssl), 1);
  EXPECT_STREQ(SSL_get_cipher_name(peer.ssl), "TLS_AES_128_GCM_SHA256");
  EXPECT_NE(SSL_get_negotiated_group(peer.ssl), 0) << "a fresh Diffie-Hellman exchange";
  EXPECT_EQ(SSL_SESSION_get_max_early_data(SSL_get_session(peer.ssl)), 0u);
  Ending ending = co_await until_hung_up(bed.caller(), peer.socket);
  EXPECT_EQ(ending.said, "");
  EXPECT_LE(ending.after, seconds(5)) << "without a hello in it";
  co_await pair.stop();
}

// Who knows the key, and only ever changes keys.
Task<void> bears_no_flood_of_new_keys(MemoryBed& bed) {
  bed.tls = true;
  bed.network().inbox_bytes_max = kMiB;
  Pair pair(bed);
  co_await pair.start();
  for (int kind : {SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED}) {
    RawTls peer(bed.caller(), co_await dial(pair), pair.caller.tls->native(), true);
    EXPECT_TRUE(co_await peer.shake());
    for (int i = 0; i < 5000; ++i) {
      EXPECT_EQ(SSL_key_update(peer.ssl, kind), 1);
      EXPECT_EQ(SSL_do_handshake(peer.ssl), 1);
    }
    (void)co_await peer.flush();
    Ending ending = co_await until_hung_up(bed.caller(), peer.socket);
    EXPECT_EQ(ending.after, Duration(0));
  }
  EXPECT_EQ(pair.server.metrics.refused.value(), 2u);
  EXPECT_OK(co_await pair.call(Method::kHead, "", pair.soon()));
  co_await pair.stop();
}

// --- servers ---

struct Asked {
  Result<std::string> result = fail(Code::kInternal, "not asked");
};
Task<void> ask(RpcPool& pool, std::string address, Context context, Asked& asked) {
  asked.result = co_await pool.call(std::move(address), {}, Method::kHead, "", nullptr, 0, context);
}

// Somebody on the way says in the clear what would be an answer: that there is no such object, or
// to come back in an hour.
Task<void> believes_no_refusal_in_the_clear(MemoryBed& bed) {
  TestNode node(bed.caller(), 1);
  node.use_tls();
  World& world = bed.server();
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  EXPECT_OK(listener);
  for (auto [said, understood] :
       {std::pair(Code::kNotFound, Code::kUnauthenticated),
        std::pair(Code::kNoSpace, Code::kUnauthenticated), std::pair(Code::kBusy, Code::kBusy)}) {
    auto pool = RpcPool::create(node.context, {});
    Gate gate(bed.executor());
    Asked asked;
    gate.spawn(ask(*pool, listener->address, scenarios::seconds(world, 20), asked));
    auto accepted = co_await net_io::accept(world.network, world.executor, listener->socket, {});
    EXPECT_OK(accepted);
    std::string bytes =
        encode_refusal(Error(said, "no\x1b[31m").with_retry_after(std::chrono::hours(1)));
    std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
    EXPECT_OK(
        co_await net_io::send(world.network, world.executor, accepted->socket, parts, false, {}));
    co_await gate.close();
    world.network.close(accepted->socket);
    EXPECT_CODE(asked.result, understood);
    EXPECT_EQ(asked.result.error().retry_after(), milliseconds(0));
    EXPECT_EQ(asked.result.error().message().find('\x1b'), std::string::npos);
    co_await pool->close();
  }
  world.network.close(listener->socket);
}

// Any certificate, as a server of web pages has one.
OwnContext with_a_certificate() {
  OwnContext context(SSL_CTX_new(TLS_server_method()));
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -1000);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 1'000'000);
  X509_set_pubkey(certificate, key);
  X509_sign(certificate, key, EVP_sha256());
  SHOAL_ASSERT(SSL_CTX_use_certificate(context.get(), certificate) == 1);
  SHOAL_ASSERT(SSL_CTX_use_PrivateKey(context.get(), key) == 1);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return context;
}

Task<void> takes_no_certificate_for_the_key(MemoryBed& bed) {
  TestNode node(bed.caller(), 1);
  node.use_tls();
  World& world = bed.server();
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  EXPECT_OK(listener);
  OwnContext context = with_a_certificate();
  auto pool = RpcPool::create(node.context, {});
  Gate gate(bed.executor());
  Asked asked;
  gate.spawn(ask(*pool, listener->address, scenarios::seconds(world, 20), asked));
  auto accepted = co_await net_io::accept(world.network, world.executor, listener->socket, {});
  EXPECT_OK(accepted);
  {
    RawTls peer(world, accepted->socket, context.get(), false);
    EXPECT_FALSE(co_await peer.shake());
    co_await gate.close();
  }
  EXPECT_CODE(asked.result, Code::kUnauthenticated);
  co_await pool->close();
  world.network.close(listener->socket);
}

// A handshake that never ends, from who does not have to show anything.
Task<void> gives_up_on_endless_handshakes(MemoryBed& bed) {
  TestNode node(bed.caller(), 1);
  node.use_tls();
  World& world = bed.server();
  auto listener = co_await net_io::listen(world.network, world.executor, bed.listen());
  EXPECT_OK(listener);
  auto pool = RpcPool::create(node.context, {.connect_timeout = seconds(20)});
  Gate gate(bed.executor());
  Asked asked;
  gate.spawn(ask(*pool, listener->address, scenarios::seconds(world, 20), asked));
  auto accepted = co_await net_io::accept(world.network, world.executor, listener->socket, {});
  EXPECT_OK(accepted);
  // Within what OpenSSL takes of a ServerHello, in records of a few bytes.
  std::string bytes = record_of(std::string("\x02\x00\x4e\x00", 4));
  while (bytes.size() < 64 * kKiB) bytes += record_of("xxxx");
  SteadyTime began = bed.executor().now();
  std::array<ConstByteSpan, 1> parts = {as_bytes(bytes)};
  (void)co_await net_io::send(world.network, world.executor, accepted->socket, parts, false, {});
  co_await gate.close();
  EXPECT_CODE(asked.result, Code::kCorrupt);
  EXPECT_LE(bed.executor().now() - began, milliseconds(1));
  world.network.close(accepted->socket);
  co_await pool->close();
  world.network.close(listener->socket);
}

struct Case {
  const char* name;
  Task<void> (*run)(MemoryBed&);
};
constexpr Case kCases[] = {
    {"keeps_nothing_for_strangers", keeps_nothing_for_strangers},
    {"first_message_has_its_time", first_message_has_its_time},
    {"refuses_other_kinds_of_tls", refuses_other_kinds_of_tls},
    {"gives_no_tickets", gives_no_tickets},
    {"bears_no_flood_of_new_keys", bears_no_flood_of_new_keys},
    {"believes_no_refusal_in_the_clear", believes_no_refusal_in_the_clear},
    {"takes_no_certificate_for_the_key", takes_no_certificate_for_the_key},
    {"gives_up_on_endless_handshakes", gives_up_on_endless_handshakes},
};

class HostileTls : public testing::TestWithParam<Case> {};

TEST_P(HostileTls, is_borne) {
  MemoryBed bed;
  bed.run(GetParam().run(bed));
  EXPECT_EQ(bed.network().open_ends(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Rpc, HostileTls, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace shoal
