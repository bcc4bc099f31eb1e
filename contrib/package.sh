#!/usr/bin/env bash
# Builds the Debian package and prints where it is: target/debian/hs100d_*.deb, for another processor
# target/<triple>/debian/hs100d_*.deb.
#
#     contrib/package.sh [--arch amd64|arm64|armhf] [further arguments of `cargo deb`]
#
# contrib/build.sh builds the program, for this machine or with --arch for another processor, and says what that needs.
# Cargo.toml, [package.metadata.deb], lists the files. This script makes those under target/package: the man pages and
# completions, as the program prints them; the config, which is the annotated example with everything commented out; and the
# notices of the linked crates.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The same order everywhere.
export LC_ALL=C

made=target/package
# The profile with whole-program optimisation. The gate packs `release`, which it builds anyway.
profile=${HS100D_PROFILE:-dist}
# As in [package.metadata.deb].
features=(--no-default-features --features broker)

complain() {
    echo "contrib/package.sh: $*" >&2
    exit 1
}
. contrib/processors.sh

refused=(--target)
processor_and_further "$@"

# The same commit makes the same package.
if [ -z "${SOURCE_DATE_EPOCH:-}" ] && seconds=$(git log -1 --format=%ct 2>/dev/null); then
    export SOURCE_DATE_EPOCH=$seconds
fi

# dpkg-shlibdeps reads the dependencies of the package from the installed libraries of its processor.
need_libraries() {
    local state
    state=$(dpkg-query --show --showformat '${db:Status-Abbrev}' "libc6:$arch" "libgcc-s1:$arch" 2>/dev/null) || true
    [ "$state" = "ii ii " ] || complain "the libraries of $arch are not installed:" \
        "dpkg --add-architecture $arch && apt update && apt install libc6:$arch libgcc-s1:$arch"
}

# The example shows the defaults by setting them. A config that users keep for years must not set them. As in sshd_config,
# `#key` shows a default and `# key` an example.
config() {
    sed -E \
        -e 's/^# Lines with a # before a key show .*/# Nothing is in force here: "#key" shows a default, "# key" an example. Remove the # of what you change./' \
        -e 's/^([a-z_]+ = )/#\1/' \
        examples/hs100d.toml
}

cargo deb --version >/dev/null 2>&1 || complain "cargo-deb is not installed: cargo install --locked cargo-deb"
command -v dpkg-shlibdeps >/dev/null || complain "dpkg-shlibdeps is not installed: apt install dpkg-dev"
mkdir -p "$made"
build=(contrib/build.sh)
for_target=()
if [ "$foreign" = yes ]; then
    need_libraries
    build+=(--arch "$arch")
    for_target=(--target "$target")
fi
program=$("${build[@]}" "${features[@]}")
# One that prints its man pages on this machine. A release has it already, in the same profile.
[ "$foreign" = no ] || program=$(HS100D_PROFILE=${HS100D_DOCS_PROFILE:-dev} contrib/build.sh "${features[@]}")
"$program" man hs100d >"$made/hs100d.1"
"$program" man hs100d.toml >"$made/hs100d.toml.5"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$made/hs100d.$shell"
done
config >"$made/hs100d.toml"
STATE_DIRECTORY=$PWD/$made/state "$program" --config "$made/hs100d.toml" check >/dev/null
contrib/notices.sh --target "$target" "${features[@]}" | gzip -9n >"$made/third-party.txt.gz"
cargo deb --locked --no-build --profile "$profile" "${for_target[@]}" "${further[@]}"
