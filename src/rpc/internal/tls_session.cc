#include "rpc/internal/tls_session.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "async/disk_io.h"
#include "async/net_io.h"
#include "rpc/internal/net_error.h"
#include "rpc/internal/tls_bio.h"
#include "wire/error_code.h"

namespace shoal {

namespace {

constexpr size_t kSmallBytes = 4 * kKiB;
constexpr size_t kBusyBytes = 64 * kKiB;
constexpr size_t kLargeBytes = 256 * kKiB;
constexpr size_t kPlainBytesMax = 16 * kKiB;  // of one record
constexpr size_t kRecordBytesMax = kPlainBytesMax + 256;
constexpr std::byte kHandshakeRecord{0x16};
constexpr std::byte kClientHello{1};
// Of who has not shown yet that it knows the key. A caller's first message has some 300 bytes.
constexpr size_t kFirstMessageBytesMax = 4 * kKiB;
constexpr size_t kHandshakeBytesInMax = 16 * kKiB;
// Records in a row that bring nothing (new keys): more only keep us busy.
constexpr uint32_t kBarrenRecordsMax = 16;
// What OpenSSL may want to say by itself (new keys) while nothing is sent.
constexpr size_t kUnaskedBytesMax = 64 * kKiB;

bool is_about_keys(unsigned long code) {
  int reason = ERR_GET_REASON(code);
  bool told_by_peer = reason >= SSL_AD_REASON_OFFSET;
  return told_by_peer || reason == SSL_R_BINDER_DOES_NOT_VERIFY ||
         reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM || reason == SSL_R_NO_SHARED_CIPHER ||
         reason == SSL_R_CERTIFICATE_VERIFY_FAILED;
}

// Whether a caller's first message is there as a whole. It comes in one record: so no state is
// kept, and no memory taken because a header claims it, for who cannot show the key at once.
Result<bool> has_first_message(ConstByteSpan bytes) {
  auto byte = [&bytes](size_t i) { return std::to_integer<size_t>(bytes[i]); };
  constexpr size_t kRecordHeader = 5;
  constexpr size_t kMessageHeader = 4;
  if (bytes.size() < kRecordHeader + kMessageHeader) return false;
  size_t record = byte(3) << 8 | byte(4);
  size_t message = byte(6) << 16 | byte(7) << 8 | byte(8);
  if (byte(1) != 3 || bytes[5] != kClientHello || record != message + kMessageHeader ||
      record > kFirstMessageBytesMax) {
    return fail(Code::kCorrupt, "these bytes are no TLS");
  }
  return bytes.size() >= kRecordHeader + record;
}

Error has_another_key(const std::string& peer, std::string_view why) {
  return {Code::kUnauthenticated,
          fmt::format("{}: TLS failed ({}): it has another key: check --cluster and the address",
                      peer, why)};
}

}  // namespace

// The functions that OpenSSL calls.
struct TlsBio {
  static TlsSession& session(BIO* bio) { return *static_cast<TlsSession*>(BIO_get_data(bio)); }
  static int read(BIO* bio, char* into, int length) {
    TlsSession& self = session(bio);
    BIO_clear_retry_flags(bio);
    size_t bytes = std::min(self.end_ - self.begin_, static_cast<size_t>(std::max(length, 0)));
    if (bytes == 0) {
      BIO_set_retry_read(bio);
      return -1;
    }
    std::memcpy(into, self.in_.data() + self.begin_, bytes);
    self.begin_ += bytes;
    return static_cast<int>(bytes);
  }
  static int write(BIO* bio, const char* from, int length) {
    BIO_clear_retry_flags(bio);
    session(bio).out_.append(from, static_cast<size_t>(length));
    return length;
  }
  static long control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
    return command == BIO_CTRL_FLUSH ? 1 : 0;
  }
};

BIO_METHOD* make_tls_bio_method() {
  BIO_METHOD* method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "shoal stream");
  if (method == nullptr) return nullptr;
  BIO_meth_set_read(method, TlsBio::read);
  BIO_meth_set_write(method, TlsBio::write);
  BIO_meth_set_ctrl(method, TlsBio::control);
  return method;
}

void free_tls_bio_method(BIO_METHOD* method) { BIO_meth_free(method); }

TlsSession::TlsSession(TlsContext& context, World& world, SocketId socket, std::string peer,
                       Handshake::Role role)
    : context_(context), world_(world), socket_(socket), peer_(std::move(peer)), role_(role) {}

void TlsSession::begin() {
  ssl_ = SSL_new(context_.native());
  BIO* bio = BIO_new(context_.method());
  SHOAL_ASSERT(ssl_ != nullptr && bio != nullptr, "no memory for TLS");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_, bio, bio);
  if (role_ == Handshake::Role::kCaller) {
    // One that shows a certificate instead of knowing the key is nobody's.
    SSL_set_verify(ssl_, SSL_VERIFY_PEER, nullptr);
    SSL_set_connect_state(ssl_);
  } else {
    SSL_set_accept_state(ssl_);
  }
}

TlsSession::~TlsSession() {
  SHOAL_ASSERT(!sending_now_ && !reading_file_, "the kernel still uses a session's memory");
  SSL_free(ssl_);
}

Task<Status> TlsSession::shake(Context context) {
  bool answers = role_ == Handshake::Role::kAnswerer;
  if (answers) SHOAL_CO_RETURN_IF_ERROR(co_await check_first_message(context));
  begin();
  while (true) {
    ERR_clear_error();
    int result = SSL_do_handshake(ssl_);
    std::optional<Error> failed;
    if (result != 1 && SSL_get_error(ssl_, result) != SSL_ERROR_WANT_READ) failed = failure();
    // A caller's first message shows the key; or it asks for another round: no state for such.
    bool shown = !answers || SSL_session_reused(ssl_) == 1;
    if (!failed && !shown) co_return fail(has_another_key(peer_, "it did not show the key"));
    int64_t sent = co_await flush(context);  // also what tells the peer why it failed
    if (failed) co_return fail(std::move(*failed));
    if (sent < 0) co_return fail(net_error(peer_, sent, "sending"));
    if (result == 1) break;
    bool first = taken_ == 0;
    SHOAL_CO_RETURN_IF_ERROR(co_await fetch_handshake(context));
    // Without TLS.
    bool plain = first && unread()[0] == std::byte{'S'};
    if (plain) co_return co_await read_refusal(context);
  }
  if (SSL_version(ssl_) != TLS1_3_VERSION || SSL_session_reused(ssl_) != 1) {
    co_return fail(has_another_key(peer_, "it did not show the key"));
  }
  shaken_ = true;
  co_return Status();
}

Task<Status> TlsSession::fetch_handshake(Context context) {
  int64_t came = co_await fetch(1, context);
  if (came == 0) came = -EPIPE;
  if (came < 0) {
    co_return fail(net_error(peer_, came, "receiving").with_context("during the TLS handshake"));
  }
  taken_ += static_cast<size_t>(came);
  if (taken_ > kHandshakeBytesInMax) {
    co_return fail(Code::kCorrupt, peer_ + ": the TLS handshake does not end");
  }
  co_return Status();
}

// A caller that speaks without TLS can be told so in words that it understands.
Task<Status> TlsSession::check_first_message(Context context) {
  while (true) {
    SHOAL_CO_RETURN_IF_ERROR(co_await fetch_handshake(context));
    if (unread()[0] != kHandshakeRecord) break;
    auto whole = has_first_message(unread());
    if (!whole) co_return fail(std::move(whole).error().with_context(peer_));
    if (*whole) co_return Status();
  }
  if (unread()[0] != std::byte{'S'}) {
    co_return fail(Code::kCorrupt, peer_ + ": these bytes are no TLS");
  }
  out_ = encode_refusal(Error(Code::kUnauthenticated,
                              "this node speaks TLS, the caller does not: start all nodes of the "
                              "cluster with --tls, or none"));
  (void)co_await flush(context);
  co_return fail(Code::kUnauthenticated,
                 peer_ +
                     ": it does not speak TLS, this node does: start all nodes of the cluster "
                     "with --tls, or none");
}

// Anybody on the way can have written it: of its codes only these count.
Task<Status> TlsSession::read_refusal(Context context) {
  while (true) {
    SHOAL_CO_ASSIGN_OR_RETURN(auto refusal, decode_refusal(unread(), peer_));
    if (refusal.has_value()) {
      bool busy = refusal->code() == Code::kBusy;
      co_return fail(busy ? Code::kBusy : Code::kUnauthenticated, refusal->message());
    }
    SHOAL_CO_RETURN_IF_ERROR(co_await fetch_handshake(context));
  }
}

Error TlsSession::failure() const {
  unsigned long code = ERR_peek_error();
  const char* reason = ERR_reason_error_string(code);
  std::string text = reason != nullptr ? reason : "no reason given";
  if (is_about_keys(code)) return has_another_key(peer_, text);
  return {Code::kCorrupt, fmt::format("{}: TLS failed: {}", peer_, text)};
}

// Receives something behind what is unread. `wanted`: so many bytes of plaintext are missing.
Task<int64_t> TlsSession::fetch(uint64_t wanted, Context context) {
  make_room(wanted);
  NetCall call(world_.network, world_.executor, NetOp::Kind::kReceive, context);
  call.socket = socket_;
  call.data = in_.data() + end_;
  call.length = in_.size() - end_;
  // OpenSSL may hold the most of one record already.
  if (wanted > 2 * kRecordBytesMax) {
    call.minimum = std::min<uint64_t>(wanted - kRecordBytesMax, call.length);
  }
  int64_t result = co_await call;
  if (result > 0) end_ += static_cast<size_t>(result);
  busy_ = shaken_ && result == static_cast<int64_t>(call.length);
  co_return result;
}

void TlsSession::make_room(uint64_t wanted) {
  size_t there = end_ - begin_;
  if (there > 0) {
    // Of a first message: OpenSSL takes all else at once.
    SHOAL_ASSERT(!shaken_);
    if (end_ < in_.size()) return;
    Buffer other(there + kSmallBytes);
    std::memcpy(other.data(), in_.data() + begin_, there);
    in_ = std::move(other);
  } else {
    bool small = wanted <= kSmallBytes && !busy_;
    size_t room = small ? kSmallBytes : wanted <= kSmallBytes ? kBusyBytes : kLargeBytes;
    // Between two frames of payload the memory stays.
    bool shrink = small && calm_ && in_.size() > room;
    if (shrink || in_.size() < room) in_ = Buffer(room);
  }
  begin_ = 0;
  end_ = there;
}

Task<int64_t> TlsSession::receive(std::byte* data, uint64_t length, uint64_t minimum,
                                  Context context) {
  SHOAL_ASSERT(shaken_ && minimum >= 1 && minimum <= length);
  uint64_t done = 0;
  while (true) {
    while (done < length) {
      size_t bytes = 0;
      ERR_clear_error();
      int result = SSL_read_ex(ssl_, data + done, length - done, &bytes);
      done += bytes;
      if (result == 1) {
        barren_ = 0;
        continue;
      }
      int why = SSL_get_error(ssl_, result);
      if (why == SSL_ERROR_ZERO_RETURN) co_return static_cast<int64_t>(done);
      if (why != SSL_ERROR_WANT_READ || out_.size() > kUnaskedBytesMax) co_return -EBADMSG;
      if (unread().empty()) break;
      if (++barren_ > kBarrenRecordsMax) co_return -EBADMSG;
    }
    if (done >= minimum) break;
    int64_t came = co_await fetch(minimum - done, context);
    if (came == 0) break;
    if (came < 0) co_return came;
  }
  // Of a payload, little (a header) and much take turns; little twice in a row is behind its end.
  calm_ = minimum <= kSmallBytes;
  co_return static_cast<int64_t>(done);
}

bool TlsSession::encrypt(ConstByteSpan bytes) {
  SHOAL_ASSERT(shaken_, "nothing but the handshake goes before its end");
  if (bytes.empty()) return true;
  ERR_clear_error();
  uint64_t records = (bytes.size() + kPlainBytesMax - 1) / kPlainBytesMax;
  if (key_records_ + records > context_.key_records_max) {
    if (SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return false;
    key_records_ = 0;
    ++context_.key_changes;
  }
  key_records_ += records;
  size_t written = 0;
  bool done = SSL_write_ex(ssl_, bytes.data(), bytes.size(), &written) == 1;
  return done && written == bytes.size();
}

Task<int64_t> TlsSession::flush(Context context) {
  SHOAL_ASSERT(!sending_now_, "one send at a time");
  if (out_.empty()) co_return 0;
  // What OpenSSL writes while these are on their way goes behind them.
  sending_.clear();
  std::swap(out_, sending_);
  std::array<ConstByteSpan, 1> parts = {as_bytes(sending_)};
  NetCall call(world_.network, world_.executor, NetOp::Kind::kSend, context);
  call.socket = socket_;
  call.parts = parts;
  sending_now_ = true;
  int64_t result = co_await call;
  sending_now_ = false;
  sending_.clear();
  if (out_.empty()) std::swap(out_, sending_);  // one of them keeps memory
  co_return result;
}

Task<int64_t> TlsSession::send(std::span<const ConstByteSpan> parts, Context context) {
  uint64_t total = 0;
  for (ConstByteSpan part : parts) {
    total += part.size();
    if (part.size() > kBusyBytes) out_.reserve(kLargeBytes + kRecordBytesMax);
    while (!part.empty()) {
      size_t room = kLargeBytes - std::min(out_.size(), kLargeBytes - 1);
      ConstByteSpan now = part.first(std::min(part.size(), room));
      if (!encrypt(now)) co_return -EBADMSG;
      part = part.subspan(now.size());
      if (out_.size() < kLargeBytes) continue;
      int64_t result = co_await flush(context);
      if (result < 0) co_return result;
    }
  }
  int64_t result = co_await flush(context);
  co_return result < 0 ? result : static_cast<int64_t>(total);
}

// No sendfile: the bytes must pass through memory to be encrypted.
Task<int64_t> TlsSession::send_file(FileId file, uint64_t offset, uint64_t length,
                                    Context context) {
  for (uint64_t done = 0; done < length;) {
    if (file_.empty()) file_ = Buffer(kLargeBytes);
    ByteSpan into = file_.part(0, std::min<uint64_t>(length - done, file_.size()));
    reading_file_ = true;
    auto read = co_await disk_io::read_some(world_.disk, file, offset + done, into);
    reading_file_ = false;
    if (!read) co_return -EIO;
    if (*read == 0) co_return -ENODATA;
    std::array<ConstByteSpan, 1> parts = {into.first(*read)};
    int64_t result = co_await send(parts, context);
    if (result < 0) co_return result;
    done += *read;
  }
  co_return static_cast<int64_t>(length);
}

void TlsSession::release_idle_memory() {
  if (sending_now_ || reading_file_) return;
  if (out_.empty()) std::string().swap(out_);  // assigning would keep the memory
  std::string().swap(sending_);
  file_ = Buffer();
}

}  // namespace shoal
