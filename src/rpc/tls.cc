#include "rpc/tls.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>

#include <cstring>
#include <memory>

#include "rpc/internal/tls_bio.h"

namespace shoal {

namespace {

// Says nothing of the cluster: it crosses the wire in the clear.
constexpr std::string_view kIdentity = "shoal psk 1";
constexpr const char* kCipher = "TLS_AES_128_GCM_SHA256";
constexpr unsigned char kCipherId[2] = {0x13, 0x01};
constexpr size_t kPskBytes = 32;

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* it) const {
    kFree(it);
  }
};
using Kdf = std::unique_ptr<EVP_KDF, Freer<EVP_KDF_free>>;
using KdfContext = std::unique_ptr<EVP_KDF_CTX, Freer<EVP_KDF_CTX_free>>;
using Session = std::unique_ptr<SSL_SESSION, Freer<SSL_SESSION_free>>;

// HKDF-SHA256 of the cluster's key: what is used here is of no use for the handshake's proofs.
bool derive(std::string_view key, std::string& out) {
  Kdf kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  KdfContext context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  if (!context) return false;
  std::string digest = "SHA256";
  std::string secret(key);
  std::string salt = "shoal tls";
  std::string info = "psk 1";
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret.data(), secret.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt.data(), salt.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end()};
  out.resize(kPskBytes);
  auto* bytes = reinterpret_cast<unsigned char*>(out.data());
  bool done = EVP_KDF_derive(context.get(), bytes, out.size(), parameters) == 1;
  OPENSSL_cleanse(secret.data(), secret.size());
  return done;
}

const TlsContext& context_of(SSL* ssl) {
  return *static_cast<const TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

// OpenSSL speaks of an external key as of a session that is taken up again.
Session make_session(SSL* ssl) {
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kCipherId);
  Session session(SSL_SESSION_new());
  std::string_view psk = context_of(ssl).psk();
  auto* bytes = reinterpret_cast<const unsigned char*>(psk.data());
  bool made = session && cipher != nullptr &&
              SSL_SESSION_set1_master_key(session.get(), bytes, psk.size()) == 1 &&
              SSL_SESSION_set_cipher(session.get(), cipher) == 1 &&
              SSL_SESSION_set_protocol_version(session.get(), TLS1_3_VERSION) == 1;
  return made ? std::move(session) : nullptr;
}

int use_psk(SSL* ssl, const EVP_MD* digest, const unsigned char** id, size_t* id_bytes,
            SSL_SESSION** session) {
  *session = nullptr;
  *id = nullptr;
  *id_bytes = 0;
  if (digest != nullptr && EVP_MD_is_a(digest, "SHA256") != 1) return 1;  // none for this one
  Session made = make_session(ssl);
  if (!made) return 0;
  *id = reinterpret_cast<const unsigned char*>(kIdentity.data());
  *id_bytes = kIdentity.size();
  *session = made.release();
  return 1;
}

int find_psk(SSL* ssl, const unsigned char* id, size_t id_bytes, SSL_SESSION** session) {
  *session = nullptr;
  if (std::string_view(reinterpret_cast<const char*>(id), id_bytes) != kIdentity) return 1;
  Session made = make_session(ssl);
  if (!made) return 0;
  *session = made.release();
  return 1;
}

}  // namespace

Result<std::unique_ptr<TlsContext>> TlsContext::make(std::string_view cluster_key) {
  if (cluster_key.empty()) {
    return fail(Code::kInvalidArgument,
                "TLS needs the key of the cluster; give --cluster-key-file");
  }
  std::unique_ptr<TlsContext> self(new TlsContext());
  self->method_ = make_tls_bio_method();
  self->context_ = SSL_CTX_new(TLS_method());
  SSL_CTX* context = self->context_;
  bool made = self->method_ != nullptr && context != nullptr && derive(cluster_key, self->psk_) &&
              SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
              SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
              SSL_CTX_set_ciphersuites(context, kCipher) == 1 &&
              SSL_CTX_set_num_tickets(context, 0) == 1 &&
              SSL_CTX_set_max_early_data(context, 0) == 1 &&
              SSL_CTX_set_recv_max_early_data(context, 0) == 1;
  if (!made) {
    const char* reason = ERR_reason_error_string(ERR_get_error());
    return fail(Code::kNotSupported,
                fmt::format("OpenSSL does not do TLS 1.3 with a shared key: {}",
                            reason != nullptr ? reason : "no reason given"));
  }
  SSL_CTX_set_app_data(context, self.get());
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  // A read returns after each record, so that sessions can count those that bring nothing.
  SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
  SSL_CTX_set_psk_use_session_callback(context, use_psk);
  SSL_CTX_set_psk_find_session_callback(context, find_psk);
  return self;
}

TlsContext::~TlsContext() {
  OPENSSL_cleanse(psk_.data(), psk_.size());
  SSL_CTX_free(context_);
  free_tls_bio_method(method_);
}

}  // namespace shoal
