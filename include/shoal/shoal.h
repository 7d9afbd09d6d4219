/*
 * The C interface of Shoal: for programs that write checkpoints through a mount and want to know
 * when they are safe. C11 and later; no other library is needed. Link with -lshoal, or `pkg-config
 * --cflags --libs shoal`.
 *
 * Files are read and written with ordinary system calls. This library only talks to the daemon that
 * serves the mount, as the commands `shoal sync` and `shoal publish` do, over its private socket:
 * so the program must run as the same user as the daemon, on the same machine.
 *
 * Threads. Every function may be called by any thread at any time, also on the same client; only
 * shoal_client_close() must be the client's last. What shoal_last_error() and shoal_last_progress()
 * answer belongs to the calling thread. The library starts no thread, installs no signal handler
 * and never raises SIGPIPE; a signal that arrives meanwhile is handled by the program and does not
 * end a call. Each call has its own connection, so that a client may be used after fork() on both
 * sides.
 *
 * Errors. Functions that answer int give 0 or a positive value of enum shoal_error, which is an
 * errno value (strerror() knows it); errno itself is left undefined. shoal_last_error() has the
 * whole story.
 *
 * Text is bytes that end with a zero, as file names are; none is ever changed or kept. Pointers
 * must not be null unless it says so.
 */
#ifndef SHOAL_SHOAL_H_
#define SHOAL_SHOAL_H_

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* How safe a file is. Greater is safer. */
enum shoal_level {
  SHOAL_OPEN = 0,       /* is being written: only a state, never what to wait for */
  SHOAL_LOCAL = 1,      /* on this machine's disk: survives the crash of a process */
  SHOAL_REPLICATED = 2, /* on the disks of --replicas nodes: survives the loss of a node */
  SHOAL_DURABLE = 3     /* committed in the origin: survives the loss of the cluster */
};

/* What a call answers. More may be added: take an unknown value for a failure. */
enum shoal_error {
  SHOAL_OK = 0,
  SHOAL_NOT_MOUNTED = ENODEV,    /* no Shoal mount of this user holds the path */
  SHOAL_NOT_FOUND = ENOENT,      /* no such file or directory in the mount */
  SHOAL_INVALID = EINVAL,        /* an argument; or what the node does not do */
  SHOAL_TIMED_OUT = ETIMEDOUT,   /* the timeout came first; shoal_last_progress(): what is left */
  SHOAL_CANCELLED = ECANCELED,   /* the progress function said so */
  SHOAL_UNAVAILABLE = ENOTCONN,  /* the daemon is not there, died meanwhile, or is silent */
  SHOAL_BUSY = EBUSY,            /* a limit is reached (32 calls at a time); try later */
  SHOAL_DENIED = EACCES,         /* not allowed, here or in the origin */
  SHOAL_STALE = ESTALE,          /* somebody else changed it meanwhile */
  SHOAL_EXISTS = EEXIST,         /* it is there already */
  SHOAL_NO_SPACE = ENOSPC,       /* a disk or the cache is full */
  SHOAL_READ_ONLY = EROFS,       /* the mount is read-only */
  SHOAL_IS_DIRECTORY = EISDIR,   /* a file is wanted */
  SHOAL_NOT_DIRECTORY = ENOTDIR, /* a directory is wanted */
  SHOAL_NOT_EMPTY = ENOTEMPTY,   /* the directory is not empty */
  SHOAL_NAME_TOO_LONG = ENAMETOOLONG, /* above 1,024 bytes */
  SHOAL_TOO_LARGE = EFBIG,            /* above a limit of the origin */
  SHOAL_NOT_SUPPORTED = EOPNOTSUPP,   /* deliberately not offered */
  SHOAL_CORRUPT = EBADMSG,            /* bytes are not those that were written */
  SHOAL_IO = EIO,                     /* the local disk failed */
  SHOAL_NO_MEMORY = ENOMEM,           /* of this process */
  SHOAL_INTERNAL = EPROTO             /* a bug; please report it with shoal_last_error() */
};

/* How far a call has come. Later versions may add members at the end. */
typedef struct shoal_progress {
  uint64_t bytes_total; /* to be made safe; grows while files are being written */
  uint64_t bytes_done;
  uint64_t bytes_left;    /* total - done */
  uint64_t objects_total; /* files */
  uint64_t objects_done;
  uint64_t objects_left;
  uint64_t failures;       /* above 0: something fails, and is tried again */
  double seconds;          /* since the call began */
  double bytes_per_second; /* mean since the call began */
  const char* stage;       /* what is being done, in words; "" if there is only one thing to do */
  const char* last_error;  /* what failed last, "" if nothing did */
} shoal_progress;

/*
 * Hears of progress on the thread that made the call, some five times a second, at least once a
 * second even if the daemon is silent, and when the end is known. 0 goes on; anything else ends the
 * call with SHOAL_CANCELLED within a second: what was being done for this call alone (the removal
 * of older directories, the waiting) stops, while uploads go on by themselves. The progress and its
 * text are valid until it returns. It may call this library; it must not throw, longjmp or end the
 * thread.
 */
typedef int (*shoal_progress_function)(const shoal_progress* progress, void* context);

#define SHOAL_NO_TIMEOUT INT64_C(-1)

/*
 * Starts as SHOAL_SYNC_OPTIONS_INIT. Later versions may add members at the end; `size` tells the
 * library which ones there are.
 */
typedef struct shoal_sync_options {
  size_t size;
  int level;          /* SHOAL_REPLICATED (in a cluster only) or SHOAL_DURABLE, the default */
  int64_t timeout_ms; /* 0 to a year; below 0, the default: as long as it takes */
  shoal_progress_function on_progress; /* may be null */
  void* context;                       /* given to on_progress */
} shoal_sync_options;

#define SHOAL_SYNC_OPTIONS_INIT \
  {sizeof(shoal_sync_options), SHOAL_DURABLE, SHOAL_NO_TIMEOUT, NULL, NULL}

/* Starts as SHOAL_PUBLISH_OPTIONS_INIT. Grows as shoal_sync_options does. */
typedef struct shoal_publish_options {
  size_t size;
  int level;          /* as above; SHOAL_REPLICATED: the rest goes on in the background */
  int64_t timeout_ms; /* as above */
  shoal_progress_function on_progress;
  void* context;
  const char* latest; /* name of the pointer beside the directory; null, the default: "latest" */
  uint32_t keep_last; /* 1 to 999,999: of the published directories; 0, the default: all */
} shoal_publish_options;

#define SHOAL_PUBLISH_OPTIONS_INIT \
  {sizeof(shoal_publish_options), SHOAL_DURABLE, SHOAL_NO_TIMEOUT, NULL, NULL, NULL, 0}

/*
 * A daemon. It is named by its mount, not held: a client goes on working after the daemon was
 * restarted, and costs no descriptor.
 */
typedef struct shoal_client shoal_client;

/*
 * Finds the daemon of the mount in which `path` lies, which need not exist and may be relative or
 * lead there by links. On success the caller owns *client and gives it to shoal_client_close();
 * otherwise it is null. Errors: SHOAL_NOT_MOUNTED, SHOAL_UNAVAILABLE (the daemon has died),
 * SHOAL_DENIED (the mount is another user's, or the runtime directory is not private).
 */
int shoal_client_open(const char* path, shoal_client** client);

/*
 * The daemon behind an admin socket, for where the mount cannot be looked up (a container that
 * shares the socket). `mountpoint`: where its files are seen by this process; null: as the daemon
 * says. If it has no mount either (`shoal serve`), paths are names of objects. Errors:
 * SHOAL_UNAVAILABLE.
 */
int shoal_client_open_socket(const char* socket_path, const char* mountpoint,
                             shoal_client** client);

/* Null is allowed. Calls must not be running on it. */
void shoal_client_close(shoal_client* client);

/* Where the daemon's files are seen, "" for names of objects. Valid until the client is closed. */
const char* shoal_client_mountpoint(const shoal_client* client);

/*
 * Waits until what was written to `path`, a file or everything below a directory, is as safe as
 * `options->level` says. Files still open are included as far as they were written (and fsynced or
 * flushed to the mount) before. `client` may be null: the daemon is then looked up by the path.
 * `options` may be null: durable, as long as it takes. Returns at most two seconds after the
 * timeout. Errors: SHOAL_NOT_MOUNTED, SHOAL_NOT_FOUND, SHOAL_TIMED_OUT, SHOAL_CANCELLED,
 * SHOAL_UNAVAILABLE, SHOAL_BUSY, SHOAL_INVALID (SHOAL_REPLICATED without a cluster), others from
 * the origin.
 */
int shoal_sync(const shoal_client* client, const char* path, const shoal_sync_options* options);

/*
 * Makes a directory visible as one: waits as shoal_sync() does, for the files that any node wrote
 * below it, leaves a manifest in it and moves the pointer beside it; then removes older published
 * directories if so told. Arguments as with shoal_sync(). Call it on one node, after all writers
 * have closed their files. Errors: as shoal_sync(), and SHOAL_BUSY if a file is still open for
 * writing, SHOAL_NOT_FOUND for a directory without files, SHOAL_INVALID for the mountpoint itself,
 * SHOAL_STALE if somebody else publishes at the same time.
 */
int shoal_publish(const shoal_client* client, const char* directory,
                  const shoal_publish_options* options);

/*
 * How safe a file is right now, into *level (enum shoal_level). At least that safe: while a file is
 * being uploaded it may be told as SHOAL_LOCAL though it is replicated, and in a cluster the news
 * may lag behind by a moment, or --attr-ttl on other nodes. Asks the kernel, not the
 * daemon's socket, so any user who may read the file can call it. Errors: SHOAL_NOT_FOUND,
 * SHOAL_NOT_MOUNTED, SHOAL_IS_DIRECTORY, SHOAL_DENIED, SHOAL_UNAVAILABLE (the mount is dead).
 */
int shoal_file_level(const char* path, int* level);

/*
 * Why the last failing call of this thread failed, in words for people: the thing, the reason, the
 * next step. Never null; valid until the thread calls the library again.
 */
const char* shoal_last_error(void);

/*
 * What was known last of the last shoal_sync() or shoal_publish() of this thread, however it ended:
 * after SHOAL_TIMED_OUT, what is left. Never null; valid until the thread calls one of them again.
 */
const shoal_progress* shoal_last_progress(void);

/* Of the library, like "0.1.0". */
const char* shoal_version(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
