#!/bin/sh
# Prints the path of azurite's blob server, installing it from npm into build/azurite once.
# Exit status 1, with the reason on stderr, when that is not possible (no network, no npm).
set -u
version=3.35.0
root=$(cd "$(dirname "$0")/../.." && pwd)
home=${SHOAL_AZURITE_HOME:-$root/build/azurite}
program=$home/node_modules/.bin/azurite-blob

if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi
if ! command -v npm >/dev/null 2>&1; then
  echo "npm is not installed: install nodejs and npm, or set SHOAL_AZURITE_HOME" >&2
  exit 1
fi
mkdir -p "$home" || exit 1
# Installed beside and renamed, so that a half-finished installation is never used.
fresh=$home.$$
mkdir -p "$fresh" || exit 1
trap 'rm -rf "$fresh"' EXIT
if ! timeout 300 npm install --prefix "$fresh" --no-audit --no-fund --silent \
    "azurite@$version" >"$fresh/npm.log" 2>&1; then
  echo "npm install azurite@$version failed: $(tail -n 1 "$fresh/npm.log")" >&2
  exit 1
fi
rm -rf "$home"
mv "$fresh" "$home" || exit 1
echo "$program"
