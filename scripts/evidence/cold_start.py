"""How long until the first token: kernels built from nothing, then no compiled programs, then all caches warm.

    make evidence TOPIC=cold_start

Each is a whole process, `soberano run MODEL "Once upon a time" -n 1`, from its start to its end; the median of three.
The limits are 30 s for the build of the kernels, 6 s to the first token with kernels but no programs, 2.5 s with both.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from soberano.registry.store import resolve

BUILD = "from soberano.backends import native; native.library(); print(native.state()[1])"


def seconds(command: list[str], cache: Path) -> float:
    env = os.environ | {"SOBERANO_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": ""}  # as where it is installed
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - started


def main() -> int:
    model = str(resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2"))
    run = ["-m", "soberano", "run", model, "Once upon a time", "-n", "1", "--temperature", "0"]
    good = True

    def show(what: str, times: list[float], limit: float) -> None:
        nonlocal good
        middle = statistics.median(times)
        good &= middle <= limit
        verdict = "holds" if middle <= limit else "DOES NOT HOLD"
        print(
            f"{what:42}{middle:7.2f} s  (limit {limit:g} s, runs {min(times):.2f} to {max(times):.2f})  {verdict}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cache.chmod(0o700)
        show("build of the kernels, nothing cached", [seconds(["-c", BUILD], cache)], 30)
        cold = []
        for _ in range(3):
            shutil.rmtree(cache / "programs", ignore_errors=True)
            cold.append(seconds(run, cache))
        show("first token, kernels but no programs", cold, 6)
        show("first token, all caches warm", [seconds(run, cache) for _ in range(3)], 2.5)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
