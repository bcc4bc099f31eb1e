# What the scripts beside it share, which read it with `.`. They set `engine`, `name` of the container and `folder`.

fail() {
    echo "FAIL: $*" >&2
    "$engine" logs "$name" 2>&1 | tail -n 30 >&2 || true
    exit 1
}

skip() {
    [ -z "${HS100D_REQUIRE_PEERS:-}" ] || { echo "FAIL: $*" >&2; exit 1; }
    echo "skipped: $*" >&2
    exit 0
}

# within SECONDS WHAT COMMAND…: waits until the command succeeds.
within() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "never seen: $what"
        sleep 0.2
    done
}

says() { "$engine" logs "$name" 2>&1 | grep -qF -- "$1"; }
inspect() { "$engine" inspect --format "$1" "$name"; }

is_healthy() {
    # podman leaves the schedule to systemd, which may not be there.
    if [ "${engine##*/}" = podman ]; then "$engine" healthcheck run "$name" >/dev/null 2>&1 || return 1; fi
    [ "$(inspect '{{.State.Health.Status}}')" = healthy ]
}

# Whether the image holds what the licences of the crates ask for.
has_notices() {
    "$engine" cp "$name:/usr/share/doc/hs100d/third-party.txt" "$folder/notices" && grep -q '^==== tokio ' "$folder/notices"
}

# stop SECONDS: ends the container by SIGTERM.
stop() {
    local before=$SECONDS
    "$engine" stop -t "$1" "$name" >/dev/null
    [ "$((SECONDS - before))" -lt "$1" ] || fail "it was killed after $((SECONDS - before)) s"
    [ "$(inspect '{{.State.ExitCode}}')" = 0 ] || fail "it ended with $(inspect '{{.State.ExitCode}}')"
}
