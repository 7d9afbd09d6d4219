// The first frames of every connection: who talks, and whether they may.
//
//   caller                                       answerer
//   kHello: version, cluster, node, origin,
//     incarnation, nonce, clock            ->
//                                          <-    kChallenge: node, nonce, proof, clock, limit,
//                                                  further addresses
//   kProof: proof                          ->
//                                          <-    kWelcome
//
// or, from either side instead of its frame, kRefused with the reason; the stream then ends. A
// proof is HMAC-SHA256 with the cluster's key over both nonces, both nodes, the cluster and the
// prover's role, so that none can be used a second time, by the other side, or between two others.
// Both sides prove. An empty key means that nobody has to; a side with a key does not talk to one
// without.
//
// A pure state machine: bytes in, bytes out; no socket, clock or chance. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "wire/frame.h"

namespace shoal {

struct HandshakeIdentity {
  std::string cluster;  // at most 255 bytes
  std::string origin;   // at most 2 KiB; empty: a client that has none
  Hash128 node;         // zero: a client, no member
  uint64_t incarnation = 0;
  std::string key;  // empty: no authentication
  // An answerer's addresses beside the one that is dialled; of checked form.
  std::vector<std::string> further = {};
};

struct HandshakeOptions {
  std::string peer;           // how messages call the other end, e.g. its address
  Hash128 nonce;              // random, of this connection only
  int64_t wall_ms = 0;        // our clock, since 1970
  uint32_t requests_max = 0;  // answerer: how many requests the caller may have in flight
};

// What the other side said; what it proved, if there is a key.
struct HandshakePeer {
  Hash128 node;  // zero: a client
  uint64_t incarnation = 0;
  int64_t wall_ms = 0;                    // its clock when it wrote
  uint32_t requests_max = 0;              // told by an answerer; at least 1
  std::vector<std::string> further = {};  // told by an answerer; checked
};

class Handshake {
 public:
  enum class Role { kCaller, kAnswerer };

  // `out` gets what is to be sent first: the caller's hello.
  Handshake(Role role, HandshakeIdentity self, HandshakeOptions options, std::string& out);

  // Looks at the next bytes of the stream and says how many of them it has used; 0: more are
  // needed. Never uses bytes behind the handshake's end. `out` gets what is to be sent now. An
  // error ends the handshake: send what is in `out` (a refusal, perhaps nothing), then close.
  // Codes: kNotSupported (version), kConflict (cluster, origin), kUnauthenticated (key), kCorrupt
  // (no handshake), or what a refusing peer said.
  Result<size_t> take(ConstByteSpan bytes, std::string& out);
  bool done() const { return state_ == State::kDone; }
  const HandshakePeer& peer() const { return peer_; }

 private:
  enum class State { kHello, kChallenge, kProof, kWelcome, kDone, kFailed };

  Status handle(const FrameHeader& header, std::string_view body, std::string& out);
  Status on_hello(std::string_view body, uint8_t version, std::string& out);
  Status on_challenge(std::string_view body, std::string& out);
  Status on_proof(std::string_view body, std::string& out);
  Status check_proof(std::string_view proof, Role prover) const;
  std::string prove(Role prover) const;

  Role role_;
  State state_;
  HandshakeIdentity self_;
  HandshakeOptions options_;
  HandshakePeer peer_;
  std::string peer_nonce_;
};

// A whole kRefused frame, readable by every version.
std::string encode_refusal(const Error& error);
// What a kRefused frame at the beginning of `bytes` says; nothing: more bytes are needed. kCorrupt:
// they are something else.
Result<std::optional<Error>> decode_refusal(ConstByteSpan bytes, const std::string& peer);

}  // namespace shoal
