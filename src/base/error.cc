#include "base/error.h"

#include <cerrno>
#include <system_error>

namespace shoal {

std::string_view code_name(Code code) {
  switch (code) {
    case Code::kCancelled:
      return "cancelled";
    case Code::kDeadlineExceeded:
      return "deadline exceeded";
    case Code::kNotFound:
      return "not found";
    case Code::kAlreadyExists:
      return "already exists";
    case Code::kConflict:
      return "conflict";
    case Code::kStale:
      return "stale version";
    case Code::kInvalidArgument:
      return "invalid argument";
    case Code::kPermissionDenied:
      return "permission denied";
    case Code::kUnauthenticated:
      return "not authenticated";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kThrottled:
      return "throttled";
    case Code::kCorrupt:
      return "corrupt";
    case Code::kNoSpace:
      return "no space";
    case Code::kBusy:
      return "busy";
    case Code::kDiskError:
      return "disk error";
    case Code::kIsDirectory:
      return "is a directory";
    case Code::kNotDirectory:
      return "not a directory";
    case Code::kNotEmpty:
      return "not empty";
    case Code::kNameTooLong:
      return "name too long";
    case Code::kNotSupported:
      return "not supported";
    case Code::kReadOnly:
      return "read only";
    case Code::kTooLarge:
      return "too large";
    case Code::kNoData:
      return "no data";
    case Code::kInternal:
      return "internal error";
  }
  return "unknown";
}

std::string Error::to_string() const {
  return message_ + " (" + std::string(code_name(code_)) + ")";
}

Error Error::with_context(std::string_view context) && {
  message_ = std::string(context) + ": " + message_;
  return std::move(*this);
}

Error Error::with_retry_after(std::chrono::milliseconds delay) && {
  retry_after_ = delay;
  return std::move(*this);
}

Error error_from_errno(int error_number, std::string_view what) {
  Code code = Code::kDiskError;
  switch (error_number) {
    case ENOENT:
      code = Code::kNotFound;
      break;
    case EEXIST:
      code = Code::kAlreadyExists;
      break;
    case EACCES:
    case EPERM:
      code = Code::kPermissionDenied;
      break;
    case EROFS:
      code = Code::kReadOnly;
      break;
    case ENOSPC:
    case EDQUOT:
      code = Code::kNoSpace;
      break;
    case EISDIR:
      code = Code::kIsDirectory;
      break;
    case ENOTDIR:
      code = Code::kNotDirectory;
      break;
    case ENOTEMPTY:
      code = Code::kNotEmpty;
      break;
    case ENAMETOOLONG:
      code = Code::kNameTooLong;
      break;
    case EINVAL:
      code = Code::kInvalidArgument;
      break;
    case EFBIG:
      code = Code::kTooLarge;
      break;
    case EBUSY:
    case EAGAIN:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      code = Code::kBusy;
      break;
    case ENODATA:
      code = Code::kNoData;
      break;
    case ENOTSUP:
      code = Code::kNotSupported;
      break;
    default:
      break;
  }
  return Error(code, std::string(what) + ": " + std::generic_category().message(error_number));
}

}  // namespace shoal
