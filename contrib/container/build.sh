#!/usr/bin/env bash
# Builds the image `hs100d` with podman or docker, and prints its size. Its SBOM is written to target/container.
#
#     contrib/container/build.sh [further arguments of `podman build`, such as --build-arg PROFILE=release]
#
# HS100D_ENGINE=docker chooses the engine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

made=target/container

complain() {
    echo "contrib/container/build.sh: $*" >&2
    exit 1
}

engine=${HS100D_ENGINE:-$(command -v podman || command -v docker)} || complain "neither podman nor docker is installed"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arguments=(--label "org.opencontainers.image.version=$version" -t hs100d -t "hs100d:$version")
# The other format of podman has no HEALTHCHECK.
case ${engine##*/} in podman) arguments+=(--format docker) ;; esac
"$engine" build "${arguments[@]}" -f contrib/container/Containerfile "$@" .

processor=$("$engine" image inspect --format '{{.Architecture}}' hs100d)
size=$("$engine" image inspect --format '{{.Size}}' hs100d)
echo "hs100d:$version for $processor: $((size / 100000 / 10)).$((size / 100000 % 10)) MB"

rm -rf "$made"
mkdir -p "$made"
container=$("$engine" create hs100d)
"$engine" cp "$container:/var/lib/dpkg/status.d" "$made/debian"
"$engine" rm "$container" >/dev/null
case $processor in
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    arm) target=armv7-unknown-linux-gnueabihf ;;
    *) complain "no SBOM for the processor $processor" ;;
esac
if command -v cargo >/dev/null && command -v python3 >/dev/null; then
    # The features are those of the Containerfile.
    python3 contrib/sbom.py --target "$target" --no-default-features --features broker \
        --debian "$made"/debian/* >"$made/hs100d-image.cdx.json"
    echo "$made/hs100d-image.cdx.json"
else
    echo "no SBOM: it needs cargo and python3"
fi
