"""LoRA training beside PEFT on PyTorch: gradients, a loss curve, logits, tokens per second and memory.

    python -m venv FOLDER && FOLDER/bin/pip install peft transformers gguf torch
    PEER_PYTHON=FOLDER/bin/python make evidence TOPIC=peft              everything: ten minutes, on an idle machine
    PEER_PYTHON=... scripts/evidence/peft.py gradients curve logits     some of it
    RESULTS=benchmarks/results                                          also adds the rows of `speed`

The peer reads the same GGUF file through transformers, so both train on the weights that its blocks mean. Gradients are
compared on a tiny model on every backend that is here, the rest on SmolLM2 in float32.
"""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import soberano
from soberano.backends import native
from soberano.backends.tree import map_arrays
from soberano.bench import train as bench
from soberano.bench.peers import Process
from soberano.bench.score import distance
from soberano.bench.score import logits as logits_of
from soberano.core.hashing import sha256
from soberano.formats import safetensors
from soberano.models.adapter import Pair
from soberano.models.model import Model
from soberano.registry.store import resolve
from soberano.train.adapters import Shape, fresh
from soberano.train.encode import Encoded
from soberano.train.export import write_gguf, write_peft
from soberano.train.optimizer import Rates
from soberano.train.packing import batch_of, order
from soberano.train.run import Run, Settings
from soberano.train.step import loss_and_grad
from tests.tiny import write_tiny_llama

SHAPE = Shape(rank=8, alpha=16.0)
TOKENS, STEPS = 128, 20
README = Path(__file__).parents[2] / "README.md"


def show(what: str, value: str, holds: bool) -> bool:
    print(f"  {what:74}{value:>12}  {'holds' if holds else 'MISS'}", flush=True)
    return holds


def learnt(tokens: np.ndarray) -> Encoded:
    return Encoded(tokens.astype(np.int32), np.arange(len(tokens)) > 0)


def peer(path: Path, adapter: Path) -> Process:
    """PEFT in float32 with a model and an adapter of it."""
    process = Process("peft", os.environ["PEER_PYTHON"])
    process.ask(do="open", path=str(path.resolve()), threads=native.threads(), dtype="float32", adapter=str(adapter))
    return process


def some_pairs(model: Model, seed: int) -> dict[str, Pair]:
    """Adapters that change something: fresh ones have B = 0."""
    rng = np.random.default_rng(seed)
    pairs = fresh(model.module, model.config, SHAPE, seed)
    return {k: Pair(p.a, (rng.normal(size=p.b.shape) / 50).astype(np.float32)) for k, p in pairs.items()}


def as_peft(folder: Path, model: Model, pairs: dict[str, Pair]) -> dict[str, np.ndarray]:
    """Write pairs, or gradients of them, as PEFT names and orders them, and read that."""
    folder.mkdir(parents=True, exist_ok=True)
    write_peft(folder, pairs, SHAPE, module=model.module, config=model.config, base=model.name)
    with safetensors.read(folder / "adapter_model.safetensors") as file:
        return {
            name: np.array(file.raw(name)).view(np.float32).reshape(info.shape) for name, info in file.tensors.items()
        }


def gradients(folder: Path) -> Iterable[bool]:
    path, tokens = folder / "tiny.gguf", np.random.default_rng(1).integers(3, 60, 48)
    write_tiny_llama(path)
    text = learnt(tokens)
    with soberano.load(path, backend="numpy") as model:
        as_peft(folder / "start", model, some_pairs(model, 1))
    with peer(path, folder / "start") as other:
        other.ask(do="gradient", rows=[tokens.tolist()], out=str(folder / "gradient.npz"))
    wanted = {name.replace(".default", ""): each for name, each in np.load(folder / "gradient.npz").items()}
    for backend in ("numpy", "xla", "cpu"):
        with soberano.load(path, backend=backend) as model:
            send = model.home.asarray
            run = loss_and_grad(model.home, model.module_name, model.config, model.plan, SHAPE, exact=True)
            batch = map_arrays(send, batch_of([[text]], len(tokens), 1))
            _, found = run(map_arrays(send, some_pairs(model, 1)), model.weights, batch)
            ours = as_peft(folder / backend, model, map_arrays(model.home.to_numpy, found))
        apart = max(np.abs(ours[k] / (len(tokens) - 1) - v).max() / np.abs(v).max() for k, v in wanted.items())
        yield show(
            f"{backend}: {len(wanted)} gradients are torch's; largest relative difference",
            f"{apart:.1e}",
            apart <= 1e-4 and ours.keys() == wanted.keys(),
        )


def curve(folder: Path) -> Iterable[bool]:
    path, rng = resolve("smollm2"), np.random.default_rng(2)
    settings = Settings(
        shape=SHAPE,
        rates=Rates(rate=1e-3, warmup=0.0, schedule="constant", clip=1e9),
        epochs=1,
        length=TOKENS,
        rows=1,
        accumulate=1,
        exact=True,
    )
    with soberano.load(path, context=TOKENS) as model:
        text = model.tokenizer.encode(README.read_text())
        starts = rng.permutation(len(text) // TOKENS)[:STEPS] * TOKENS
        texts = [learnt(np.array(text[at : at + TOKENS])) for at in starts]
        (folder / "run").mkdir()
        run = Run(model, texts, [], settings, folder / "run")
        as_peft(folder / "start", model, run.pairs)
        turn, apart = iter(order(len(texts), settings.seed, 0)), list[float]()
        with peer(path, folder / "start") as other:

            def both(told: dict[str, Any]) -> None:
                rows = [texts[int(next(turn))].tokens.tolist()]
                theirs = other.ask(do="step", rows=rows, rate=1e-3)["loss"]
                print(f"    step {told['step']:2}  {told['loss']:.6f}  {theirs:.6f}", flush=True)
                apart.append(abs(told["loss"] - theirs))

            run.train(both)
    yield show(
        f"{len(apart)} steps from the same start: largest difference of a loss to PEFT's",
        f"{max(apart):.1e}",
        max(apart) <= 1e-3,
    )


def logits(folder: Path) -> Iterable[bool]:
    path = resolve("smollm2")
    with soberano.load(path, backend="cpu", context=512) as model:
        pairs = some_pairs(model, 3)
        as_peft(folder / "some", model, pairs)
        write_gguf(
            folder / "some.gguf", pairs, SHAPE, architecture=model.architecture, name="some", base_hash=sha256(path)
        )
        text = model.tokenizer.encode(README.read_text())[:256]
    with peer(path, folder / "some") as other:
        other.ask(do="logits", tokens=text, out=str(folder / "logits.npy"))
    theirs = np.load(folder / "logits.npy")
    for backend in ("xla", "cpu"):
        with soberano.load(path, backend=backend, context=512, adapter=folder / "some.gguf") as model:
            ours = np.concatenate(list(logits_of(model, text, single=True)))
        apart, far = float(np.abs(ours - theirs).max()), distance([theirs], [ours])
        if backend == "xla":
            what = f"xla: logits of {len(text)} tokens with an adapter; largest difference to PEFT"
            yield show(what, f"{apart:.1e}", apart <= 1e-3)
        else:  # rounds activations to 15 bits and its cache to float16
            what = f"cpu: divergence from PEFT of {len(text)} tokens with an adapter, mean (at most 1e-3)"
            yield show(what, f"{far.kl_mean:.1e}", far.kl_mean <= 1e-3 and far.agreement >= 0.98)


def speed(folder: Path) -> Iterable[bool]:
    results = os.environ.get("RESULTS")
    ask = bench.TrainAsk(resolve("smollm2"), against="peft", peer_python=os.environ["PEER_PYTHON"])
    found = bench.run(ask, results=results and Path(results))
    print(found.to_text())
    for way in ("float32", "bfloat16", "compiled"):
        theirs = max(each["train_tps"] for name, each in found.peer.items() if name.endswith(way))
        yield show(
            f"tokens per second, against PEFT {way} (at least 1.5)",
            f"{found.train_tps / theirs:.2f}x",
            found.train_tps >= 1.5 * theirs,
        )
    least = min(each["peak_rss_bytes"] for each in found.peer.values())
    share = (found.peak_rss_bytes or 0) / least
    yield show("peak memory, against the least of PEFT (at most 0.5)", f"{share:.2f}x", 0 < share <= 0.5)


LINES = {"gradients": gradients, "curve": curve, "logits": logits, "speed": speed}


def main(asked: list[str]) -> int:
    if "PEER_PYTHON" not in os.environ or any(name not in LINES for name in asked):
        print(f"set PEER_PYTHON to a Python that has peft, and choose from {', '.join(LINES)}")
        return 2
    good = True
    for name in asked or LINES:
        print(f"{name}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            good &= all([*LINES[name](Path(folder))])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
