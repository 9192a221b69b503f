"""How much memory `soberano run` takes at its peak: at most 2.5 times the file and 300 MB. Linux: /proc tells.

make evidence TOPIC=memory            the demo model; scripts/evidence/memory.py MODEL takes another
"""

import subprocess
import sys

from soberano.core.units import bytes_text
from soberano.registry.store import resolve

PROMPT, TOKENS = "Once upon a time there was a little girl who", "64"
LIMIT = (2.5, 300 * 10**6)

CHILD = """
import sys
from soberano.cli.main import main
code = main(sys.argv[1:])
sys.stdout.flush()
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1], file=sys.stderr)
sys.exit(code)
"""


def peak(model: str) -> int:
    """The peak resident memory of `soberano run model`, in bytes."""
    command = [
        sys.executable,
        "-c",
        CHILD,
        "run",
        model,
        PROMPT,
        "-n",
        TOKENS,
        "--temperature",
        "0",
        "--backend",
        "cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"soberano run failed with status {done.returncode}:\n{done.stderr}")
    return 1024 * int(done.stderr.split()[-1])


def main() -> int:
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    path = resolve(model)
    size = path.stat().st_size
    limit = int(LIMIT[0] * size) + LIMIT[1]
    print(f"{path.name}: {bytes_text(size)}; the limit is {LIMIT[0]} x that and 300 MB: {bytes_text(limit)}")
    good = True
    for run in ("first run, which may compile", "second run"):
        found = peak(model)
        good &= found <= limit
        print(f"{run:28} {bytes_text(found):>10}  {found / limit:.0%} of the limit", flush=True)
    print("holds" if good else "DOES NOT HOLD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
