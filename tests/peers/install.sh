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
if [ "$(cat installed 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
rm -f installed

python3 -m venv --clear python >install.log 2>&1 || fail "python3 cannot make a venv (see $folder/install.log)"
python/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
    --requirement "$here/requirements.txt" >>install.log 2>&1 || fail "pip failed (see $folder/install.log)"

mkdir -p node
cp "$here/package.json" node/
(cd node && npm install --no-package-lock --ignore-scripts --no-audit --no-fund --fetch-retries=1) \
    >>install.log 2>&1 || fail "npm failed (see $folder/install.log)"

echo "$wanted" >installed
