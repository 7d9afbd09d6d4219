#!/bin/sh
# bench.quick: the whole benchmark with small sizes. Passes if every row was measured and every byte
# was right. Needs root and /dev/fuse.
set -eu
shoal=$1
dir=$2
if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
  echo "skipped: needs root and /dev/fuse"
  exit 77
fi
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"$shoal" bench one-node --json quick=yes "dir=$dir" > "$out"
python3 - "$out" << 'PYTHON'
import json, sys
document = json.load(open(sys.argv[1]))
assert list(document) == ["scenario", "parameters", "machine", "rows"], list(document)
keys = ["name", "value", "unit", "ceiling", "ratio", "target", "met"]
for row in document["rows"]:
    assert list(row) == keys, row
    assert row["value"] is not None, row
names = [row["name"] for row in document["rows"]]
assert len(names) == len(set(names)) and len(names) >= 35, names
print(len(names), "rows")
PYTHON
