#!/usr/bin/env bash
# Makes all files of a release: for each processor the Debian package, an archive with the program and its SBOM; and the
# checksums of them.
#
#     contrib/release.sh [--arch ARCH] [--tag TAG] [FOLDER]    into target/release-files, or FOLDER, which it empties first
#     contrib/release.sh --list                                prints the names of the files
#
# --arch: only for this processor; can be repeated. --tag: refuses a tag that is not the version of Cargo.toml.
# docs/RELEASING.md says what it needs. The same commit, compiler and Debian release make the same bytes.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The same order everywhere.
export LC_ALL=C

# Debian 12. A program that is linked with a newer C library does not start there.
NEWEST_GLIBC=2.36
# A trial takes a second. One that hangs ends.
TRIAL_LIMIT=60s
made=target/package
profile=${HS100D_PROFILE:-dist}
features=(--no-default-features --features broker)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

complain() {
    echo "contrib/release.sh: $*" >&2
    exit 1
}
. contrib/processors.sh

# The names of the files for one processor.
package_of() { echo "hs100d_$version-1_$1.deb"; }
archive_of() { echo "hs100d-$version-linux-$1.tar.gz"; }
sbom_of() { echo "hs100d-$version-linux-$1.cdx.json"; }

list() {
    local arch
    for arch in "${processors[@]}"; do
        package_of "$arch"
        archive_of "$arch"
        sbom_of "$arch"
    done
    echo SHA256SUMS
}

only=()
folder=$PWD/target/release-files
while [ $# -gt 0 ]; do
    case $1 in
    --list)
        list
        exit 0
        ;;
    --arch)
        [ $# -ge 2 ] || complain "--arch needs a value: amd64, arm64 or armhf"
        only+=("$2")
        shift
        ;;
    --tag)
        [ $# -ge 2 ] || complain "--tag needs a value, as in v$version"
        [ "$2" = "v$version" ] || complain "the tag $2 does not name the version of Cargo.toml; that is v$version"
        shift
        ;;
    -*) complain "$1 is not known; there are --arch, --tag and --list" ;;
    *) folder=$(cd "$here" && realpath -m -- "$1") ;;
    esac
    shift
done
[ "${#only[@]}" -eq 0 ] || processors=("${only[@]}")
if [ -e "$folder" ] && [ ! -e "$folder/SHA256SUMS" ] && [ -n "$(ls -A "$folder")" ]; then
    complain "$folder holds files that are not of a release: name an empty folder"
fi
[ -z "$(git status --porcelain)" ] || complain "the checkout has changes that no commit holds: git status"

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
# The folders of this machine are replaced in the program. One thread, because the bytes depend on their number.
remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/hs100d"
export SOURCE_DATE_EPOCH RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$remap" XZ_OPT=--threads=1 XZ_DEFAULTS=

# Runs a program for the processor that was last asked for, in qemu if it has to be. Its libraries are those of which
# contrib/package.sh reads the dependencies; with the cross compiler's, in /usr/$gnu, threads crash or hang in qemu 7.2.
on_processor() {
    if [ "$foreign" = no ]; then
        timeout "$TRIAL_LIMIT" "$@"
        return
    fi
    local emulator
    emulator=$(command -v "qemu-$cpu-static" "qemu-$cpu" | head -n 1) || true
    [ -n "$emulator" ] || complain "qemu-$cpu is not installed, to try the program for $arch: apt install qemu-user-static"
    timeout "$TRIAL_LIMIT" "$emulator" "$@"
}

# Starts the packed program, and has it read the packed config.
try_out() {
    local said
    said=$(on_processor "$1" --version)
    [ "$said" = "hs100d $version" ] || complain "$1 --version printed \"$said\""
    STATE_DIRECTORY=$PWD/$made/state on_processor "$1" --config "$made/hs100d.toml" check >/dev/null ||
        complain "$1 check refuses $made/hs100d.toml"
    echo "$arch: $said; it takes the packed config"
}

# That it starts in the oldest Debian that it is for. The package asks for the C library that the program needs.
check_glibc() {
    local needed
    needed=$(dpkg-deb --field "$1" Depends | sed -n 's/.*libc6 (>= \([0-9.]*\)).*/\1/p')
    [ -n "$needed" ] || complain "$1 does not depend on libc6"
    dpkg --compare-versions "$needed" le "$NEWEST_GLIBC" ||
        complain "$1 needs glibc $needed and Debian 12 has $NEWEST_GLIBC: make the release on Debian 12"
    echo "$arch: needs glibc $needed; Debian 12 has $NEWEST_GLIBC"
}

# What somebody without a package manager of Debian's installs by hand.
archive() {
    local program=$1 name=hs100d-$version-linux-$arch
    rm -rf "$made/archive"
    mkdir -p "$made/archive/$name"/{man,completions}
    install -m 755 "$program" "$made/archive/$name/hs100d"
    install -m 644 contrib/systemd/hs100d.service examples/hs100d.toml README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE \
        "$made/third-party.txt.gz" "$made/archive/$name/"
    install -m 644 "$made"/hs100d.1 "$made"/hs100d.toml.5 "$made/archive/$name/man/"
    install -m 644 "$made"/hs100d.{bash,zsh,fish} "$made/archive/$name/completions/"
    tar --create --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mode=u+w,go-w --mtime="@$SOURCE_DATE_EPOCH" \
        --directory "$made/archive" "$name" | gzip -9n
}

rm -rf "$folder"
mkdir -p "$folder"
for one in "${processors[@]}"; do
    processor "$one"
    package=$folder/$(package_of "$arch")
    contrib/package.sh --arch "$arch" --compress-system --output "$package"
    build=(contrib/build.sh)
    if [ "$foreign" = yes ]; then
        build+=(--arch "$arch")
    else
        # For the man pages of the next ones.
        export HS100D_DOCS_PROFILE=$profile
    fi
    program=$("${build[@]}" "${features[@]}")
    try_out "$program"
    check_glibc "$package"
    archive "$program" >"$folder/$(archive_of "$arch")"
    python3 contrib/sbom.py --target "$target" "${features[@]}" >"$folder/$(sbom_of "$arch")"
done
(cd "$folder" && sha256sum -- *.deb *.tar.gz *.cdx.json >SHA256SUMS && cat SHA256SUMS)
