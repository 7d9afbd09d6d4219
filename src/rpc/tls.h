// TLS 1.3 between nodes, for clusters that want their bytes encrypted: what all connections of a
// process share. The key of the cluster, which its nodes have anyway, is the pre-shared key (by way
// of HKDF), always with a fresh Diffie-Hellman exchange: no certificates, and who learns the key
// later cannot read what was recorded.
//
// Not here: one connection's state (internal/tls_session.h). Shard's thread; outlives all sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

struct ssl_ctx_st;
struct bio_method_st;

namespace shoal {

class TlsContext {
 public:
  // kInvalidArgument without a key; kNotSupported when OpenSSL offers no TLS 1.3.
  static Result<std::unique_ptr<TlsContext>> make(std::string_view cluster_key);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // Sessions change their keys after so many records sent: AES-GCM must not protect more than
  // 2^24.5 with one. At most 64 GiB.
  uint64_t key_records_max = uint64_t{1} << 22;
  uint64_t key_changes = 0;  // by all sessions

  // For sessions.
  ssl_ctx_st* native() const { return context_; }
  const bio_method_st* method() const { return method_; }
  std::string_view psk() const { return psk_; }

 private:
  TlsContext() = default;

  ssl_ctx_st* context_ = nullptr;
  bio_method_st* method_ = nullptr;
  std::string psk_;
};

}  // namespace shoal
