// XXH3 with the widest vectors that the processor has (twice as fast here as with those that every
// processor has).
#pragma once

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif
