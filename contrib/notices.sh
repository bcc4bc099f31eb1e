#!/usr/bin/env bash
# Prints the crates that the program is linked with, and their notices. Whoever hands out the program must add them.
#
#     contrib/notices.sh [--target TRIPLE] [features, as `cargo build` takes them]
#
# Of two licences the shorter one is printed; of the Apache licence there is a copy in LICENSE-APACHE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The same order everywhere.
export LC_ALL=C

echo "The crates that hs100d is linked with, and their notices."
cargo tree --locked --package hs100d --edges normal --prefix none "$@" --format '{p} {l}' |
    grep -vE '^hs100d(-[a-z]+)? ' | sed 's/ (proc-macro)//; s/ (\*)$//' | sort -u |
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
