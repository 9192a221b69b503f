"""The parity rule on the demo model: every backend against a float32 run and against llama.cpp, on text and on greedy
continuations.

    make evidence TOPIC=parity                 without a peer: what needs none
    PEER_PYTHON=/path/to/python make evidence TOPIC=parity      with llama-cpp-python installed there

The rule (mean over tokens, through prefill and through decode): KL to float32 at most 1e-5, or 1e-3 where prompts go
through the matrix unit in bfloat16; the best token is llama.cpp's on 95 % or more; where it is not, the 99th percentile
of the gap between the two logits is at most 0.3. llama.cpp's own distance from float32 is printed beside it.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import soberano
from soberano.bench.peers import Peer
from soberano.bench.score import Distance, distance, logits, sample_text
from soberano.models.model import Model
from soberano.registry.store import resolve

TEXT_TOKENS, PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 2000, 20, 24, 64


def show(label: str, d: Distance, holds: bool) -> bool:
    print(
        f"{label:34} KL {d.kl_mean:.2e} (max {d.kl_max:.1e})  same best token {d.agreement:7.2%}  "
        f"gap p99 {d.gap_p99:.3f}  {'holds' if holds else 'DOES NOT HOLD'}",
        flush=True,
    )
    return holds


def run(model: Model, sequences: list[list[int]], single: bool) -> list[np.ndarray]:
    return [np.concatenate(list(logits(model, tokens, single=single))) for tokens in sequences]


def main() -> int:
    path, python = resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2"), os.environ.get("PEER_PYTHON")
    context, good = TEXT_TOKENS + 96, True
    with soberano.load(path, backend="xla", context=context) as model:
        text = model.tokenizer.encode(sample_text()[: 12 * TEXT_TOKENS])
        sequences = [text[:TEXT_TOKENS]]
        prompts = [text[i * 61 : i * 61 + PROMPT_TOKENS] for i in range(1, PROMPTS + 1)]
        peer = Peer("llama.cpp", path, 2, context, python) if python else None
        if peer:
            print(f"llama.cpp {peer.info['version']}: {peer.info['system']}")
            sequences += [p + peer.ask(do="greedy", prompt=p, new=NEW_TOKENS)["tokens"] for p in prompts]
        reference = run(model, sequences, single=False)
        print(f"{path.name}: {sum(map(len, sequences))} tokens; the float32 run is xla, prefill\n")
        good &= show("xla decode", d := distance(reference, run(model, sequences, single=True)), d.kl_mean <= 1e-5)
    theirs: list[np.ndarray] = []
    if peer:
        with tempfile.TemporaryDirectory() as folder:
            for tokens in sequences:
                out = Path(folder) / "logits.npy"
                peer.ask(do="logits", tokens=tokens, single=False, out=str(out))
                theirs.append(np.load(out))
        peer.close()
        show("llama.cpp itself, prefill", distance(reference, theirs), True)
    for backend in ("xla", "cpu", "numpy"):
        with soberano.load(path, backend=backend, context=context) as model:
            for single in (False, True):
                ours = reference if (backend, single) == ("xla", False) else run(model, sequences, single)
                label = f"{backend} {'decode' if single else 'prefill'}"
                if backend != "xla":
                    limit = 1e-3 if model.plan.isa == "amx" and not single else 1e-5
                    good &= show(label, d := distance(reference, ours), d.kl_mean <= limit)
                if theirs:
                    d = distance(theirs, ours)
                    good &= show(f"{label} against llama.cpp", d, d.agreement >= 0.95 and d.gap_p99 <= 0.3)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
