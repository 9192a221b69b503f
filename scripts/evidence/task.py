"""A task with an answer that can be checked, learnt by LoRA: exact answers before and after, on items never seen.

    make evidence TOPIC=task                  about eight minutes
    SEED=3 ITEMS=3000 scripts/evidence/task.py

The task is adding two numbers below 100. Items are drawn with a seed, and no pair of numbers that is asked was learnt.
Intervals are Wilson's of 95 %; the gain is tested by the exact sign test on the items whose answer changed.
"""

import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import soberano
from soberano.models.options import Options
from soberano.registry.store import resolve
from soberano.train.lora import train_lora
from soberano.train.optimizer import Rates
from soberano.train.run import Settings

SEED, ITEMS, ASKED = int(os.environ.get("SEED", "1")), int(os.environ.get("ITEMS", "2000")), 200

Item = tuple[str, str]  # a question and its answer


def items() -> tuple[list[Item], list[Item]]:
    """(what is learnt, what is asked)."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    order = np.random.default_rng(SEED).permutation(len(pairs))[: ITEMS + ASKED]
    made = [(f"What is {a} + {b}? Answer with the number alone.", str(a + b)) for a, b in (pairs[i] for i in order)]
    return made[ASKED:], made[:ASKED]


def right(path: Path, adapter: Path | None, asked: list[Item]) -> tuple[np.ndarray, np.ndarray]:
    """(which answers are exact, which end with the right number, whatever is around it)."""
    exact, ends = [], []
    with soberano.load(path, context=256, adapter=adapter) as model:
        for question, answer in asked:
            prompt = model.chat_tokens([{"role": "user", "content": question}])
            said = "".join(piece.text for piece in model.start(prompt, Options(max_tokens=40, temperature=0)))
            exact.append(said.strip().rstrip(".") == answer)
            ends.append(re.findall(r"\d+", said)[-1:] == [answer])
    return np.array(exact), np.array(ends)


def interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a share."""
    z, share = 1.959964, hits / count
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def chance(won: int, lost: int) -> float:
    """How likely at least so many won of all that changed would be if both were as good."""
    n = won + lost
    return sum(math.comb(n, k) for k in range(won, n + 1)) / 2**n


def main() -> int:
    path, (learnt, asked), folder = resolve("smollm2"), items(), Path(tempfile.mkdtemp())
    data = folder / "sums.jsonl"
    told = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in learnt]
    data.write_text("".join(json.dumps(each) + "\n" for each in told))
    before, started = right(path, None, asked), time.perf_counter()
    settings = Settings(rates=Rates(rate=1e-3), epochs=2, accumulate=1)
    with soberano.load(path, context=64) as model:
        card = train_lora(model, data, folder / "adapter", settings, held_out=0.02)
    minutes = (time.perf_counter() - started) / 60
    after = right(path, folder / "adapter" / "adapter.gguf", asked)
    print(
        f"seed {SEED}: {len(learnt)} sums learnt in {card['steps']} steps, {minutes:.1f} minutes; {ASKED} others asked"
    )
    good = True
    for what, was, now in zip(("exact", "with the right number at their end"), before, after, strict=True):
        print(f"answers that are {what}:" if what == "exact" else f"answers {what}:")
        for when, found in (("before", was), ("after", now)):
            low, high = interval(int(found.sum()), ASKED)
            print(f"  {when:7}{found.mean():6.1%}  (95 %: {low:.1%} to {high:.1%})")
        won, lost = int((now & ~was).sum()), int((was & ~now).sum())
        p = chance(won, lost)
        holds = p < 0.001 and now.mean() > was.mean()
        print(f"  {won} won, {lost} lost: {p:.1e} by chance alone  {'holds' if holds else 'DOES NOT HOLD'}")
        good &= holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
