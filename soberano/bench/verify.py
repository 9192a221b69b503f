"""Is every backend right? Whole-model divergence from the float32 reference, and each op of each layer on its own.

The reference is the numpy backend: the meanings, on float32 weights. Each op that it runs is run again by the other
backend on the same inputs, so an error shows in the layer and op that makes it and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soberano.backends.choose import choose
from soberano.backends.dispatch import Op, watch
from soberano.backends.plan import using
from soberano.bench.score import Distance, distance, logits, sample_text
from soberano.core.errors import SoberanoError
from soberano.core.progress import Progress, silent
from soberano.models.model import Model, load
from soberano.quant.tensor import QTensor, Stack

OP_TOKENS = 32
"""Tokens in the run that is compared op by op."""

# What holds, by arithmetic: mean KL divergence of the whole model, and the relative error of one op.
LIMITS = {"float32": {"kl_mean": 1e-5, "op": 2e-4}, "15-bit activations, float16 cache": {"kl_mean": 1e-5, "op": 2e-3}}


@dataclass(frozen=True)
class OpError:
    """The error of one op call: |actual - expected| / |expected| in the Euclidean norm."""

    layer: int | None
    name: str
    error: float


@dataclass
class BackendReport:
    """One backend against the reference."""

    backend: str
    arithmetic: str
    limits: dict[str, float]
    prefill: Distance
    decode: Distance
    ops: list[OpError]

    @property
    def holds(self) -> bool:
        """Whether every number is within its limit."""
        whole = max(self.prefill.kl_mean, self.decode.kl_mean) <= self.limits["kl_mean"]
        return whole and all(op.error <= self.limits["op"] for op in self.ops)


@dataclass
class Report:
    """What `soberano verify` prints."""

    path: Path
    tokens: int
    backends: list[BackendReport] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every backend holds."""
        return all(each.holds for each in self.backends)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "path": str(self.path),
            "tokens": self.tokens,
            "holds": self.holds,
            "absent": self.absent,
            "backends": [
                {
                    "backend": b.backend,
                    "arithmetic": b.arithmetic,
                    "holds": b.holds,
                    "limits": b.limits,
                    "prefill": b.prefill.to_json(),
                    "decode": b.decode.to_json(),
                    "ops": [{"layer": o.layer, "name": o.name, "error": o.error} for o in b.ops],
                }
                for b in self.backends
            ],
        }

    def to_text(self) -> str:
        """Tables for a person: a column per op, a row per layer, `!` where a limit is broken."""
        lines = [f"{self.path.name}: {self.tokens} tokens against the numpy reference in float32"]
        lines += [f"not here: {why}" for why in self.absent]
        for b in self.backends:
            lines += ["", f"{b.backend} ({b.arithmetic}): {'holds' if b.holds else 'DOES NOT HOLD'}"]
            for label, d in (("prefill", b.prefill), ("decode", b.decode)):
                mark = "" if d.kl_mean <= b.limits["kl_mean"] else f"  ! limit {b.limits['kl_mean']:.0e}"
                lines.append(
                    f"  {label:8} KL mean {d.kl_mean:.1e}  max {d.kl_max:.1e}  same best token {d.agreement:7.2%}"
                    f"  gap where not, p99 {d.gap_p99:.2f}{mark}"
                )
            lines += ["  relative error by layer and op", *_table(b)]
        return "\n".join(lines)


def _table(b: BackendReport) -> list[str]:
    names = list(dict.fromkeys(o.name for o in b.ops if o.layer is not None))
    worst: dict[tuple[int | None, str], float] = {}
    for o in b.ops:
        worst[o.layer, o.name] = max(o.error, worst.get((o.layer, o.name), 0.0))

    def cell(error: float | None) -> str:
        return "" if error is None else f"{error:.0e}{'!' if error > b.limits['op'] else ''}"

    width = max([len(n) for n in names] + [6])
    lines = ["  layer " + " ".join(n.rjust(width) for n in names)]
    for layer in sorted({o.layer for o in b.ops if o.layer is not None}):
        lines.append(f"  {layer:5} " + " ".join(cell(worst.get((layer, n))).rjust(width) for n in names))
    outside = [f"{name} {cell(error)}" for (layer, name), error in worst.items() if layer is None]
    return [*lines, "  outside the layers: " + ", ".join(outside)]


def report(
    path: Path, *, backends: Sequence[str] | None = None, tokens: int = 256, progress: Progress = silent
) -> Report:
    """Compare backends (all that are here if None) with the numpy reference on `tokens` tokens of ordinary text."""
    found = Report(path, tokens)
    with load(path, backend="numpy", context=None, progress=progress) as reference:
        tokens = found.tokens = min(tokens, reference.context)
        text = reference.tokenizer.encode(sample_text()[: 40 * tokens])[:tokens]
        expected = list(logits(reference, text, progress=progress))
        whole = np.concatenate(expected)
        for name in backends or ("cpu", "xla", "cuda"):
            if name == "numpy":
                continue
            try:
                choose(name)
            except SoberanoError as why:
                if backends:
                    raise
                found.absent.append(str(why))
                continue
            with load(path, backend=name, progress=progress) as other:
                found.backends.append(_compare(reference, other, text, whole, progress))
    return found


def _compare(
    reference: Model, other: Model, text: list[int], expected: np.ndarray, progress: Progress
) -> BackendReport:
    prefill = distance([expected], [np.concatenate(list(logits(other, text, progress=progress)))])
    decode = distance([expected], [np.concatenate(list(logits(other, text, single=True, progress=progress)))])
    arithmetic = "15-bit activations, float16 cache" if other.plan.native else "float32"
    ops = op_errors(reference, other, text[:OP_TOKENS])
    return BackendReport(other.plan.backend, arithmetic, LIMITS[arithmetic], prefill, decode, ops)


def op_errors(reference: Model, other: Model, tokens: list[int]) -> list[OpError]:
    """Run `tokens` through the reference; run each of its ops again on `other` with the same inputs, and compare."""
    places, found = _places(reference.weights), list[OpError]()
    layer: list[int | None] = [None]

    def theirs(arg: Any) -> Any:
        """The argument as the other backend has it: its own form of a weight, its own dtype of a cache."""
        place = places.get(_address(arg)) if isinstance(arg, np.ndarray | QTensor) else None
        if place is not None:
            field_name, index = place
            part = getattr(other.weights, field_name) if index is None else getattr(other.weights.blk, field_name)
            return part.layer(other.home, index) if isinstance(part, Stack) else part
        if isinstance(arg, np.ndarray):
            cache = arg.ndim == 5
            return other.home.asarray(arg.astype(np.dtype(other.cache_dtype)) if cache else arg.copy())
        if isinstance(arg, tuple):
            parts = [theirs(part) for part in arg]
            return type(arg)(*parts) if hasattr(arg, "_fields") else tuple(parts)
        return arg

    def compare(op: Op, args: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        if op.__name__ in ("write_kv", "rotation"):  # one is in place, the other outside of any layer
            return
        flat = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
        weights = [part for part in flat if isinstance(part, np.ndarray | QTensor)]
        known = [place for place in map(places.get, map(_address, weights)) if place is not None]
        if known:
            layer[0] = known[0][1]
        with using(other.plan):
            actual = op(*map(theirs, args), **options)
        outputs = (result, actual) if isinstance(result, tuple) else ((result,), (actual,))
        labels = [name for name, _ in known] or [op.__name__] * len(outputs[0])
        for label, wanted, got in zip(labels, *outputs, strict=True):
            expected, found_here = np.asarray(wanted, np.float64), other.home.to_numpy(got).astype(np.float64)
            error = float(np.linalg.norm(found_here - expected)) / max(float(np.linalg.norm(expected)), 1e-30)
            found.append(OpError(layer[0], label, error))

    with watch(compare):
        list(logits(reference, tokens))
    return found


def _address(weight: np.ndarray | QTensor) -> tuple[int, int]:
    data = weight.data[weight.index or 0] if isinstance(weight, QTensor) else weight
    return data.ctypes.data, data.nbytes


def _places(weights: Any) -> dict[tuple[int, int], tuple[str, int | None]]:
    """Where each weight of the reference lies in memory -> (field, layer)."""
    from soberano.backends.homes import home

    found: dict[tuple[int, int], tuple[str, int | None]] = {}
    for name, part in zip(weights._fields, weights, strict=True):
        if name != "blk" and part is not None:
            found[_address(part)] = (name, None)
    for name, stack in zip(weights.blk._fields, weights.blk, strict=True):
        for i in range(len(stack.tag) if stack is not None else 0):
            member = stack.members[int(stack.tag[i])]
            at = int(stack.slot[i])
            found[_address(member.at(at) if isinstance(member, QTensor) else home("numpy").at(member, at))] = (name, i)
    return found
