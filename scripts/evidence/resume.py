"""A training run killed with SIGKILL at three random moments, and gone on with: its adapter is byte-equal to that of a
run nobody disturbed.

    make evidence TOPIC=resume        two minutes
    SEED=7 scripts/evidence/resume.py other moments
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from soberano.registry.store import resolve

EXAMPLES = 300


def start(data: Path, out: Path) -> subprocess.Popen[bytes]:
    """`soberano train lora` in a process of its own, with a checkpoint twice a second."""
    command = [sys.executable, "-m", "soberano", "train", "lora", str(resolve("smollm2")), str(data), "--out", str(out)]
    how = ["--epochs", "3", "--context", "64", "--accumulate", "3", "--rate", "0.001", "--save-every", "0.5"]
    return subprocess.Popen([*command, *how], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    seed = int(os.environ.get("SEED", str(random.randrange(10**6))))
    moments, good = random.Random(seed), True
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        data, whole = Path(folder) / "data.jsonl", Path(folder) / "whole" / "adapter"
        rows = [{"prompt": f"What is {i} plus {i}?", "completion": f" It is {2 * i}."} for i in range(EXAMPLES)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        begun = time.monotonic()
        if start(data, whole).wait():
            return 1
        took = time.monotonic() - begun
        print(f"undisturbed: {took:.1f} s")
        killed = Path(folder) / "killed" / "adapter"  # an adapter is called like its folder
        for _ in range(3):
            process, after = start(data, killed), took * moments.uniform(0.2, 0.4)
            time.sleep(after)
            process.send_signal(signal.SIGKILL)
            process.wait()
            log = killed / "loss.jsonl"
            steps = len(log.read_text().splitlines()) if log.exists() else 0
            print(f"killed after {after:.1f} s, with {steps} rows in loss.jsonl")
        good = start(data, killed).wait() == 0
        for name in ("adapter.gguf", "adapter_model.safetensors", "adapter_config.json"):
            same = (whole / name).read_bytes() == (killed / name).read_bytes()
            print(f"{name} is byte-equal  {'holds' if same else 'DOES NOT HOLD'}")
            good &= same
        kept = ("step", "loss", "tokens", "grad_norm", "held_out_loss")
        logs = [
            [{k: v for k, v in json.loads(line).items() if k in kept} for line in (each / "loss.jsonl").open()]
            for each in (whole, killed)
        ]
        print(f"loss.jsonl tells the same {len(logs[0])} rows  {'holds' if logs[0] == logs[1] else 'DOES NOT HOLD'}")
        cards = [json.loads((each / "card.json").read_text())["held_out_loss"] for each in (whole, killed)]
        print(f"the card tells the same losses  {'holds' if cards[0] == cards[1] else 'DOES NOT HOLD'}")
        good &= logs[0] == logs[1] and cards[0] == cards[1]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
