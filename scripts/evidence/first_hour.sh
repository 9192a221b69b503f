#!/bin/sh
# A stranger's first hour: a fresh clone, an empty HOME, `make demo`, a question over HTTP; then the same again without a network.
# Usage: make evidence TOPIC=first_hour      Takes a few minutes, and fetches the dependencies and the demo model anew.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet "$root" "$work/clone"
mkdir "$work/home"
cd "$work/clone"

ask() { # start `make demo` in the background, wait for its address, ask, stop it
    env -u SOBERANO_CACHE -u XDG_CACHE_HOME HOME="$work/home" make demo >"$work/out" 2>&1 &
    demo=$!
    while ! address=$(grep -om1 'http://[0-9.]*:[0-9]*' "$work/out"); do
        kill -0 $demo 2>/dev/null || { cat "$work/out"; exit 1; }
        sleep 1
    done
    cat "$work/out"
    .venv/bin/python - "$address" <<'PY'
import json, sys, urllib.request
body = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 30, "temperature": 0})
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", body.encode(), {"Content-Type": "application/json"})
answer = json.load(urllib.request.urlopen(request))
print("answer:", answer["choices"][0]["message"]["content"])
PY
    kill -TERM $demo  # make passes it on
    wait $demo || true
}

echo "== with a network"
start=$(date +%s)
ask
echo "took $(($(date +%s) - start)) s"

echo "== again, offline (SOBERANO_OFFLINE=1, and no index for pip)"
export SOBERANO_OFFLINE=1 PIP_NO_INDEX=1
start=$(date +%s)
ask
echo "took $(($(date +%s) - start)) s"
