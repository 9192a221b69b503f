#!/bin/sh
# What is lost without a compiler, with native kernels off, and with a HOME that cannot be written: speed, and nothing else.
# Usage: make evidence TOPIC=degraded
set -eu
soberano pull smollm2 >/dev/null
model=$(soberano pull smollm2 --json | python -c 'import json, sys; print(json.load(sys.stdin)["path"])')

look() {
    echo "== $1"
    shift
    env "$@" soberano doctor | grep -E '^[-!]|^It works|^All is well|broken' || true
    env "$@" soberano run "$model" "The capital of France is" -n 8 --temperature 0
}

look "as it is" LC_ALL=C
look "no compiler" SOBERANO_CXX=no-such-compiler
look "native kernels off" SOBERANO_NATIVE=off
look "a HOME that cannot be written" -u SOBERANO_CACHE -u XDG_CACHE_HOME HOME=/proc
