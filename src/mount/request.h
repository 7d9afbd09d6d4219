// One message of the kernel, taken apart. Pure: bytes in, fields out. The kernel is trusted to mean
// well, but every length is checked against the bytes at hand, so that no message can make us read
// outside them.
#pragma once

#include <cstdint>
#include <expected>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "mount/fuse_abi.h"

namespace shoal::fuse {

// Flat: each opcode fills what it has, the rest stays zero. Views point into the message.
struct Request {
  Opcode opcode{};
  uint64_t unique = 0;
  uint64_t node = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t pid = 0;

  uint64_t handle = 0;
  uint64_t offset = 0;  // also the cookie of READDIR
  uint64_t length = 0;  // FALLOCATE
  uint32_t size = 0;    // bytes that an answer may have, or that WRITE brings
  uint32_t flags = 0;   // open, rename, xattr, fsync and write flags, each of its own kind
  uint32_t mode = 0;    // also lseek's whence
  uint32_t umask = 0;
  uint64_t new_parent = 0;
  uint64_t lookups = 0;  // FORGET
  uint64_t target = 0;   // INTERRUPT: the unique of whom
  SetattrIn setattr{};
  std::string_view name;
  std::string_view name2;  // RENAME: new name; SYMLINK: target
  ConstByteSpan payload;   // WRITE's bytes, SETXATTR's value
  std::vector<ForgetOne> forgets;
};

// Reads just the header of a message; nothing if it is shorter than one or lies about its length.
bool parse_header(ConstByteSpan message, InHeader& header);

// The whole message. The error is a positive errno to answer with; `header` must be valid (EIO when
// the message is malformed).
std::expected<Request, int> parse_request(ConstByteSpan message);

// INIT, of either length. False if malformed.
bool parse_init(ConstByteSpan message, InitIn& init);

// Requests that need no file system to be answered: the errno to answer with, else 0.
int refused(const Request& request);

}  // namespace shoal::fuse
