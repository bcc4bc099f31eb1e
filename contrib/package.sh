#!/usr/bin/env bash
# Builds the Debian package, target/debian/hs100d_*.deb, and prints where it is.
#
#     contrib/package.sh [--target TRIPLE] [further arguments of `cargo deb`]
#
# Cargo.toml, [package.metadata.deb], lists its files. This script makes the files under target/package: the man pages and
# completions, as the program prints them; the config, which is the annotated example with everything commented out; and the
# notices of the linked crates.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

made=target/package
# The profile with whole-program optimisation. The gate packs `release`, which it builds anyway.
profile=${HS100D_PROFILE:-dist}
# As in [package.metadata.deb].
features=(--no-default-features --features broker)

complain() {
    echo "contrib/package.sh: $*" >&2
    exit 1
}

# The same commit makes the same package.
if [ -z "${SOURCE_DATE_EPOCH:-}" ] && seconds=$(git log -1 --format=%ct 2>/dev/null); then
    export SOURCE_DATE_EPOCH=$seconds
fi

# Prints the path of a program that runs on this machine: the packed one, unless that is for another processor.
program() {
    local built=$profile place=$profile argument
    for argument in "$@"; do
        case $argument in --target | --target=*) built=dev place=debug ;; esac
    done
    cargo build --locked --quiet --profile "$built" --bin hs100d "${features[@]}"
    echo "${CARGO_TARGET_DIR:-target}/$place/hs100d"
}

# The example shows the defaults by setting them. A config that users keep for years must not set them. As in sshd_config,
# `#key` shows a default and `# key` an example.
config() {
    sed -E \
        -e 's/^# Lines with a # before a key show .*/# Nothing is in force here: "#key" shows a default, "# key" an example. Remove the # of what you change./' \
        -e 's/^([a-z_]+ = )/#\1/' \
        examples/hs100d.toml
}

# The licence texts of the linked crates, which the package must contain. Of two licences the shorter one; the Apache licence
# is on every Debian system.
notices() {
    local name version licence folder file texts
    echo "The crates that hs100d is linked with, and their notices."
    cargo tree --locked --edges normal --prefix none "${features[@]}" --format '{p} {l}' |
        grep -v '^hs100d ' | sed 's/ (proc-macro)//' | sort -u |
        while read -r name version licence; do
            printf '\n==== %s %s: %s\n' "$name" "${version#v}" "$licence"
            for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-${version#v}"; do
                texts=()
                for file in "$folder"/{LICEN[CS]E,COPYING,NOTICE,COPYRIGHT,UNLICENSE}*; do
                    [ ! -f "$file" ] || texts+=("$file")
                done
                for file in "${texts[@]}"; do
                    case $file in *[Aa][Pp][Aa][Cc][Hh][Ee]*) [ "${#texts[@]}" -eq 1 ] || continue ;; esac
                    printf '\n'
                    cat "$file"
                done
                break
            done
        done
}

cargo deb --version >/dev/null 2>&1 || complain "cargo-deb is not installed: cargo install --locked cargo-deb"
mkdir -p "$made"
program=$(program "$@")
"$program" man hs100d >"$made/hs100d.1"
"$program" man hs100d.toml >"$made/hs100d.toml.5"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$made/hs100d.$shell"
done
config >"$made/hs100d.toml"
STATE_DIRECTORY=$PWD/$made/state "$program" --config "$made/hs100d.toml" check >/dev/null
notices | gzip -9n >"$made/third-party.txt.gz"
cargo deb --locked --profile "$profile" "$@"
