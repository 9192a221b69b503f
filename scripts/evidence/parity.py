"""The parity rule: every backend against a float32 run and against llama.cpp, on text and on greedy continuations.

    make evidence TOPIC=parity                 without a peer: what needs none
    PEER_PYTHON=/path/to/python make evidence TOPIC=parity      with llama-cpp-python installed there
    PEER_PYTHON=... python scripts/evidence/parity.py gemma3-270m xla cpu        of another model, on these backends

The rule (mean over tokens, through prefill and through decode): KL to float32 at most 1e-5, or 1e-3 where prompts go
through the matrix unit in bfloat16; the best token is llama.cpp's on 95 % or more; where it is not, the 99th percentile
of the gap between the two logits is at most 0.3. llama.cpp's own distance from float32 is printed beside it. And the
perplexity of 20 kB of text is within 0.5 % of llama.cpp's.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import soberano
from soberano.bench.peers import Peer
from soberano.bench.score import Distance, distance, logits, nats, sample_text
from soberano.models.model import Model
from soberano.registry.store import resolve

TEXT_BYTES, TEXT_TOKENS, PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 20_000, 2000, 20, 24, 64


def show(label: str, d: Distance, holds: bool) -> bool:
    print(
        f"{label:34} KL {d.kl_mean:.2e} (max {d.kl_max:.1e})  same best token {d.agreement:7.2%}  "
        f"gap p99 {d.gap_p99:.3f}  {'holds' if holds else 'DOES NOT HOLD'}",
        flush=True,
    )
    return holds


def run(model: Model, sequences: list[list[int]], single: bool, folder: Path) -> list[np.ndarray]:
    """The logits of each sequence, kept on disk: of a large vocabulary they would fill memory."""
    kept = []
    for tokens in sequences:
        path = folder / f"{len(list(folder.iterdir()))}.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (len(tokens), model.tokenizer.size))
        done = 0
        for part in logits(model, tokens, single=single):
            rows[done : done + len(part)] = part
            done += len(part)
        kept.append(rows)
    return kept


def perplexity(rows: list[np.ndarray], texts: list[list[int]]) -> float:
    return float(np.exp(np.concatenate([nats(*each) for each in zip(rows, texts, strict=True)]).mean()))


def show_perplexity(label: str, mine: float, theirs: float) -> bool:
    holds = abs(mine / theirs - 1) <= 0.005
    print(f"{label:34} perplexity {mine:.3f}, llama.cpp's {theirs:.3f}: {mine / theirs - 1:+.3%}", end="  ")
    print("holds" if holds else "DOES NOT HOLD", flush=True)
    return holds


def main() -> int:
    name, *backends = sys.argv[1:] or ["smollm2"]
    path, python = resolve(name), os.environ.get("PEER_PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        return 0 if compare(path, python, backends or ["xla", "cpu", "numpy"], Path(folder)) else 1


def compare(path: Path, python: str | None, backends: list[str], folder: Path) -> bool:
    context, good = TEXT_TOKENS + 96, True
    with soberano.load(path, backend="xla", context=context) as model:
        text = model.tokenizer.encode(sample_text()[:TEXT_BYTES])
        texts = [text[at : at + TEXT_TOKENS] for at in range(0, len(text), TEXT_TOKENS)]
        sequences = [texts[0]]
        prompts = [text[i * 61 : i * 61 + PROMPT_TOKENS] for i in range(1, PROMPTS + 1)]
        peer = Peer("llama.cpp", path, 2, context, python) if python else None
        if peer:
            print(f"llama.cpp {peer.info['version']}: {peer.info['system']}")
            sequences += [p + peer.ask(do="greedy", prompt=p, new=NEW_TOKENS)["tokens"] for p in prompts]
        reference = run(model, sequences, False, folder)
        print(f"{path.name}: {sum(map(len, sequences))} tokens; the float32 run is xla, prefill\n")
        d = distance(reference, run(model, sequences, True, folder))
        good &= show("xla decode", d, d.kl_mean <= 1e-5)
    theirs: list[np.ndarray] = []
    if peer:
        for i, tokens in enumerate(sequences + texts[1:]):
            out = folder / f"peer{i}.npy"
            peer.ask(do="logits", tokens=tokens, single=False, out=str(out))
            theirs.append(np.load(out, mmap_mode="r"))
        peer.close()
        rest, theirs = theirs[len(sequences) :], theirs[: len(sequences)]
        their_perplexity = perplexity([theirs[0], *rest], texts)
        show("llama.cpp itself, prefill", distance(reference, theirs), True)
    for backend in backends:
        with soberano.load(path, backend=backend, context=context) as model:
            for single in (False, True):
                ours = reference if (backend, single) == ("xla", False) else run(model, sequences, single, folder)
                label = f"{backend} {'decode' if single else 'prefill'}"
                if backend != "xla":
                    limit = 1e-3 if model.plan.isa == "amx" and not single else 1e-5
                    good &= show(label, d := distance(reference, ours), d.kl_mean <= limit)
                if theirs:
                    d = distance(theirs, ours)
                    good &= show(f"{label} against llama.cpp", d, d.agreement >= 0.95 and d.gap_p99 <= 0.3)
                if theirs and not single:
                    mine = perplexity([ours[0], *run(model, texts[1:], False, folder)], texts)
                    good &= show_perplexity(label, mine, their_perplexity)
    return good


if __name__ == "__main__":
    sys.exit(main())
