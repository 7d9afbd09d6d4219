#include "mount/errors.h"

#include <cerrno>

namespace shoal::fuse {

int errno_of(Code code) {
  switch (code) {
    case Code::kCancelled:
      return EINTR;
    case Code::kNotFound:
      return ENOENT;
    case Code::kAlreadyExists:
      return EEXIST;
    case Code::kStale:
      return ESTALE;
    case Code::kInvalidArgument:
      return EINVAL;
    case Code::kPermissionDenied:
      return EACCES;
    case Code::kNoSpace:
      return ENOSPC;
    case Code::kBusy:
      return EBUSY;
    case Code::kIsDirectory:
      return EISDIR;
    case Code::kNotDirectory:
      return ENOTDIR;
    case Code::kNotEmpty:
      return ENOTEMPTY;
    case Code::kNameTooLong:
      return ENAMETOOLONG;
    case Code::kNotSupported:
      return EOPNOTSUPP;
    case Code::kReadOnly:
      return EROFS;
    case Code::kTooLarge:
      return EFBIG;
    case Code::kNoData:
      return ENODATA;
    case Code::kDeadlineExceeded:
    case Code::kConflict:
    case Code::kUnauthenticated:
    case Code::kUnavailable:
    case Code::kThrottled:
    case Code::kCorrupt:
    case Code::kDiskError:
    case Code::kInternal:
      return EIO;
  }
  return EIO;
}

}  // namespace shoal::fuse
