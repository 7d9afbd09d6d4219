#!/usr/bin/env bash
# demo.sh SHOAL [MIB]: mounts a directory through Shoal, writes, reads, reads again, unmounts, and
# says what each step moved. Leaves nothing behind.
set -euo pipefail
shoal=$(realpath "$1")
mib=${2:-256}

if [[ ! -e /dev/fuse ]]; then
  echo "demo: there is no /dev/fuse here, so nothing can be mounted. Load the module (modprobe fuse);" \
    "in a container add --device /dev/fuse --cap-add SYS_ADMIN." >&2
  exit 1
fi
if ((EUID != 0)) && ! command -v fusermount3 >/dev/null; then
  echo "demo: an ordinary user needs fusermount3 to mount (apt-get install fuse3)." >&2
  exit 1
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/shoal-demo-XXXXXX")
mounted=0
clean_up() {
  ((mounted)) && "$shoal" unmount "$work/mnt" --lazy >/dev/null 2>&1
  rm -rf "$work"
}
trap clean_up EXIT
mkdir "$work/origin" "$work/mnt"

# from_status KEY...: one number out of `shoal status --json`.
from_status() {
  "$shoal" status "$work/mnt" --json |
    python3 -c 'import functools, json, sys
print(functools.reduce(lambda d, k: d[k], sys.argv[1:], json.load(sys.stdin)))' "$@"
}
now() { date +%s.%N; }

printf '%-26s %9s %12s %14s %14s\n' step seconds MiB/s "origin read" "origin written"
# step NAME COMMAND...: runs it and prints one row.
step() {
  local name=$1 read0 written0 began took read1 written1
  shift
  read0=$(from_status origin bytes_read)
  written0=$(from_status origin bytes_written)
  began=$(now)
  "$@" >/dev/null
  took=$(now)
  read1=$(from_status origin bytes_read)
  written1=$(from_status origin bytes_written)
  python3 - "$name" "$began" "$took" "$mib" "$((read1 - read0))" "$((written1 - written0))" <<'PY'
import sys
name, began, ended, mib, read, written = sys.argv[1], *map(float, sys.argv[2:])
seconds = max(ended - began, 1e-6)
print(f"{name:<26} {seconds:9.2f} {mib / seconds:12.0f} {read / 2**20:10.0f} MiB {written / 2**20:10.0f} MiB")
PY
}
drop_caches() { ((EUID == 0)) && sync && echo 1 >/proc/sys/vm/drop_caches 2>/dev/null || true; }

# A file that the origin has and the cache does not.
head -c "$((mib * 1048576))" /dev/urandom >"$work/origin/model.bin"
welcome=$("$shoal" mount "$work/origin" "$work/mnt" --cache-dir "$work/cache" --cache-size 4GiB \
  --log-file "$work/log" --upload-delay 0)
mounted=1

step "write and close" cp "$work/origin/model.bin" "$work/mnt/checkpoint.bin"
step "sync to the origin" "$shoal" sync "$work/mnt"
drop_caches
step "first read (origin)" cmp "$work/origin/model.bin" "$work/mnt/model.bin"
step "second read (cache)" cat "$work/mnt/model.bin"
step "read what was written" cat "$work/mnt/checkpoint.bin"

cmp "$work/origin/model.bin" "$work/origin/checkpoint.bin"
echo
echo "$welcome"
echo "hits $(from_status read hits_local), misses $(from_status read misses)," \
  "cached $(from_status files bytes) bytes in files, daemon $(from_status memory rss_bytes) bytes;" \
  "complete files are read by the kernel itself where it offers passthrough"
"$shoal" unmount "$work/mnt"
mounted=0
echo "unmounted; the copy in the origin equals the one that was written"
