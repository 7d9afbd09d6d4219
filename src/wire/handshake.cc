#include "wire/handshake.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>

#include "wire/error_code.h"
#include "wire/messages.pb.h"
#include "wire/peer_address.h"

namespace shoal {

namespace {

constexpr size_t kNonceBytes = 16;
constexpr size_t kProofBytes = 32;
constexpr size_t kClusterBytesMax = 255;
constexpr size_t kOriginBytesMax = 2048;

std::string bytes_of(const Hash128& hash) {
  std::string out(kNonceBytes, '\0');
  std::memcpy(out.data(), &hash.high, sizeof hash.high);
  std::memcpy(out.data() + sizeof hash.high, &hash.low, sizeof hash.low);
  return out;
}

void append_frame_of(FrameType type, const std::string& body, std::string& out) {
  FrameHeader header;
  header.type = type;
  append_frame(out, header, body);
}

template <typename Message>
bool parse(Message& message, std::string_view body) {
  return message.ParseFromArray(body.data(), static_cast<int>(body.size()));
}

// The first byte of a TLS handshake; no frame begins so.
bool is_tls(ConstByteSpan bytes) { return !bytes.empty() && bytes[0] == std::byte{0x16}; }

std::string name_of(const Hash128& node) {
  return node.is_zero() ? std::string("a client") : "node " + node.to_hex();
}

}  // namespace

std::string encode_refusal(const Error& error) {
  FrameHeader header;
  header.type = FrameType::kRefused;
  return encode_frame(header, encode_error(error));
}

Result<std::optional<Error>> decode_refusal(ConstByteSpan bytes, const std::string& peer) {
  auto wrong = [&peer](const char* what) {
    return fail(Code::kCorrupt, fmt::format("{}: {} instead of TLS", peer, what));
  };
  if (!check_beginning(bytes)) return wrong("unknown bytes");
  if (bytes.size() < kFrameHeaderBytes) return std::nullopt;
  SHOAL_ASSIGN_OR_RETURN(FrameHeader header, decode_frame_header(bytes.first<kFrameHeaderBytes>()));
  if (header.type != FrameType::kRefused || header.body_length > kHandshakeBytesMax) {
    return wrong("another frame");
  }
  if (bytes.size() < kFrameHeaderBytes + header.body_length) return std::nullopt;
  ConstByteSpan body = bytes.subspan(kFrameHeaderBytes, header.body_length);
  SHOAL_RETURN_IF_ERROR(check_body(header, body));
  return decode_error(as_text(body), peer + " refused this node");
}

Handshake::Handshake(Role role, HandshakeIdentity self, HandshakeOptions options, std::string& out)
    : role_(role),
      state_(role == Role::kCaller ? State::kChallenge : State::kHello),
      self_(std::move(self)),
      options_(std::move(options)) {
  SHOAL_ASSERT(self_.cluster.size() <= kClusterBytesMax && self_.origin.size() <= kOriginBytesMax);
  SHOAL_ASSERT(check_further_addresses(self_.further).has_value());
  if (role_ == Role::kAnswerer) {
    SHOAL_ASSERT(options_.requests_max >= 1);
    return;
  }
  wire::Hello hello;
  hello.set_version(kProtocolVersion);
  hello.set_cluster(self_.cluster);
  hello.set_node_high(self_.node.high);
  hello.set_node_low(self_.node.low);
  hello.set_nonce(bytes_of(options_.nonce));
  hello.set_origin(self_.origin);
  hello.set_wall_ms(options_.wall_ms);
  hello.set_incarnation(self_.incarnation);
  append_frame_of(FrameType::kHello, hello.SerializeAsString(), out);
}

Result<size_t> Handshake::take(ConstByteSpan bytes, std::string& out) {
  SHOAL_ASSERT(state_ != State::kDone && state_ != State::kFailed, "the handshake is over");
  auto give_up = [&](Error error, bool tell) {
    state_ = State::kFailed;
    if (tell) out += encode_refusal(error);
    return fail(std::move(error).with_context(options_.peer));
  };
  if (is_tls(bytes)) {
    return give_up(Error(Code::kUnauthenticated,
                         fmt::format("{} does not speak TLS, the other side does: start all nodes "
                                     "of the cluster with --tls, or none",
                                     name_of(self_.node))),
                   true);
  }
  if (Status status = check_beginning(bytes); !status) {
    return give_up(std::move(status).error(), false);
  }
  if (bytes.size() < kFrameHeaderBytes) return 0;
  auto header = decode_frame_header(bytes.first<kFrameHeaderBytes>());
  // Bytes that are no frame get no answer: who sent them would not understand it.
  if (!header) return give_up(std::move(header).error(), false);
  if (header->body_length > kHandshakeBytesMax || header->payload_length > 0) {
    return give_up(Error(Code::kCorrupt, fmt::format("the first frames may have {} bytes, not {}",
                                                     kHandshakeBytesMax, header->body_length)),
                   true);
  }
  size_t used = kFrameHeaderBytes + header->body_length;
  if (bytes.size() < used) return 0;
  ConstByteSpan body = bytes.subspan(kFrameHeaderBytes, header->body_length);
  if (Status status = check_body(*header, body); !status) {
    return give_up(std::move(status).error(), false);
  }
  if (header->type == FrameType::kRefused) {
    state_ = State::kFailed;
    return fail(decode_error(as_text(body), options_.peer + " refused this node"));
  }
  if (Status status = handle(*header, as_text(body), out); !status) {
    return give_up(std::move(status).error(), true);
  }
  return used;
}

Status Handshake::handle(const FrameHeader& header, std::string_view body, std::string& out) {
  switch (state_) {
    case State::kHello:
      if (header.type == FrameType::kHello) return on_hello(body, header.version, out);
      break;
    case State::kChallenge:
      if (header.type == FrameType::kChallenge) return on_challenge(body, out);
      break;
    case State::kProof:
      if (header.type == FrameType::kProof) return on_proof(body, out);
      break;
    case State::kWelcome:
      if (header.type != FrameType::kWelcome) break;
      state_ = State::kDone;
      return {};
    case State::kDone:
    case State::kFailed:
      break;
  }
  return fail(Code::kCorrupt, fmt::format("a frame of type {} is out of place in the handshake",
                                          static_cast<int>(header.type)));
}

Status Handshake::on_hello(std::string_view body, uint8_t version, std::string& out) {
  wire::Hello hello;
  if (!parse(hello, body)) return fail(Code::kCorrupt, "the hello cannot be read");
  peer_.node = {hello.node_high(), hello.node_low()};
  peer_.incarnation = hello.incarnation();
  peer_.wall_ms = hello.wall_ms();
  peer_nonce_ = hello.nonce();
  if (version != kProtocolVersion || hello.version() != kProtocolVersion) {
    uint32_t theirs = version != kProtocolVersion ? version : hello.version();
    return fail(Code::kNotSupported,
                fmt::format("{} speaks protocol version {}, {} speaks {}: upgrade the older one",
                            name_of(peer_.node), theirs, name_of(self_.node), kProtocolVersion));
  }
  if (hello.cluster() != self_.cluster) {
    return fail(Code::kConflict,
                fmt::format("this is cluster '{}', the caller belongs to '{}': check --cluster and "
                            "the address",
                            self_.cluster, printable(hello.cluster(), kClusterBytesMax)));
  }
  // Only a client may have no origin of its own.
  bool no_origin = hello.origin().empty() && peer_.node.is_zero();
  if (!no_origin && hello.origin() != self_.origin) {
    return fail(
        Code::kConflict,
        fmt::format("cluster '{}' is over {} here, the caller's is over {}: two clusters of "
                    "one name must not mix, rename one",
                    self_.cluster, self_.origin, printable(hello.origin(), 512)));
  }
  if (peer_nonce_.size() != kNonceBytes) {
    return fail(Code::kCorrupt, "the hello has no nonce of 16 bytes");
  }
  wire::Challenge challenge;
  challenge.set_version(kProtocolVersion);
  challenge.set_node_high(self_.node.high);
  challenge.set_node_low(self_.node.low);
  challenge.set_nonce(bytes_of(options_.nonce));
  challenge.set_proof(prove(Role::kAnswerer));
  challenge.set_wall_ms(options_.wall_ms);
  challenge.set_requests_max(options_.requests_max);
  for (const std::string& address : self_.further) challenge.add_further(address);
  append_frame_of(FrameType::kChallenge, challenge.SerializeAsString(), out);
  state_ = State::kProof;
  return {};
}

Status Handshake::on_challenge(std::string_view body, std::string& out) {
  wire::Challenge challenge;
  if (!parse(challenge, body) || challenge.nonce().size() != kNonceBytes) {
    return fail(Code::kCorrupt, "the challenge cannot be read");
  }
  peer_.node = {challenge.node_high(), challenge.node_low()};
  peer_.wall_ms = challenge.wall_ms();
  // Nobody makes us keep a table of any size: requests beyond this wait.
  peer_.requests_max = std::clamp<uint32_t>(challenge.requests_max(), 1, 65536);
  peer_nonce_ = challenge.nonce();
  SHOAL_RETURN_IF_ERROR(check_proof(challenge.proof(), Role::kAnswerer));
  peer_.further.assign(challenge.further().begin(), challenge.further().end());
  SHOAL_RETURN_IF_ERROR(check_further_addresses(peer_.further));
  wire::Proof proof;
  proof.set_proof(prove(Role::kCaller));
  append_frame_of(FrameType::kProof, proof.SerializeAsString(), out);
  state_ = State::kWelcome;
  return {};
}

Status Handshake::on_proof(std::string_view body, std::string& out) {
  wire::Proof proof;
  if (!parse(proof, body)) return fail(Code::kCorrupt, "the proof cannot be read");
  SHOAL_RETURN_IF_ERROR(check_proof(proof.proof(), Role::kCaller));
  append_frame_of(FrameType::kWelcome, {}, out);
  state_ = State::kDone;
  return {};
}

Status Handshake::check_proof(std::string_view proof, Role prover) const {
  if (self_.key.empty() && proof.empty()) return {};
  if (self_.key.empty()) {
    return fail(Code::kUnauthenticated,
                fmt::format("{} has no key for cluster '{}', {} has one: give both the same key",
                            name_of(self_.node), self_.cluster, name_of(peer_.node)));
  }
  if (proof.empty()) {
    return fail(Code::kUnauthenticated,
                fmt::format("{} has no key for cluster '{}', {} has one: give both the same key",
                            name_of(peer_.node), self_.cluster, name_of(self_.node)));
  }
  std::string right = prove(prover);
  if (proof.size() != right.size() ||
      CRYPTO_memcmp(proof.data(), right.data(), right.size()) != 0) {
    return fail(Code::kUnauthenticated,
                fmt::format("{} and {} have different keys for cluster '{}'", name_of(peer_.node),
                            name_of(self_.node), self_.cluster));
  }
  return {};
}

std::string Handshake::prove(Role prover) const {
  if (self_.key.empty()) return {};
  bool caller = role_ == Role::kCaller;
  std::string own_nonce = bytes_of(options_.nonce);
  std::string text = "shoal handshake";
  text += static_cast<char>(kProtocolVersion);
  text += prover == Role::kCaller ? 'C' : 'A';
  text += static_cast<char>(self_.cluster.size());  // at most 255
  text += self_.cluster;
  text += bytes_of(caller ? self_.node : peer_.node);
  text += bytes_of(caller ? peer_.node : self_.node);
  text += caller ? own_nonce : peer_nonce_;
  text += caller ? peer_nonce_ : own_nonce;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  const unsigned char* made =
      HMAC(EVP_sha256(), self_.key.data(), static_cast<int>(self_.key.size()),
           reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &size);
  SHOAL_ASSERT(made != nullptr && size == kProofBytes, "HMAC-SHA256 failed");
  return {reinterpret_cast<const char*>(digest), size};
}

}  // namespace shoal
