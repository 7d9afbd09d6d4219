// TLS over one stream: the same operations as the Network's, with records between. OpenSSL sees
// memory only; all I/O is the shard's. Bounded: while payload passes 256 KiB each way, as much
// again when it is from a file; 4 KiB and OpenSSL's own state when idle. Who has not shown the key
// gets 8 KiB: an answerer makes OpenSSL's state when a caller's first message is there, and keeps
// it if that shows the key.
//
// As with a Network, one receive and one send at a time. Shard's thread.
#pragma once

#include <span>
#include <string>

#include "async/context.h"
#include "async/task.h"
#include "base/bytes.h"
#include "rpc/tls.h"
#include "wire/handshake.h"
#include "world/world.h"

struct ssl_st;
struct bio_st;

namespace shoal {

class TlsSession {
 public:
  TlsSession(TlsContext& context, World& world, SocketId socket, std::string peer,
             Handshake::Role role);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  // Once, before all others. kUnauthenticated: the peer has another key, or speaks without TLS (it
  // is told why); kCorrupt: this is no TLS; kUnavailable: it ended.
  Task<Status> shake(Context context);

  // As the NetOps of these names; -EBADMSG: what came is no right record.
  Task<int64_t> receive(std::byte* data, uint64_t length, uint64_t minimum, Context context);
  Task<int64_t> send(std::span<const ConstByteSpan> parts, Context context);
  Task<int64_t> send_file(FileId file, uint64_t offset, uint64_t length, Context context);

  // Bytes in buffers of this class.
  size_t capacity() const {
    return in_.size() + out_.capacity() + sending_.capacity() + file_.size();
  }
  void release_idle_memory();

 private:
  friend struct TlsBio;

  Task<int64_t> fetch(uint64_t wanted, Context context);
  void make_room(uint64_t wanted);
  Task<int64_t> flush(Context context);
  void begin();
  Task<Status> fetch_handshake(Context context);
  Task<Status> check_first_message(Context context);
  Task<Status> read_refusal(Context context);
  bool encrypt(ConstByteSpan bytes);
  Error failure() const;
  ConstByteSpan unread() const { return in_.part(begin_, end_ - begin_); }

  TlsContext& context_;
  World& world_;
  const SocketId socket_;
  const std::string peer_;
  const Handshake::Role role_;
  ssl_st* ssl_ = nullptr;  // null until begin()
  Buffer in_;              // bytes [begin_, end_) have come and not gone to OpenSSL yet
  size_t begin_ = 0;
  size_t end_ = 0;
  std::string out_;      // records that wait
  std::string sending_;  // records on their way to the kernel
  Buffer file_;          // of a file that is being sent
  uint64_t key_records_ = 0;
  size_t taken_ = 0;     // bytes of the handshake
  uint32_t barren_ = 0;  // records since the last that brought something
  bool shaken_ = false;  // the handshake is done
  bool busy_ = false;    // what was fetched last filled the buffer
  bool calm_ = false;    // the last receive was for little
  bool sending_now_ = false;
  bool reading_file_ = false;
};

}  // namespace shoal
