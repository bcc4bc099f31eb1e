#!/usr/bin/env bash
# Makes the files of tests/packaging/package.rs: the Debian package, and a clean Debian to install it in.
#
#     tests/package/prepare.sh                 into target/package: hs100d.deb, hs100d-again.deb, tree.tar
#     tests/package/prepare.sh --arch arm64    the same for another processor, or armhf: hs100d-arm64.deb, tree-arm64.tar
#
# Needs root for the tree, and mmdebstrap and lintian; for another processor also arch-test, qemu-user-static and what
# contrib/package.sh asks for. If cargo-deb is missing, it is built into target/tools. An existing tree is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

made=target/package
tools=$PWD/target/tools

fail() {
    echo "tests/package/prepare.sh: $*" >&2
    exit 1
}

# With a quick build: it packs only one package.
packer() {
    export PATH="$tools/bin:$PATH"
    cargo deb --version >/dev/null 2>&1 && return
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked --no-default-features --root "$tools" cargo-deb
}

# Has the kernel start programs for another processor in qemu, until it is booted again. Debian's boot does the same.
emulator() {
    local place=/proc/sys/fs/binfmt_misc cpu=aarch64
    [ "$1" != armhf ] || cpu=arm
    command -v arch-test >/dev/null || fail "arch-test is not installed: apt-get install arch-test"
    ! arch-test "$1" >/dev/null 2>&1 || return 0
    [ -e "/usr/lib/binfmt.d/qemu-$cpu.conf" ] || fail "qemu-$cpu is not installed: apt-get install qemu-user-static"
    [ -e "$place/register" ] || mount -t binfmt_misc binfmt_misc "$place"
    tr -d '\n' <"/usr/lib/binfmt.d/qemu-$cpu.conf" >"$place/register"
    arch-test "$1" >/dev/null || fail "the kernel does not start programs for $1 in qemu-$cpu"
}

# The release of this machine, from the mirror that this machine uses.
tree() {
    local made=$1
    shift
    [ ! -s "$made" ] || return 0
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed: apt-get install mmdebstrap"
    local codename mirror
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' |
        awk -v release="$codename" '$2 == release { print $1; exit }')
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian ${codename:-(no codename)}: apt-get update"
    mmdebstrap --quiet --variant=apt --include=systemd,procps --dpkgopt=force-unsafe-io "$@" \
        "$codename" "$made.new.tar" "$mirror" || fail "mmdebstrap could not make a tree"
    mv "$made.new.tar" "$made"
}

mkdir -p "$made"
case ${1-} in
"")
    packer
    # Compressed by the program xz, which every Debian has: this cargo-deb is built without the library.
    contrib/package.sh --compress-system --output "$made/hs100d.deb"
    # As another user would make it elsewhere. The bytes must be the same.
    (umask 077 && TZ=Asia/Tokyo contrib/package.sh --compress-system --output "$made/hs100d-again.deb")
    tree "$made/tree.tar"
    ;;
--arch)
    case ${2-} in arm64 | armhf) ;; *) fail "--arch needs arm64 or armhf" ;; esac
    packer
    contrib/package.sh --arch "$2" --compress-system --output "$made/hs100d-$2.deb"
    emulator "$2"
    tree "$made/tree-$2.tar" "--architectures=$2"
    ;;
*) fail "$1 is not known; there is --arch" ;;
esac
