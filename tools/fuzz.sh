#!/usr/bin/env bash
# fuzz.sh BUILD SECONDS: runs every libFuzzer program of the build for so long. New inputs stay in
# the build; put what matters into the corpus beside the source.
set -euo pipefail
build=$1
seconds=$2
found=0
while IFS= read -r program; do
  name=$(basename "$program")
  room=${name%%_*}
  corpus=src/$room/${name#*_}_corpus
  mkdir -p "$build/corpus/$name"
  echo "fuzzing $name for $seconds s"
  "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 \
    -verbosity=0 -artifact_prefix="$build/" "$build/corpus/$name" \
    $([[ -d $corpus ]] && echo "$corpus")
  found=$((found + 1))
done < <(find "$build/src" -type f -name '*_fuzz' -perm -u+x | sort)
echo "fuzz: $found programs, no finding"
((found > 0))
