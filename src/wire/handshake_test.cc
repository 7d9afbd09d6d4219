#include "wire/handshake.h"

#include <gtest/gtest.h>

#include "wire/messages.pb.h"
#include "wire/peer_address.h"

namespace shoal {
namespace {

HandshakeIdentity identity(uint64_t node) {
  return {"blue", "file:///data", {0, node}, node * 10, std::string(32, 'k')};
}

struct Outcome {
  Status caller;
  Status answerer;
  HandshakePeer seen_by_caller;
  HandshakePeer seen_by_answerer;
};

// Hands over what `from` wrote, byte by byte, as a slow network would.
Status deliver(Handshake& to, std::string& from, std::string& answer) {
  size_t given = 0;
  while (!from.empty() && !to.done()) {
    if (++given > from.size()) return fail(Code::kInternal, "half a frame was left");
    auto used = to.take(as_bytes(from).first(given), answer);
    if (!used) return fail(std::move(used).error());
    if (*used == 0) continue;
    EXPECT_EQ(*used, given);
    from.erase(0, *used);
    given = 0;
  }
  return {};
}

Outcome shake(HandshakeIdentity a, HandshakeIdentity b) {
  std::string to_answerer;
  std::string to_caller;
  Handshake caller(Handshake::Role::kCaller, std::move(a), {"B", {1, 2}, 1000, 0}, to_answerer);
  Handshake answerer(Handshake::Role::kAnswerer, std::move(b), {"A", {3, 4}, 2000, 64}, to_caller);
  EXPECT_TRUE(to_caller.empty());
  Outcome outcome;
  for (int round = 0; round < 3; ++round) {
    if (outcome.answerer) outcome.answerer = deliver(answerer, to_answerer, to_caller);
    if (outcome.caller) outcome.caller = deliver(caller, to_caller, to_answerer);
  }
  EXPECT_EQ(caller.done(), outcome.caller.has_value());
  EXPECT_EQ(answerer.done(), outcome.answerer.has_value());
  outcome.seen_by_caller = caller.peer();
  outcome.seen_by_answerer = answerer.peer();
  return outcome;
}

void expect_refused(const Outcome& outcome, Code code, std::string_view text) {
  for (const Status* status : {&outcome.caller, &outcome.answerer}) {
    ASSERT_FALSE(*status);
    EXPECT_EQ(status->error().code(), code) << status->error().to_string();
    EXPECT_NE(status->error().message().find(text), std::string::npos)
        << status->error().to_string();
  }
}

TEST(Handshake, tells_both_who_they_are) {
  Outcome outcome = shake(identity(1), identity(2));
  ASSERT_TRUE(outcome.caller) << outcome.caller.error().to_string();
  ASSERT_TRUE(outcome.answerer) << outcome.answerer.error().to_string();
  EXPECT_EQ(outcome.seen_by_caller.node, (Hash128{0, 2}));
  EXPECT_EQ(outcome.seen_by_caller.requests_max, 64u);
  EXPECT_EQ(outcome.seen_by_caller.wall_ms, 2000);
  EXPECT_EQ(outcome.seen_by_answerer.node, (Hash128{0, 1}));
  EXPECT_EQ(outcome.seen_by_answerer.incarnation, 10u);
}

TEST(Handshake, tells_the_caller_of_further_addresses) {
  HandshakeIdentity b = identity(2);
  b.further = {"10.0.1.2:7070", "[fd00::2]:7070"};
  Outcome outcome = shake(identity(1), b);
  ASSERT_TRUE(outcome.caller) << outcome.caller.error().to_string();
  EXPECT_EQ(outcome.seen_by_caller.further, b.further);
  EXPECT_TRUE(outcome.seen_by_answerer.further.empty());
}

// What a peer with the key, but not of sound mind, may list: nothing of it is believed.
TEST(Handshake, refuses_further_addresses_that_are_none) {
  std::vector<std::vector<std::string>> lists = {
      {"10.0.1.2"},
      {"10.0.1.2:7070", "10.0.1.2:7070"},
      {"10.0.1.2:0"},
      {"a b:7070"},
      {"10.0.1.2:7070\n"},
      {std::string(kAddressBytesMax, 'x') + ":7070"},
      {"a:1", "a:2", "a:3", "a:4", "a:5", "a:6", "a:7", "a:8"},
  };
  for (const std::vector<std::string>& list : lists) {
    std::string hello, challenge, out;
    Handshake caller(Handshake::Role::kCaller, identity(1), {"B", {1, 2}, 0, 0}, hello);
    Handshake answerer(Handshake::Role::kAnswerer, identity(2), {"A", {3, 4}, 0, 64}, challenge);
    ASSERT_TRUE(answerer.take(as_bytes(hello), challenge));
    wire::Challenge body;
    ASSERT_TRUE(body.ParseFromString(challenge.substr(kFrameHeaderBytes)));
    for (const std::string& address : list) body.add_further(address);
    FrameHeader header;
    header.type = FrameType::kChallenge;
    auto used = caller.take(as_bytes(encode_frame(header, body.SerializeAsString())), out);
    ASSERT_FALSE(used) << list.front();
    EXPECT_EQ(used.error().code(), Code::kCorrupt) << used.error().to_string();
    EXPECT_FALSE(caller.done());
  }
}

TEST(PeerAddress, has_a_host_and_a_port) {
  for (std::string_view good : {"10.0.0.5:7070", "host-1.rack:1", "[fd00::5]:65535"}) {
    EXPECT_TRUE(is_peer_address(good)) << good;
  }
  for (std::string_view bad :
       {"", ":", ":7070", "host:", "host", "host:0", "host:65536", "host:-1", "host:7070x",
        "fd00::5:7070", "[]:7070", "[fd00::5:7070", "ho]st:1", "host:+70", "h\x7f:1"}) {
    EXPECT_FALSE(is_peer_address(bad)) << bad;
  }
}

TEST(Handshake, works_without_keys_and_for_clients) {
  HandshakeIdentity a = identity(1);
  HandshakeIdentity b = identity(2);
  a.key = b.key = "";
  Outcome outcome = shake(a, b);
  EXPECT_TRUE(outcome.caller && outcome.answerer);
  HandshakeIdentity client = identity(0);
  client.origin = "";
  outcome = shake(client, identity(2));
  EXPECT_TRUE(outcome.caller && outcome.answerer);
  HandshakeIdentity member = identity(1);
  member.origin = "";
  expect_refused(shake(member, identity(2)), Code::kConflict, "is over file:///data here");
}

TEST(Handshake, refuses_other_keys_with_a_reason) {
  HandshakeIdentity a = identity(1);
  a.key = std::string(32, 'x');
  expect_refused(shake(a, identity(2)), Code::kUnauthenticated,
                 "different keys for cluster 'blue'");
  a.key = "";
  expect_refused(shake(a, identity(2)), Code::kUnauthenticated, "has no key for cluster 'blue'");
  HandshakeIdentity b = identity(2);
  b.key = "";
  expect_refused(shake(identity(1), b), Code::kUnauthenticated, "has no key for cluster 'blue'");
}

TEST(Handshake, refuses_other_clusters_and_origins_naming_both) {
  HandshakeIdentity a = identity(1);
  a.cluster = "red";
  expect_refused(shake(a, identity(2)), Code::kConflict, "'blue', the caller belongs to 'red'");
  a = identity(1);
  a.origin = "az://x/y";
  expect_refused(shake(a, identity(2)), Code::kConflict,
                 "over file:///data here, the caller's is over az://x/y");
}

TEST(Handshake, refuses_another_version_and_can_be_read_by_it) {
  wire::Hello hello;
  hello.set_version(9);
  hello.set_node_low(7);
  hello.set_cluster("blue");
  FrameHeader header;
  header.type = FrameType::kHello;
  header.version = 9;
  std::string frame = encode_frame(header, hello.SerializeAsString());
  std::string answer;
  Handshake answerer(Handshake::Role::kAnswerer, identity(2), {"A", {3, 4}, 0, 64}, answer);
  auto used = answerer.take(as_bytes(frame), answer);
  ASSERT_FALSE(used);
  EXPECT_EQ(used.error().code(), Code::kNotSupported);

  // This version reads a refusal by any other.
  answer[4] = 9;
  auto read = decode_frame_header(as_bytes(answer).first<kFrameHeaderBytes>());
  EXPECT_FALSE(read) << "the checksum covers the version";
  std::string hello_bytes;
  Handshake caller(Handshake::Role::kCaller, identity(1), {"B", {1, 2}, 0, 0}, hello_bytes);
  header.type = FrameType::kRefused;
  std::string refusal = encode_refusal(used.error());
  std::string body = refusal.substr(kFrameHeaderBytes);
  auto told = caller.take(as_bytes(encode_frame(header, body)), hello_bytes);
  ASSERT_FALSE(told);
  EXPECT_EQ(told.error().code(), Code::kNotSupported);
  EXPECT_NE(told.error().message().find("speaks protocol version 9"), std::string::npos)
      << told.error().to_string();
}

// A proof cannot be shown again on another connection, nor by the other role.
TEST(Handshake, a_recorded_conversation_is_of_no_use) {
  std::string hello, challenge, proof, refused;
  Handshake caller(Handshake::Role::kCaller, identity(1), {"B", {1, 2}, 0, 0}, hello);
  Handshake answerer(Handshake::Role::kAnswerer, identity(2), {"A", {3, 4}, 0, 64}, challenge);
  ASSERT_TRUE(answerer.take(as_bytes(hello), challenge));
  ASSERT_TRUE(caller.take(as_bytes(challenge), proof));

  std::string other_challenge;
  Handshake again(Handshake::Role::kAnswerer, identity(2), {"A", {5, 6}, 0, 64}, other_challenge);
  ASSERT_TRUE(again.take(as_bytes(hello), other_challenge));
  auto used = again.take(as_bytes(proof), refused);
  ASSERT_FALSE(used);
  EXPECT_EQ(used.error().code(), Code::kUnauthenticated);

  wire::Challenge answer;
  ASSERT_TRUE(answer.ParseFromString(challenge.substr(kFrameHeaderBytes)));
  wire::Proof reflected;
  reflected.set_proof(answer.proof());
  FrameHeader header;
  header.type = FrameType::kProof;
  used = answerer.take(as_bytes(encode_frame(header, reflected.SerializeAsString())), refused);
  ASSERT_FALSE(used);
  EXPECT_EQ(used.error().code(), Code::kUnauthenticated);
}

TEST(Handshake, bytes_out_of_place_end_it) {
  std::string out;
  Handshake answerer(Handshake::Role::kAnswerer, identity(2), {"A", {3, 4}, 0, 64}, out);
  EXPECT_EQ(answerer.take(as_bytes("SHOL"), out).value(), 0u);
  auto used =
      answerer.take(as_bytes("GET / HTTP/1.1\r\nHost: here\r\nAccept: text/html\r\n\r\n"), out);
  ASSERT_FALSE(used);
  EXPECT_EQ(used.error().code(), Code::kCorrupt);
  EXPECT_TRUE(out.empty());

  Handshake second(Handshake::Role::kAnswerer, identity(2), {"A", {3, 4}, 0, 64}, out);
  FrameHeader header;
  header.type = FrameType::kRequest;
  EXPECT_EQ(second.take(as_bytes(encode_frame(header, "")), out).error().code(), Code::kCorrupt);
  EXPECT_FALSE(out.empty());

  Handshake third(Handshake::Role::kAnswerer, identity(2), {"A", {3, 4}, 0, 64}, out);
  header.type = FrameType::kHello;
  std::string giant = encode_frame(header, std::string(kHandshakeBytesMax + 1, 'x'));
  EXPECT_EQ(third.take(as_bytes(giant).first(100), out).error().code(), Code::kCorrupt);
}

TEST(Handshake, tells_who_speaks_tls) {
  for (auto role : {Handshake::Role::kAnswerer, Handshake::Role::kCaller}) {
    std::string out;
    Handshake handshake(role, identity(2), {"A", {3, 4}, 0, 64}, out);
    out.clear();
    auto used = handshake.take(as_bytes("\x16\x03\x01"), out);
    ASSERT_FALSE(used);
    EXPECT_EQ(used.error().code(), Code::kUnauthenticated);
    auto refusal = decode_refusal(as_bytes(out), "B");
    ASSERT_TRUE(refusal.has_value() && refusal->has_value());
    EXPECT_NE((*refusal)->message().find("--tls"), std::string::npos);
  }
}

TEST(Refusal, is_read_from_any_beginning_of_it) {
  std::string whole = encode_refusal(Error(Code::kBusy, "full"));
  for (size_t there = 0; there < whole.size(); ++there) {
    auto refusal = decode_refusal(as_bytes(whole).first(there), "B");
    ASSERT_TRUE(refusal.has_value()) << there;
    EXPECT_FALSE(refusal->has_value()) << there;
  }
  auto refusal = decode_refusal(as_bytes(whole + "and more"), "B");
  ASSERT_TRUE(refusal.has_value() && refusal->has_value());
  EXPECT_EQ((*refusal)->code(), Code::kBusy);
  EXPECT_EQ((*refusal)->message(), "B refused this node: full");
}

TEST(Refusal, nothing_else_is_taken_for_one) {
  FrameHeader header;
  header.type = FrameType::kHello;
  std::string hello = encode_frame(header, "x");
  header.type = FrameType::kRefused;
  std::string giant = encode_frame(header, std::string(kHandshakeBytesMax + 1, 'x'));
  std::string changed = encode_refusal(Error(Code::kBusy, "full"));
  changed.back() ^= 1;
  for (const std::string& bytes :
       {hello, giant.substr(0, 100), changed, std::string("SSH-2.0"), std::string("HTTP")}) {
    auto refusal = decode_refusal(as_bytes(bytes), "B");
    ASSERT_FALSE(refusal.has_value()) << bytes.substr(0, 8);
    EXPECT_EQ(refusal.error().code(), Code::kCorrupt);
  }
}

}  // namespace
}  // namespace shoal
