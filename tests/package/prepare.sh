#!/usr/bin/env bash
# Makes the files of tests/packaging/package.rs: the Debian package, and a clean Debian to install it in.
#
#     tests/package/prepare.sh          into target/package: hs100d.deb, tree.tar
#
# Needs root for the tree, and mmdebstrap and lintian. If cargo-deb is missing, it is built into target/tools. An
# existing tree is kept.
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

# The release of this machine, from the mirror that this machine uses.
tree() {
    [ ! -s "$made/tree.tar" ] || return 0
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed: apt-get install mmdebstrap"
    local codename mirror
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' |
        awk -v release="$codename" '$2 == release { print $1; exit }')
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian ${codename:-(no codename)}: apt-get update"
    mmdebstrap --quiet --variant=apt --include=systemd,procps --dpkgopt=force-unsafe-io \
        "$codename" "$made/tree.new.tar" "$mirror" || fail "mmdebstrap could not make a tree"
    mv "$made/tree.new.tar" "$made/tree.tar"
}

mkdir -p "$made"
packer
# Compressed by the program xz, which every Debian has: this cargo-deb is built without the library.
contrib/package.sh --compress-system --output "$made/hs100d.deb"
tree
