#!/usr/bin/env bash
# Runs the image `hs100d`, which contrib/container/build.sh makes, as docs/PACKAGING.md says, and checks what it promises.
#
#     contrib/container/build.sh && tests/container/run.sh
#
# HS100D_ENGINE=docker chooses the engine. Without an engine or the image it says so and passes; with
# HS100D_REQUIRE_PEERS=1 it fails. It sends nothing beyond this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name=hs100d-test-$$
folder=$(mktemp -d)
# As the documentation has it.
confined=(--read-only --cap-drop all --security-opt no-new-privileges)
# The ports of the host on which the container listens.
http=18100 mqtt=18883

engine=${HS100D_ENGINE:-$(command -v podman || command -v docker || true)}
. tests/container/kit.sh

end() {
    "$engine" rm -f -v "$name" >/dev/null 2>&1 || true
    "$engine" volume rm "$name" >/dev/null 2>&1 || true
    rm -rf "$folder"
}

lines() { "$engine" logs "$name" 2>&1 | grep -cF -- "$1" || true; }
answers() { curl -fsS --max-time 2 "http://127.0.0.1:$http$1" >"$folder/answer" 2>/dev/null; }

# Starts a container with these options and the config of the test.
start() {
    "$engine" rm -f "$name" >/dev/null 2>&1 || true
    "$engine" run -d --name "$name" "${confined[@]}" -v "$name:/var/lib/hs100d" \
        -v "$folder/config:/etc/hs100d:ro" "$@" hs100d >/dev/null
}

[ -n "$engine" ] || skip "neither podman nor docker is installed"
"$engine" image inspect hs100d >/dev/null 2>&1 || skip "no image hs100d: contrib/container/build.sh"
trap end EXIT
chmod 755 "$folder"
mkdir "$folder/config"
# On the host's network nothing is sent beyond loopback.
config() {
    printf '[discovery]\nbroadcast = ["127.255.255.255"]\n[http]\nlisten = "127.0.0.1:%s"\n[broker]\nlisten = "127.0.0.1:%s"\n' \
        "$http" "$mqtt" >"$folder/config/hs100d.toml"
}
config

start --network host
within 30 "the page" answers /
grep -q "<title>" "$folder/answer" || fail "the page has no title"
within 60 "a healthy container" is_healthy
"$engine" exec "$name" /usr/bin/hs100d health | grep -q "plugs online" || fail "health has no line"
[ "$(lines "network of its own")" = 0 ] || fail "the host's network is taken for one of the container's own"
echo "ok: healthy on the host's network, where the page answers"

pid=$(inspect '{{.State.Pid}}')
of_process() { awk -v key="$1:" '$1 == key { print $2; exit }' "/proc/$pid/status"; }
[ "$(inspect '{{.Config.User}}')" = 9999:9999 ] || fail "it runs as $(inspect '{{.Config.User}}')"
[ "$(of_process Uid)" != 0 ] || fail "it runs as root"
[ "$((16#$(of_process CapEff) | 16#$(of_process CapBnd)))" = 0 ] || fail "it has capabilities"
[ "$(of_process NoNewPrivs)" = 1 ] || fail "it may get new rights"
awk '$5 == "/" { print $6 }' "/proc/$pid/mountinfo" | grep -q '^ro' || fail "its root can be written"
has_notices || fail "the notices of the crates are missing"
if "$engine" run --rm --entrypoint sh hs100d -c true >/dev/null 2>&1; then fail "there is a shell"; fi
echo "ok: user 9999, no capability, no new rights, a read-only root, no shell"

printf '[[plug]]\nname = "lamp"\nhost = "127.0.0.1:9"\n' >>"$folder/config/hs100d.toml"
"$engine" kill --signal HUP "$name" >/dev/null
within 15 "the reload" says "the config was read again"
within 15 "the new plug" answers /api/v1/plugs/lamp
echo "nonsense" >"$folder/config/hs100d.toml"
"$engine" kill --signal HUP "$name" >/dev/null
within 15 "the mistake" says "the config was not taken over, the old one stays"
answers /api/v1/plugs/lamp || fail "the old config does not stay"
config
echo "ok: a reload by SIGHUP, and the old config stays if the new one is wrong"

answers /api/v1/bridge
instance=$(grep -o '"instance":"[^"]*"' "$folder/answer")
stop 10
start --network host
within 30 "the page again" answers /api/v1/bridge
grep -qF "$instance" "$folder/answer" || fail "the state is not kept in the volume"
echo "ok: SIGTERM ends it in time, and the next container has its state"

# Without a network, and in one of the engine's own. There is no network beside them to which a broadcast could go.
echo >"$folder/config/hs100d.toml"
start --network none
within 30 "what a container without a network needs" says "this container has no network"
within 60 "a healthy container" is_healthy
if start 2>"$folder/error"; then
    within 30 "what a container with its own network needs" says "seems to have a network of its own"
    says "(\`--network host\`)" || fail "the remedy is missing"
    report=$("$engine" exec "$name" /usr/bin/hs100d check --online 2>"$folder/error") && fail "check --online finds nothing wrong"
    grep -q '^FAIL  LAN: .*\[container-network\]$' <<<"$report" || fail "check --online does not name the network: $report"
    [ "$(lines "seems to have a network of its own")" = 1 ] || fail "it is said more than once"
    echo "ok: without the host's network it says what it needs"
else
    [ -z "${HS100D_REQUIRE_PEERS:-}" ] || fail "no network of the engine's own: $(cat "$folder/error")"
    echo "skipped: no network of the engine's own: $(head -n 1 "$folder/error")" >&2
fi

# A folder of the host's as the volume, that another user owns.
mkdir -m 700 "$folder/foreign"
"$engine" rm -f "$name" >/dev/null
"$engine" run -d --name "$name" --network none --read-only --cap-drop all -v "$folder/foreign:/var/lib/hs100d" hs100d >/dev/null
within 15 "the folder that is not its own" says "/var/lib/hs100d"
echo "ok: a state folder that it may not write is named: $("$engine" logs "$name" 2>&1 | grep -F /var/lib/hs100d | head -n 1)"
