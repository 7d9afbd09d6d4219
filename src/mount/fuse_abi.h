// The kernel's FUSE protocol as it lies in memory, up to 7.45. Written from the protocol's facts
// because Debian 12 ships the headers of 7.38. All integers are in the machine's byte order; every
// layout is pinned by a static_assert.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace shoal::fuse {

inline constexpr uint32_t kMajor = 7;
inline constexpr uint32_t kMinor = 45;
inline constexpr uint32_t kMinorMin = 31;  // Linux 5.4: MAX_PAGES, CACHE_SYMLINKS, no surprises

enum class Opcode : uint32_t {
  kLookup = 1,
  kForget = 2,  // no reply
  kGetattr = 3,
  kSetattr = 4,
  kReadlink = 5,
  kSymlink = 6,
  kMknod = 8,
  kMkdir = 9,
  kUnlink = 10,
  kRmdir = 11,
  kRename = 12,
  kLink = 13,
  kOpen = 14,
  kRead = 15,
  kWrite = 16,
  kStatfs = 17,
  kRelease = 18,
  kFsync = 20,
  kSetxattr = 21,
  kGetxattr = 22,
  kListxattr = 23,
  kRemovexattr = 24,
  kFlush = 25,
  kInit = 26,
  kOpendir = 27,
  kReaddir = 28,
  kReleasedir = 29,
  kFsyncdir = 30,
  kGetlk = 31,
  kSetlk = 32,
  kSetlkw = 33,
  kAccess = 34,
  kCreate = 35,
  kInterrupt = 36,  // no reply unless it is to be repeated
  kBmap = 37,
  kDestroy = 38,
  kIoctl = 39,
  kPoll = 40,
  kNotifyReply = 41,  // no reply
  kBatchForget = 42,  // no reply
  kFallocate = 43,
  kReaddirplus = 44,
  kRename2 = 45,
  kLseek = 46,
  kCopyFileRange = 47,
  kSetupmapping = 48,
  kRemovemapping = 49,
  kSyncfs = 50,
  kTmpfile = 51,
  kStatx = 52,
};

// INIT flags; bits 32 and up travel in flags2.
inline constexpr uint64_t kInitAsyncRead = 1ull << 0;
inline constexpr uint64_t kInitAtomicTruncate = 1ull << 3;
inline constexpr uint64_t kInitBigWrites = 1ull << 5;
inline constexpr uint64_t kInitReaddirplus = 1ull << 13;
inline constexpr uint64_t kInitReaddirplusAuto = 1ull << 14;
inline constexpr uint64_t kInitAsyncDirectIo = 1ull << 15;
inline constexpr uint64_t kInitParallelDirectoryOps = 1ull << 18;
inline constexpr uint64_t kInitMaxPages = 1ull << 22;
inline constexpr uint64_t kInitCacheSymlinks = 1ull << 23;
inline constexpr uint64_t kInitHandleKillPrivV2 = 1ull << 28;
inline constexpr uint64_t kInitExt = 1ull << 30;  // flags2 is valid
inline constexpr uint64_t kInitDirectIoAllowMmap = 1ull << 36;
inline constexpr uint64_t kInitPassthrough = 1ull << 37;

// Flags of an OPEN or CREATE answer.
inline constexpr uint32_t kOpenDirectIo = 1u << 0;
inline constexpr uint32_t kOpenKeepCache = 1u << 1;
inline constexpr uint32_t kOpenNoFlush = 1u << 5;
inline constexpr uint32_t kOpenPassthrough = 1u << 7;

// SetattrIn.valid.
inline constexpr uint32_t kSetMode = 1u << 0;
inline constexpr uint32_t kSetUid = 1u << 1;
inline constexpr uint32_t kSetGid = 1u << 2;
inline constexpr uint32_t kSetSize = 1u << 3;
inline constexpr uint32_t kSetAtime = 1u << 4;
inline constexpr uint32_t kSetMtime = 1u << 5;
inline constexpr uint32_t kSetHandle = 1u << 6;
inline constexpr uint32_t kSetAtimeNow = 1u << 7;
inline constexpr uint32_t kSetMtimeNow = 1u << 8;
inline constexpr uint32_t kSetKillSuidGid = 1u << 11;

inline constexpr uint32_t kWriteKillSuidGid = 1u << 2;  // WriteIn.write_flags
inline constexpr uint32_t kFsyncDataOnly = 1u << 0;     // FsyncIn.fsync_flags

struct InHeader {
  uint32_t length;
  uint32_t opcode;
  uint64_t unique;
  uint64_t node;
  uint32_t uid;
  uint32_t gid;
  uint32_t pid;
  uint16_t extension_words;  // of 8 bytes, at the end of the message
  uint16_t padding;
};
static_assert(sizeof(InHeader) == 40);

struct OutHeader {
  uint32_t length;
  int32_t error;  // 0 or -errno
  uint64_t unique;
};
static_assert(sizeof(OutHeader) == 16);

struct Attr {
  uint64_t ino;
  uint64_t size;
  uint64_t blocks;  // of 512 bytes
  uint64_t atime;
  uint64_t mtime;
  uint64_t ctime;
  uint32_t atime_ns;
  uint32_t mtime_ns;
  uint32_t ctime_ns;
  uint32_t mode;
  uint32_t links;
  uint32_t uid;
  uint32_t gid;
  uint32_t rdev;
  uint32_t block_size;
  uint32_t flags;
};
static_assert(sizeof(Attr) == 88);

struct EntryOut {
  uint64_t node;
  uint64_t generation;
  uint64_t entry_valid;
  uint64_t attr_valid;
  uint32_t entry_valid_ns;
  uint32_t attr_valid_ns;
  Attr attr;
};
static_assert(sizeof(EntryOut) == 128);

struct AttrOut {
  uint64_t valid;
  uint32_t valid_ns;
  uint32_t padding;
  Attr attr;
};
static_assert(sizeof(AttrOut) == 104);

struct ForgetIn {
  uint64_t lookups;
};
static_assert(sizeof(ForgetIn) == 8);

struct BatchForgetIn {
  uint32_t count;
  uint32_t padding;
};
static_assert(sizeof(BatchForgetIn) == 8);

struct ForgetOne {
  uint64_t node;
  uint64_t lookups;
};
static_assert(sizeof(ForgetOne) == 16);

struct GetattrIn {
  uint32_t flags;
  uint32_t padding;
  uint64_t handle;
};
static_assert(sizeof(GetattrIn) == 16);

struct SetattrIn {
  uint32_t valid;
  uint32_t padding;
  uint64_t handle;
  uint64_t size;
  uint64_t lock_owner;
  uint64_t atime;
  uint64_t mtime;
  uint64_t ctime;
  uint32_t atime_ns;
  uint32_t mtime_ns;
  uint32_t ctime_ns;
  uint32_t mode;
  uint32_t unused1;
  uint32_t uid;
  uint32_t gid;
  uint32_t unused2;
};
static_assert(sizeof(SetattrIn) == 88);

struct MknodIn {  // name follows
  uint32_t mode;
  uint32_t rdev;
  uint32_t umask;
  uint32_t padding;
};
static_assert(sizeof(MknodIn) == 16);

struct MkdirIn {  // name follows
  uint32_t mode;
  uint32_t umask;
};
static_assert(sizeof(MkdirIn) == 8);

struct RenameIn {  // two names follow
  uint64_t new_parent;
};
static_assert(sizeof(RenameIn) == 8);

struct Rename2In {  // two names follow
  uint64_t new_parent;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(Rename2In) == 16);

struct OpenIn {  // also OPENDIR
  uint32_t flags;
  uint32_t open_flags;
};
static_assert(sizeof(OpenIn) == 8);

struct CreateIn {  // name follows
  uint32_t flags;
  uint32_t mode;
  uint32_t umask;
  uint32_t open_flags;
};
static_assert(sizeof(CreateIn) == 16);

struct OpenOut {
  uint64_t handle;
  uint32_t open_flags;
  int32_t backing_id;
};
static_assert(sizeof(OpenOut) == 16);

struct ReleaseIn {  // also RELEASEDIR
  uint64_t handle;
  uint32_t flags;
  uint32_t release_flags;
  uint64_t lock_owner;
};
static_assert(sizeof(ReleaseIn) == 24);

struct FlushIn {
  uint64_t handle;
  uint32_t unused;
  uint32_t padding;
  uint64_t lock_owner;
};
static_assert(sizeof(FlushIn) == 24);

struct ReadIn {  // also READDIR, READDIRPLUS
  uint64_t handle;
  uint64_t offset;
  uint32_t size;
  uint32_t read_flags;
  uint64_t lock_owner;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(ReadIn) == 40);

struct WriteIn {  // the bytes follow
  uint64_t handle;
  uint64_t offset;
  uint32_t size;
  uint32_t write_flags;
  uint64_t lock_owner;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(WriteIn) == 40);

struct WriteOut {
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(WriteOut) == 8);

struct StatfsOut {
  uint64_t blocks;
  uint64_t blocks_free;
  uint64_t blocks_available;
  uint64_t files;
  uint64_t files_free;
  uint32_t block_size;
  uint32_t name_max;
  uint32_t fragment_size;
  uint32_t padding;
  uint32_t spare[6];
};
static_assert(sizeof(StatfsOut) == 80);

struct FsyncIn {
  uint64_t handle;
  uint32_t fsync_flags;
  uint32_t padding;
};
static_assert(sizeof(FsyncIn) == 16);

struct SetxattrIn {  // name and value follow (the short form, without SETXATTR_EXT)
  uint32_t size;
  uint32_t flags;
};
static_assert(sizeof(SetxattrIn) == 8);

struct GetxattrIn {  // also LISTXATTR; name follows
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(GetxattrIn) == 8);

struct GetxattrOut {
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(GetxattrOut) == 8);

struct InterruptIn {
  uint64_t unique;
};
static_assert(sizeof(InterruptIn) == 8);

struct FallocateIn {
  uint64_t handle;
  uint64_t offset;
  uint64_t length;
  uint32_t mode;
  uint32_t padding;
};
static_assert(sizeof(FallocateIn) == 32);

struct LseekIn {
  uint64_t handle;
  uint64_t offset;
  uint32_t whence;
  uint32_t padding;
};
static_assert(sizeof(LseekIn) == 24);

struct LseekOut {
  uint64_t offset;
};
static_assert(sizeof(LseekOut) == 8);

struct Dirent {  // name follows, padded to 8 bytes
  uint64_t ino;
  uint64_t offset;  // the cookie to go on from
  uint32_t name_length;
  uint32_t type;
};
static_assert(sizeof(Dirent) == 24);

struct DirentPlus {
  EntryOut entry;
  Dirent dirent;
};
static_assert(sizeof(DirentPlus) == 152);

struct InitIn {
  uint32_t major;
  uint32_t minor;
  uint32_t max_readahead;
  uint32_t flags;
  uint32_t flags2;  // from here on only with kInitExt
  uint32_t unused[11];
};
static_assert(sizeof(InitIn) == 64);
inline constexpr uint32_t kInitInShort = 16;  // up to `flags`

struct InitOut {
  uint32_t major;
  uint32_t minor;
  uint32_t max_readahead;
  uint32_t flags;
  uint16_t max_background;
  uint16_t congestion_threshold;
  uint32_t max_write;
  uint32_t time_granularity;  // ns
  uint16_t max_pages;
  uint16_t map_alignment;
  uint32_t flags2;
  uint32_t max_stack_depth;
  uint16_t request_timeout;
  uint16_t unused[11];
};
static_assert(sizeof(InitOut) == 64);

struct BackingMap {
  int32_t descriptor;
  uint32_t flags;
  uint64_t padding;
};
static_assert(sizeof(BackingMap) == 16);

inline constexpr unsigned long kIoctlClone = _IOR(229, 0, uint32_t);
inline constexpr unsigned long kIoctlBackingOpen = _IOW(229, 1, BackingMap);
inline constexpr unsigned long kIoctlBackingClose = _IOW(229, 2, uint32_t);

}  // namespace shoal::fuse
