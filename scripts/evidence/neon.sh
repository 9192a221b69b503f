#!/bin/sh
# The NEON kernels of arm64 without an arm64 machine: cross-compiled, emulated, and equal bit for bit to this machine's.
# Says nothing of their speed. Usage: make evidence TOPIC=neon
set -eu
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$tool" >/dev/null || {
        echo "$tool is not found; on Debian: apt install g++-aarch64-linux-gnu qemu-user"
        exit 1
    }
done
python -m pytest -q -s tests/backends/test_neon.py
