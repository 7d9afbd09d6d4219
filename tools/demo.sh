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

# One number out of the last status: of_status '["origin"]["bytes_read"]'.
status=""
look() { status=$("$shoal" status "$work/mnt" --json); }
of_status() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)" <<<"$status"; }

printf '%-26s %9s %12s %14s %15s\n' step seconds MiB/s "origin read" "origin written"
# step NAME COMMAND...: runs it and prints one row.
step() {
  local name=$1 before=$status began ended
  shift
  began=$(date +%s.%N)
  "$@" >/dev/null
  ended=$(date +%s.%N)
  look
  python3 - "$name" "$mib" "$began" "$ended" "$before" "$status" <<'PY'
import json, sys
name, mib, began, ended = sys.argv[1], *map(float, sys.argv[2:5])
before, after = (json.loads(text)["origin"] for text in sys.argv[5:7])
seconds = max(ended - began, 1e-6)
read, written = ((after[k] - before[k]) / 2**20 for k in ("bytes_read", "bytes_written"))
print(f"{name:<26} {seconds:9.2f} {mib / seconds:12.0f} {read:10.0f} MiB {written:11.0f} MiB")
PY
}

# A file that the origin has and the cache does not.
head -c "$((mib * 1048576))" /dev/urandom >"$work/origin/model.bin"
welcome=$("$shoal" mount "$work/origin" "$work/mnt" --cache-dir "$work/cache" --cache-size 4GiB \
  --log-file "$work/log" --upload-delay 0)
mounted=1

look

step "write and close" dd if="$work/origin/model.bin" of="$work/mnt/checkpoint.bin" bs=1M status=none
step "sync to the origin" "$shoal" sync "$work/mnt"
step "first read (origin)" dd if="$work/mnt/model.bin" of=/dev/null bs=1M status=none
step "second read (cache)" dd if="$work/mnt/model.bin" of=/dev/null bs=1M status=none
step "read what was written" dd if="$work/mnt/checkpoint.bin" of=/dev/null bs=1M status=none

cmp "$work/origin/model.bin" "$work/mnt/model.bin"
cmp "$work/origin/model.bin" "$work/origin/checkpoint.bin"
echo
echo "$welcome"
echo "reads through the daemon: $(of_status '["read"]["hits_local"]') from the cache," \
  "$(of_status '["read"]["misses"]') waited for the origin; cached:" \
  "$(($(of_status '["files"]["bytes"]') / 1048576)) MiB; memory of the daemon:" \
  "$(($(of_status '["memory"]["rss_bytes"]') / 1048576)) MiB"
"$shoal" unmount "$work/mnt"
mounted=0
echo "unmounted; what was read and what was uploaded equal what was written"
