#!/usr/bin/env bash
# Makes the tree of tests/cluster/run.sh: a Debian trixie with RabbitMQ 4, in target/cluster/tree.
#
#     tests/cluster/prepare.sh
#
# Needs root, and mmdebstrap. An existing tree is kept. Packages come from the mirror that this machine's apt uses, and apt
# verifies them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The release of Debian whose RabbitMQ is version 4.
release=trixie
made=target/cluster
tree=$made/tree

fail() {
    echo "tests/cluster/prepare.sh: $*" >&2
    exit 1
}

# Finds keys that verify the release, and prints their file. An older Debian's package of keys may lack those of a newer
# release; apt then fetches the package's newest version, which this machine's own keys verify.
keyring() {
    local mirror=$1 folder=$2 own=/usr/share/keyrings/debian-archive-keyring.gpg
    /usr/lib/apt/apt-helper -qq -o APT::Sandbox::User=root download-file "$mirror/dists/$release/InRelease" "$folder/InRelease" >&2 ||
        fail "$mirror has no $release"
    if [ -e "$own" ] && gpgv --quiet --keyring "$own" "$folder/InRelease" >/dev/null 2>&1; then
        echo "$own"
        return
    fi
    (cd "$folder" && apt-get -qq download debian-archive-keyring >&2 && dpkg-deb -x debian-archive-keyring_*.deb keys) ||
        fail "apt cannot fetch the package debian-archive-keyring"
    gpgv --quiet --keyring "$folder/keys$own" "$folder/InRelease" >/dev/null 2>&1 ||
        fail "no key of this machine's Debian verifies $release: apt-get install debian-archive-keyring of $release by hand"
    mkdir -p "$made/keys"
    cp "$folder/keys$own" "$made/keys/"
    echo "$PWD/$made/keys/${own##*/}"
}

[ ! -e "$tree" ] || exit 0
[ "$(id -u)" = 0 ] || fail "only root can make a tree"
for program in mmdebstrap gpgv; do
    command -v "$program" >/dev/null || fail "$program is not installed: apt-get install $program"
done
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
[ -n "$mirror" ] || fail "apt knows no mirror of Debian: apt-get update"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
keys=$(keyring "${mirror%/}" "$folder")
mkdir -p "$made"
rm -rf "$tree.new"
mmdebstrap --quiet --variant=apt --include=rabbitmq-server --keyring="$keys" --dpkgopt=force-unsafe-io \
    "$release" "$tree.new" "$mirror" || fail "mmdebstrap could not make a tree"
mv "$tree.new" "$tree"
