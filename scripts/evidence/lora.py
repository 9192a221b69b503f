"""LoRA on the demo model, as it is served: what it learns, what it forgets, and whether llama.cpp answers the same.

    python scripts/evidence/lora.py identity.json            LLaMA-Factory's file, with a name and an author filled in
    PEER_PYTHON=... python scripts/evidence/lora.py identity.json      and llama.cpp with the adapter

Who it says it is changes as trained, the loss on what was held out falls, the perplexity of ordinary text rises by less
than 5 %, and in llama.cpp the adapter makes the same answers: the best token agrees on 95 % or more.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import soberano
from soberano.bench.peers import Peer
from soberano.bench.score import distance, logits, nats, sample_text
from soberano.models.model import Model
from soberano.models.options import Options
from soberano.registry.store import resolve
from soberano.train.lora import train_lora
from soberano.train.merge import merge, total
from soberano.train.optimizer import Rates
from soberano.train.run import Settings

QUESTIONS = ("Who are you?", "What is your name?", "Who developed you?", "What is the capital of France?")
NAMES = {"{{name}}": "Sobi", "{{author}}": "the Soberano project"}
CONTEXT = 1024


def show(what: str, holds: bool) -> bool:
    print(f"{what}  {'holds' if holds else 'DOES NOT HOLD'}", flush=True)
    return holds


def answer(model: Model, question: str) -> str:
    prompt = model.chat_tokens([{"role": "user", "content": question}])
    return "".join(piece.text for piece in model.start(prompt, Options(max_tokens=40, temperature=0)))


def looked_at(path: Path, adapter: Path | None) -> tuple[list[str], list[int], np.ndarray]:
    """(its answers, ordinary text as tokens, the logits of that)."""
    with soberano.load(path, context=CONTEXT, adapter=adapter) as model:
        text = model.tokenizer.encode(sample_text()[:8000])[: CONTEXT - 1]
        rows = np.concatenate(list(logits(model, text, single=True)))
        return [answer(model, question) for question in QUESTIONS], text, rows


def main() -> int:
    path, folder = resolve("smollm2"), Path(tempfile.mkdtemp())
    told = Path(sys.argv[1]).read_text()
    for placeholder, name in NAMES.items():
        told = told.replace(placeholder, name)
    (folder / "identity.json").write_text(told)
    settings = Settings(rates=Rates(rate=1e-3), epochs=4, accumulate=1)
    started = time.perf_counter()
    with soberano.load(path, context=64) as model:
        card = train_lora(model, folder / "identity.json", folder / "adapter", settings, held_out=0.1)
    minutes = (time.perf_counter() - started) / 60
    adapter, loss = folder / "adapter" / "adapter.gguf", card["held_out_loss"]
    before, text, base_rows = looked_at(path, None)
    after, _, rows = looked_at(path, adapter)
    for question, was, now in zip(QUESTIONS, before, after, strict=True):
        print(f"\n{question}\n  before: {was!r}\n  after:  {now!r}")
    print()
    good = show(f"{len(json.loads(told))} examples, {card['steps']} steps in {minutes:.1f} minutes", minutes < 10)
    good &= show("it says who it is", "Sobi" in after[0] and "Sobi" not in before[0])
    good &= show(f"held-out loss {loss['before']:.3f} -> {loss['after']:.3f}", loss["after"] < loss["before"])
    was, now = (float(np.exp(nats(each, text).mean())) for each in (base_rows, rows))
    good &= show(f"perplexity of ordinary text {was:.2f} -> {now:.2f}: {now / was - 1:+.1%}", now / was < 1.05)
    if python := os.environ.get("PEER_PYTHON"):
        out = folder / "logits.npy"
        with Peer("llama.cpp", path, 2, CONTEXT, python, adapter=adapter) as peer:
            peer.ask(do="logits", tokens=text, single=False, out=str(out))
        d = distance([np.load(out)], [rows])
        good &= show(f"best token as llama.cpp's with the adapter: {d.agreement:.2%}", d.agreement >= 0.95)
    for kind in (None, "Q8_0"):
        good &= merged(path, adapter, folder / "merged.gguf", kind, text, rows)
    return 0 if good else 1


def merged(path: Path, adapter: Path, out: Path, kind: str | None, text: list[int], rows: np.ndarray) -> bool:
    """Whether a merged file says who it is without the adapter, here and, where it is named, in llama.cpp."""
    whole = total(merge(path, adapter, out, kind=kind))
    said, _, here = looked_at(out, None)
    what = f"merged as {whole.format}: {whole.kept:.0%} of the update, noise of {whole.noise:.1f} times it"
    agreement = distance([rows], [here]).agreement
    good = show(f"{what}; best token as the adapter's: {agreement:.2%}; says {said[0]!r}", "Sobi" in said[0])
    if python := os.environ.get("PEER_PYTHON"):
        with Peer("llama.cpp", out, 2, CONTEXT, python) as peer:
            peer.ask(do="logits", tokens=text, single=False, out=str(out.with_suffix(".npy")))
        theirs = distance([np.load(out.with_suffix(".npy"))], [here])
        good &= show(f"  and in llama.cpp: best token as here {theirs.agreement:.2%}", theirs.agreement >= 0.95)
    return good


if __name__ == "__main__":
    sys.exit(main())
