#!/usr/bin/env bash
# clang-tidy on the sources that differ from the last commit (and main, if there is one); --all: on
# all of them. Wants build/dev/compile_commands.json.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == --all ]]; then
  mapfile -t files < <(git ls-files -- 'src/*.cc' 'bench/*.cc')
else
  base=$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)
  mapfile -t files < <({ git diff --name-only --diff-filter=d "$base" -- 'src/*.cc' 'bench/*.cc'
    git ls-files --others --exclude-standard -- 'src/*.cc' 'bench/*.cc'; } | sort -u)
fi
if ((${#files[@]} == 0)); then
  echo "lint: no source has changed"
  exit 0
fi
printf '%s\0' "${files[@]}" |
  xargs -0 -n 4 -P "$(nproc)" clang-tidy-19 -p build/dev --quiet --warnings-as-errors='*'
echo "lint: ${#files[@]} files are clean"
