"""Keep every core busy with somebody else's work for a while: processes that do nothing but count."""

import subprocess
import sys

from soberano.backends.native import threads

COUNT = "print(flush=True)\nwhile True: pass"


class Busy:
    """While entered, as many processes spin as this one may use cores."""

    def __enter__(self) -> "Busy":
        command = [sys.executable, "-S", "-c", COUNT]
        self._others = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(threads())]
        for other in self._others:
            assert other.stdout
            other.stdout.readline()  # it runs
        return self

    def __exit__(self, *_: object) -> None:
        for other in self._others:
            other.kill()
        for other in self._others:
            other.communicate()
