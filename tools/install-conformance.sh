#!/bin/sh
# Installs fsx and pjdfstest from crates.io below build/conformance, for tests/system/
# conformance_test.py. Optional: says why and succeeds where there is no cargo of 1.85 or later.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
target=$root/build/conformance
if [ -x "$target/bin/fsx" ] && [ -x "$target/bin/pjdfstest" ]; then exit 0; fi
version=$(cargo --version 2>/dev/null | sed 's/cargo 1\.\([0-9]*\).*/\1/') || version=
if [ -z "$version" ] || [ "$version" -lt 85 ]; then
  echo "no cargo of 1.85 or later: fsx and pjdfstest are not installed, their tests are skipped"
  exit 0
fi
echo "installing fsx and pjdfstest below $target"
if ! cargo install --quiet --locked --root "$target" fsx@0.3.2 pjdfstest@0.2.2; then
  echo "could not install fsx and pjdfstest, their tests are skipped"
fi
