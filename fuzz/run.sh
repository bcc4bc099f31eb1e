#!/usr/bin/env bash
# Fuzzes all targets one after the other, or the named ones.
#
#     fuzz/run.sh [TARGET…]             a minute each, from an optimised build; SECONDS_EACH=… for longer
#     fuzz/run.sh --brief               a few seconds each and a quick build, for .ci/run
#     fuzz/run.sh --keep [TARGET…]      adds inputs to the corpus that reached new code
#
# Needs cargo and a C++ compiler, for libFuzzer, but neither cargo-fuzz nor a nightly toolchain. The folders have the layout
# of cargo-fuzz. Input that breaks a property is left in fuzz/artifacts, and its name is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

ALL=(frames replies sysinfo klap_handshake klap_reply datagrams cloud commands topics requests config store bridge)
BRIEF_SECONDS=2

mode=full
case "${1-}" in
--brief | --keep) mode=${1#--}; shift ;;
esac
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=("${ALL[@]}")
profile=release
[ "$mode" != brief ] || profile=dev

# The same flags as cargo-fuzz: counters at every branch, and the operands of comparisons. All of them are stable.
flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    '--cfg fuzzing'
)
host=$(rustc -vV | sed -n 's/^host: //p')
built=$PWD/../target/fuzz
found=$built/found

build() {
    # With an explicit target the flags do not apply to build scripts.
    RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$built cargo build --locked --profile "$profile" --target "$host"
}

# One target: the files of the corpus first, then mutations of them.
fuzz() {
    local target=$1 seconds=$2
    mkdir -p "$found/$target" artifacts
    # Longer inputs find nothing more, only more slowly. The limits of time and memory are far above what any input needs.
    "$bin/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -dict=words.dict \
        -artifact_prefix="artifacts/$target-" -print_final_stats=1 "$found/$target" "corpus/$target" 2>"$log" || {
        tail -n 40 "$log" >&2
        echo "fuzz/run.sh: $target: see above, and fuzz/artifacts" >&2
        return 1
    }
    printf '%-14s %s, %s\n' "$target" "$(grep -o '^Done .*' "$log")" \
        "$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -n 1)"
}

# A minimal set: few and small inputs that reach each branch once.
keep() {
    local target=$1 before
    before=$(find "corpus/$target" -type f | wc -l)
    "$bin/$target" -set_cover_merge=1 -use_counters=0 -max_len=100 "corpus/$target" "$found/$target" 2>"$log"
    echo "$target: $before files, now $(find "corpus/$target" -type f | wc -l)"
}

if ! command -v c++ >/dev/null; then
    echo "there is no C++ compiler: nothing is fuzzed; \`cargo test --test untrusted_input\` holds the same properties"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log
build
# The inputs of longer runs would take too long.
[ "$mode" != brief ] || found=$scratch/found
bin=$built/$host/$profile
[ "$profile" != dev ] || bin=$built/$host/debug

# The store writes temporary files.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
for target in "${targets[@]}"; do
    case $mode in
    brief) fuzz "$target" "$BRIEF_SECONDS" ;;
    full) fuzz "$target" "${SECONDS_EACH:-60}" ;;
    keep) keep "$target" ;;
    esac
done
