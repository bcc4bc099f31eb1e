#!/usr/bin/env bash
# Builds the image of the Home Assistant app from its Dockerfile, and runs it with options.json alone, then with a Supervisor
# and a broker on loopback, as the Supervisor would start it.
#
#     cargo build --locked --profile dist --no-default-features --bin hs100d
#     contrib/notices.sh --no-default-features > target/dist/third-party.txt
#     sudo unshare -n tests/container/app.sh target/dist/hs100d [further arguments of `podman build`]
#
# It runs in a network namespace of its own, in which it gives loopback the addresses of the Supervisor's network; so only podman
# can be the engine, whose containers share the network of its caller, and the base image must be there. Without podman or
# mosquitto it says what it skips; with HS100D_REQUIRE_PEERS=1 it fails.
set -euo pipefail
program=$(realpath "$1")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name=hs100d-app-test-$$
folder=$(mktemp -d)
token=s3cret-token-of-the-supervisor
api=18110 mqtt=18884 page=62001
us=172.30.32.1 supervisor=172.30.32.2
children=()

engine=podman
. tests/container/kit.sh

end() {
    podman rm -f "$name" >/dev/null 2>&1 || true
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    rm -rf "$folder"
}

is_ended() { [ "$(inspect '{{.State.Running}}')" = false ]; }

# As the Supervisor does: the host's network, /data, the options in it, a token.
start() {
    podman rm -f "$name" >/dev/null 2>&1 || true
    podman run -d --name "$name" --network host -v "$folder/data:/data" -v "$folder/config:/config" \
        -e SUPERVISOR_TOKEN="$token" -e SUPERVISOR_API="http://127.0.0.1:$api" hs100d-app >/dev/null
}

page() { curl -fsS --max-time 3 --interface "$1" "http://$us:$page/" -H 'X-Ingress-Path: /api/hassio_ingress/abc' 2>/dev/null; }
page_answers() { page "$supervisor" | grep -q '<title>'; }

command -v podman >/dev/null || skip "podman is not installed"
! ip route | grep -q . || skip "this is not a network namespace of its own: unshare -n $0"
trap end EXIT
ip link set lo up
ip address add "$us/32" dev lo
ip address add "$supervisor/32" dev lo
mkdir "$folder/data" "$folder/config" "$folder/context"
install -m 755 "$program" "$folder/context/hs100d-amd64"
cp LICENSE-* "$(dirname "$program")/third-party.txt" "$folder/context"
podman build --format docker -t hs100d-app -f contrib/homeassistant/hs100d/Dockerfile "$@" "$folder/context" \
    >"$folder/build.log" 2>&1 || fail "$(cat "$folder/build.log")"
size=$(podman image inspect --format '{{.Size}}' hs100d-app)
echo "ok: the image is built from its Dockerfile: $((size / 1000000)) MB with its base"

# As the Supervisor writes it from the defaults of config.yaml. Nobody answers at the Supervisor's address.
echo '{"log": "info", "discovery": "device"}' >"$folder/data/options.json"
start
within 60 "a healthy app" is_healthy
has_notices || fail "the notices of the crates are missing"
podman exec "$name" /usr/bin/hs100d health | grep -q "plugs online" || fail "health has no line"
podman exec "$name" /usr/bin/hs100d check >/dev/null || fail "check finds a mistake"
! says "$token" || fail "the token is in the log"
stop 30
echo "ok: healthy with options.json alone, and SIGTERM ends it"

python3 tests/container/supervisor.py "$api" "$token" "$mqtt" "$us" "$page" 2>/dev/null &
children+=($!)
start
within 60 "the page, asked from the Supervisor's address" page_answers
! page 127.0.0.1 >/dev/null || fail "the page answers others"
echo "ok: the page answers the Supervisor's address only"
if command -v mosquitto >/dev/null && command -v mosquitto_passwd >/dev/null; then
    mosquitto_passwd -b -c "$folder/passwords" addons s3cret-of-the-broker
    printf 'listener %s 127.0.0.1\nallow_anonymous false\npassword_file %s\nuser root\n' "$mqtt" "$folder/passwords" \
        >"$folder/mosquitto.conf"
    mosquitto -c "$folder/mosquitto.conf" >"$folder/mosquitto.log" 2>&1 &
    children+=($!)
    within 60 "the broker that the Supervisor names" says "connected to the broker at 127.0.0.1:$mqtt"
    ! says "s3cret-of-the-broker" || fail "the password is in the log"
    echo "ok: user and password of the broker come from the Supervisor"
else
    [ -z "${HS100D_REQUIRE_PEERS:-}" ] || fail "mosquitto is not installed"
    echo "skipped: the broker: mosquitto is not installed" >&2
fi
within 60 "a healthy app" is_healthy
stop 30
echo "ok: SIGTERM ends it in time"

# An option that is no option.
echo '{"log": "loud"}' >"$folder/data/options.json"
start
within 15 "the end" is_ended
[ "$(inspect '{{.State.ExitCode}}')" = 78 ] || fail "a wrong option ends it with $(inspect '{{.State.ExitCode}}')"
echo "ok: a wrong option: $(podman logs "$name" 2>&1 | tail -n 1)"
