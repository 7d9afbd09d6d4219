// From Error codes to what the caller of a system call sees.
#pragma once

#include "base/error.h"

namespace shoal::fuse {

// A positive errno. EIO where the reason has no better name: trouble with the origin, a peer, a
// disk, or with us; the log then says what happened.
int errno_of(Code code);

}  // namespace shoal::fuse
