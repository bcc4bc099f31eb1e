#!/usr/bin/env bash
# Runs many sites at a RabbitMQ cluster of three nodes, lets the nodes fail in every way that the table of docs/FLEET.md
# names, and prints that table. Exit code 1 if a promise is broken.
#
#     tests/cluster/run.sh                          60 sites of 50 plugs
#     tests/cluster/run.sh --sites 6 --plugs 5      small; --help names all options
#
# Everything runs in network namespaces that reach nothing else. Needs root, and what tests/cluster/prepare.sh needs.
# Where that is missing it says so and passes; with HS100D_REQUIRE_PEERS=1 it fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

skip() {
    [ -z "${HS100D_REQUIRE_PEERS:-}" ] || { echo "FAIL: $*" >&2; exit 1; }
    echo "skipped: $*"
    exit 0
}

apart=(unshare --net --mount --pid --fork --kill-child --mount-proc)

[ "$(id -u)" = 0 ] || skip "only root can make a tree and enter it"
"${apart[@]}" ip link set lo up 2>/dev/null || skip "no network namespaces may be made here"
error=$(tests/cluster/prepare.sh 2>&1) || skip "no tree with RabbitMQ: $error"

cargo test --quiet --locked --release --example fleet
cargo build --quiet --locked --release --bin hs100d --example fleet
exec "${apart[@]}" sh -c 'ip link set lo up && exec "$@"' fleet target/release/examples/fleet "$@"
