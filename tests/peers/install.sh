#!/bin/sh
# Installs the peers, programs written by others that the tests work against, into a cache folder.
#
#     tests/peers/install.sh [FOLDER]        default: target/peers
#
# Idempotent: a second run with the same versions does nothing. Ends with 0 when everything is there, else with 1
# and one line on standard error that says what is missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../target/peers}

fail() {
    echo "peers: $1" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is not installed"
command -v node >/dev/null || fail "node is not installed"
command -v npm >/dev/null || fail "npm is not installed"

mkdir -p "$folder"
cd "$folder"

# Two test programs may want to install at once; the second waits for the first.
if command -v flock >/dev/null; then
    exec 9>lock
    flock 9
fi

# The folder's own path counts: a venv that was moved along with its checkout starts nothing any more.
wanted=$( { cat "$here/requirements.txt" "$here/package.json" "$here/install.sh"; pwd; } | cksum)
homeassistant=2026.11.0
if [ "$(cat installed 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
rm -f installed

python3 -m venv --clear python >install.log 2>&1 || fail "python3 cannot make a venv (see $folder/install.log)"
python/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
    --requirement "$here/requirements.txt" >>install.log 2>&1 || fail "pip failed (see $folder/install.log)"

# The newer client of the cloud, beside the one that speaks the first version. It gets keys from the tests.
rm -rf signing
python/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps \
    --target signing "tplink-cloud-api==5.2.1" >>install.log 2>&1 || fail "pip failed (see $folder/install.log)"

# Home Assistant wants a newer Python than there may be. A few files of it are read, and none is run as it is.
rm -rf homeassistant
mkdir -p homeassistant/mqtt
python/bin/python -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps \
    --only-binary=:all: --python-version 3.14.9 --implementation py --abi none --platform any \
    --dest homeassistant "homeassistant==$homeassistant" >>install.log 2>&1 \
    || fail "pip cannot download Home Assistant (see $folder/install.log)"
python/bin/python - >>install.log 2>&1 <<'END' || fail "Home Assistant cannot be unpacked (see $folder/install.log)"
import pathlib, zipfile
[wheel] = pathlib.Path("homeassistant").glob("*.whl")
mqtt = ["abbreviations.py", "const.py", "discovery.py", "schemas.py"]
with zipfile.ZipFile(wheel) as files:
    wanted = {"homeassistant/const.py": "homeassistant/const.py"}
    wanted |= {f"homeassistant/components/mqtt/{name}": f"homeassistant/mqtt/{name}" for name in mqtt}
    for name, place in wanted.items():
        pathlib.Path(place).write_bytes(files.read(name))
wheel.unlink()
END

mkdir -p node
cp "$here/package.json" node/
(cd node && npm install --no-package-lock --ignore-scripts --no-audit --no-fund --fetch-retries=1) \
    >>install.log 2>&1 || fail "npm failed (see $folder/install.log)"

echo "$wanted" >installed
