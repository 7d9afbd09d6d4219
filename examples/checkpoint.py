#!/usr/bin/env python3
"""Writes a checkpoint through a Shoal mount and publishes it when it is safe.

    ./checkpoint.py /mnt/data/run/step-1000 [TIMEOUT_SECONDS]

Exit status: 0 published, 1 not (the reason is on stderr), 2 usage.
"""

import os
import sys

import shoal


def show(progress):
    print(f"{progress.objects_done} of {progress.objects_total} files, {progress.bytes_left} bytes "
          f"left, {progress.bytes_per_second / 1e6:.0f} MB/s {progress.stage}", file=sys.stderr)


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    for name, size in (("weights", 3_000_000), ("optimizer", 5000)):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(bytes(i * 31 % 251 for i in range(size)))
    timeout = float(sys.argv[2]) if len(sys.argv) == 3 else None
    try:
        shoal.publish(directory, keep_last=2, timeout=timeout, progress=show)
    except shoal.Timeout as error:
        print(f"{error}\nleft: {error.progress.bytes_left} bytes", file=sys.stderr)
        return 1
    except shoal.Error as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{directory} is published (libshoal {shoal.version()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
