#!/usr/bin/env bash
# Whether every C++ source is laid out as clang-format 19 would. --fix: lay it out.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v clang-format-19 >/dev/null; then
  echo "skipped: clang-format-19 is not installed (make deps)"
  exit 77
fi
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  list=(git ls-files -z --cached --others --exclude-standard -- '*.cc' '*.h' '*.c' '*.hpp')
else
  list=(find src bench tests cmake include examples '(' -name '*.cc' -o -name '*.h' -o -name '*.c' -o -name '*.hpp' ')'
    -print0)
fi
if [[ ${1:-} == --fix ]]; then
  "${list[@]}" | xargs -0 -r -n 50 -P 2 clang-format-19 -i
else
  "${list[@]}" | xargs -0 -r -n 50 -P 2 clang-format-19 --dry-run -Werror
fi
