"""How much memory a model takes while it answers: ours and a peer's, each in a process that does nothing else.

Private memory is what would come back if the process ended: pages that no other process shares, of files too. Linux
tells. Run as a program, this file is the process of ours; soberano/bench/peer_llama_cpp.py is the peer's.
"""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from soberano.bench.case import Case
from soberano.bench.peers import Peer
from soberano.bench.speed import once
from soberano.core.errors import InputError, SoberanoError
from soberano.models.load import load_decoder

ROLLUP, STATUS = Path("/proc/self/smaps_rollup"), Path("/proc/self/status")


class Memory(NamedTuple):
    """Bytes."""

    private: int  # in use by this process alone, after the last token
    peak: int  # resident at most, shared pages included


def ours(path: Path, how: dict[str, Any], tokens: list[int], case: Case) -> Memory:
    """The memory of a process of its own that loads a model, with the options `how` of load, and does the case."""
    _refuse_elsewhere()
    task = json.dumps([str(path), how, tokens[: case.tokens], case])
    done = subprocess.run(
        [sys.executable, "-m", "soberano.bench.memory"], input=task, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise SoberanoError(f"the process whose memory is measured failed: {said[-1]}")
    return Memory(*json.loads(done.stdout))


def theirs(
    name: str, path: Path, threads: int, context: int, tokens: list[int], case: Case, python: str | None
) -> Memory:
    """The memory of a peer that does the case in a process of its own, in the setting that takes the least."""
    _refuse_elsewhere()
    found = []
    for flash, mapped in product((True, False), repeat=2):
        with Peer(name, path, threads, context, python, flash=flash, mapped=mapped) as peer:
            peer.ask(do="time", tokens=tokens[: case.tokens], flash=flash, **case._asdict())
            answer = peer.ask(do="memory")
            found.append(Memory(answer["private_bytes"], answer["peak_rss_bytes"]))
    return min(found)


def _refuse_elsewhere() -> None:
    if not ROLLUP.exists():
        raise InputError(f"memory is read from {ROLLUP}, which this system lacks; leave it out with --only speed")


def _here() -> Memory:
    """The memory of this process."""
    private = [line.split() for line in ROLLUP.read_text().splitlines() if line.startswith("Private_")]
    peak = STATUS.read_text().partition("VmHWM:")[2].split()[0]
    return Memory(1024 * sum(int(words[1]) for words in private), 1024 * int(peak))


def main() -> None:
    """Do the case that standard input names, and print the memory of this process."""
    task: list[Any] = json.load(sys.stdin)
    path, how, tokens, case = task
    with load_decoder(path, **how) as model:
        once(model, tokens, Case(*case))
        print(json.dumps(_here()))


if __name__ == "__main__":
    main()
