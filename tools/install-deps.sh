#!/usr/bin/env bash
# Installs what Shoal needs to be built and tested, from Debian 12's own packages.
# Does nothing, quickly, when everything is there.
set -euo pipefail

packages=(
  ca-certificates git cmake ninja-build pkg-config python3
  clang-19 clang-format-19 clang-tidy-19 lld-19 libclang-rt-19-dev
  liburing-dev libssl-dev libcurl4-openssl-dev libisal-dev libxxhash-dev
  libfmt-dev libspdlog-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev
  libprotobuf-dev protobuf-compiler
  libpugixml-dev libcpp-httplib-dev libgtest-dev libgmock-dev libbenchmark-dev
  fuse3 attr faketime iproute2 etcd-server redis-server
)
# Azurite (for tests only) runs on Node.js; one that did not come from Debian is as good.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || {
    echo "install-deps: these packages are missing and there is neither root nor sudo to install" \
      "them: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
  --no-install-recommends "${missing[@]}"
