#!/usr/bin/env bash
# Builds the program for a processor of Debian and prints its path, and nothing else, to standard output.
#
#     contrib/build.sh [--arch amd64|arm64|armhf] [arguments of `cargo build`]
#
# Without --arch: for this machine. Another processor needs its linker and C library, and its standard library of the same
# Rust compiler; what is missing is named with the command that installs it. RUSTC chooses the compiler, as in cargo, and
# HS100D_PROFILE the profile (`dist`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${HS100D_PROFILE:-dist}

complain() {
    echo "contrib/build.sh: $*" >&2
    exit 1
}
. contrib/processors.sh

# Debian has each in a package of its own.
need_library() {
    local rustc=${RUSTC:-rustc} place
    place=$("$rustc" --print target-libdir --target "$target")
    ! compgen -G "$place/libstd-*.rlib" >/dev/null || return 0
    complain "the compiler, $("$rustc" --version), has no standard library for $arch: rustup target add $target;" \
        "if it is Debian's: dpkg --add-architecture $arch && apt update && apt install libstd-rust-web-dev:$arch"
}

need_linker() {
    command -v "$gnu-gcc" >/dev/null ||
        complain "$gnu-gcc is not installed: apt install gcc-${gnu//_/-} libc6-dev-$arch-cross"
}

refused=(--target --profile --release)
processor_and_further "$@"
arguments=("${further[@]}")

place=${CARGO_TARGET_DIR:-target}
# For this machine without --target, so that what cargo has built already is used.
if [ "$foreign" = yes ]; then
    need_library
    need_linker
    linker=CARGO_TARGET_${target^^}_LINKER
    export "${linker//-/_}=$gnu-gcc"
    arguments+=(--target "$target")
    place=$place/$target
fi
cargo build --locked --profile "$profile" --bin hs100d "${arguments[@]}" >&2
# cargo calls the folder of the profile `dev` otherwise.
[ "$profile" != dev ] || profile=debug
echo "$place/$profile/hs100d"
