"""Is every backend right? Whole-model divergence from the float32 reference, and each op of each layer on its own.

The reference is the numpy backend: the meanings, on float32 weights. Each op that it runs is run again by the other
backend on the same inputs, so an error shows in the layer and op that makes it and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from soberano.backends.choose import choose
from soberano.backends.dispatch import Op, watch
from soberano.backends.homes import home
from soberano.backends.plan import Role, using
from soberano.bench.score import Distance, distance, logits, sample_text
from soberano.core.errors import InputError, SoberanoError
from soberano.core.progress import Progress, silent
from soberano.models.load import load_decoder
from soberano.models.model import Model
from soberano.quant.tensor import QTensor, Stack

OP_TOKENS = 32
"""Tokens in the run that is compared op by op."""

# What holds: of the whole model, the parity rule of the design; and the relative error of one op, by arithmetic.
WHOLE = {"agreement": 0.95, "gap_p99": 0.3}
LIMITS = {
    "float32": WHOLE | {"kl_mean": 1e-5, "op": 2e-4},
    "15-bit activations": WHOLE | {"kl_mean": 1e-5, "op": 2e-3},
    "bfloat16": WHOLE | {"kl_mean": 1e-3, "op": 1e-2},
}


@dataclass(frozen=True)
class OpError:
    """The error of one op call: |actual - expected| / |expected| in the Euclidean norm."""

    layer: int | None
    name: str
    error: float


@dataclass
class PathReport:
    """One way through one backend, for prompts or for generated tokens, against the reference."""

    backend: str
    role: Role
    arithmetic: str
    whole: Distance
    ops: list[OpError]  # none where the other role of this backend has the same arithmetic

    @property
    def limits(self) -> dict[str, float]:
        """What has to hold for this arithmetic."""
        return LIMITS[self.arithmetic]

    @property
    def broken(self) -> list[str]:
        """The limits that the whole model breaks, in words. A number that is NaN breaks its limit."""
        d, limits, said = self.whole, self.limits, []
        if not d.kl_mean <= limits["kl_mean"]:
            said.append(f"KL mean at most {limits['kl_mean']:.0e}")
        if not d.agreement >= limits["agreement"]:
            said.append(f"same best token at least {limits['agreement']:.0%}")
        if not d.gap_p99 <= limits["gap_p99"]:
            said.append(f"gap at most {limits['gap_p99']:g}")
        return said

    @property
    def holds(self) -> bool:
        """Whether every number is within its limit."""
        return not self.broken and all(op.error <= self.limits["op"] for op in self.ops)

    @property
    def verdict(self) -> str:
        """One line: what was compared, and whether it holds."""
        return f"{self.backend}, {self.role}s in {self.arithmetic}: {'holds' if self.holds else 'DOES NOT HOLD'}"


@dataclass
class Report:
    """What `soberano verify` prints."""

    path: Path
    tokens: int
    paths: list[PathReport] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every path holds, and there was one."""
        return bool(self.paths) and all(each.holds for each in self.paths)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "path": str(self.path),
            "tokens": self.tokens,
            "holds": self.holds,
            "absent": self.absent,
            "paths": [
                {
                    "backend": p.backend,
                    "role": p.role,
                    "arithmetic": p.arithmetic,
                    "holds": p.holds,
                    "limits": p.limits,
                    "whole": p.whole.to_json(),
                    "ops": [{"layer": o.layer, "name": o.name, "error": o.error} for o in p.ops],
                }
                for p in self.paths
            ],
        }

    def to_text(self) -> str:
        """Tables for a person: a column per op, a row per layer, `!` where a limit is broken; then the verdict."""
        lines = [f"{self.path.name}: {self.tokens} tokens against the numpy reference in float32"]
        lines += [f"not here: {why}" for why in self.absent]
        for p in self.paths:
            d, mark = p.whole, f"  ! limit: {', '.join(p.broken)}" if p.broken else ""
            lines += [
                "",
                p.verdict,
                f"  KL mean {d.kl_mean:.1e}  max {d.kl_max:.1e}  same best token {d.agreement:7.2%}"
                f"  gap where not, p99 {d.gap_p99:.2f}{mark}",
            ]
            lines += ["  relative error by layer and op", *_table(p)] if p.ops else []
        verdict = "everything above holds" if self.holds else "DOES NOT HOLD; see the marks above"
        lines += ["", f"{self.path.name}: {verdict}"]
        return "\n".join(lines)


def _table(p: PathReport) -> list[str]:
    names = list(dict.fromkeys(o.name for o in p.ops if o.layer is not None))
    worst: dict[tuple[int | None, str], float] = {}
    for o in p.ops:
        worst[o.layer, o.name] = float(np.maximum(o.error, worst.get((o.layer, o.name), 0.0)))  # keeps a NaN

    def cell(error: float | None) -> str:
        return "" if error is None else f"{error:.0e}{'' if error <= p.limits['op'] else '!'}"

    width = max([len(n) for n in names] + [6])
    lines = ["  layer " + " ".join(n.rjust(width) for n in names)]
    for layer in sorted({o.layer for o in p.ops if o.layer is not None}):
        lines.append(f"  {layer:5} " + " ".join(cell(worst.get((layer, n))).rjust(width) for n in names))
    outside = [f"{name} {cell(error)}" for (layer, name), error in worst.items() if layer is None]
    return [*lines, "  outside the layers: " + ", ".join(outside)]


def report(
    path: Path,
    *,
    backends: Sequence[str] | None = None,
    tokens: int = 64,
    progress: Progress = silent,
    tell: Callable[[PathReport], None] = lambda path: None,
) -> Report:
    """Compare backends (all that are here if None) with the numpy reference on `tokens` tokens of ordinary text.

    `tell` hears of each path as soon as it is compared.
    Raises InputError where there is nothing to compare, or a backend that was asked for is not here.
    """
    others = [name for name in backends or ("cpu", "xla", "cuda") if name != "numpy"]
    if not others:
        raise InputError("numpy is the reference, so there is nothing to compare; name another backend, such as cpu")
    if tokens < 1:
        raise InputError(f"{tokens} tokens cannot be compared on; ask for 1 or more")
    found = Report(path, tokens)
    with load_decoder(path, backend="numpy", context=None, progress=_of("numpy", progress)) as reference:
        tokens = found.tokens = min(tokens, reference.context)
        text = reference.tokenizer.encode(sample_text()[: 40 * tokens])[:tokens]
        expected = list(logits(reference, text, progress=progress))
        whole = np.concatenate(expected)
        for name in others:
            try:
                choose(name)
            except SoberanoError as why:
                if backends:
                    raise
                found.absent.append(str(why))
                continue
            with load_decoder(path, backend=name, progress=_of(name, progress)) as other:
                for each in _compare(reference, other, text, whole, progress):
                    found.paths.append(each)
                    tell(each)
    return found


def _compare(
    reference: Model, other: Model, text: list[int], expected: np.ndarray, progress: Progress
) -> Iterator[PathReport]:
    seen: set[str] = set()
    for role in get_args(Role):
        actual = np.concatenate(list(logits(other, text, single=role == "token", progress=progress)))
        arithmetic = _arithmetic(other, role)
        ops = [] if arithmetic in seen else op_errors(reference, other, text[:OP_TOKENS], role)
        seen.add(arithmetic)
        yield PathReport(other.plan.backend, role, arithmetic, distance([expected], [actual]), ops)


def _of(backend: str, progress: Progress) -> Progress:
    """The same listener, told which backend the work is for."""
    return lambda label, done, total, unit: progress(f"{backend}: {label}", done, total, unit)


def _arithmetic(model: Model, role: Role) -> str:
    if not model.plan.native:
        return "float32"
    return "bfloat16" if role == "prompt" and model.plan.isa == "amx" else "15-bit activations"


def op_errors(reference: Model, other: Model, tokens: list[int], role: Role = "token") -> list[OpError]:
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
        if op.__name__ == "write_kv":  # in place, so what it was given is gone
            found.append(OpError(layer[0], "write_kv", _write_error(other, op, args, result)))
            return
        flat = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
        weights = [part for part in flat if isinstance(part, np.ndarray | QTensor)]
        known = [place for place in map(places.get, map(_address, weights)) if place is not None]
        if known:
            layer[0] = known[0][1]
        with using(replace(other.plan, role=role)):
            actual = op(*map(theirs, args), **options)
        outputs = (result, actual) if isinstance(result, tuple) else ((result,), (actual,))
        where = None if op.__name__ == "rotation" else layer[0]  # one serves all layers
        named = len(known) == len(outputs[0])  # a result for each weight; else the op makes one of several
        labels = [name for name, _ in known] if named else [op.__name__] * len(outputs[0])
        for label, wanted, got in zip(labels, *outputs, strict=True):
            expected, found_here = np.asarray(wanted, np.float64), other.home.to_numpy(got).astype(np.float64)
            error = float(np.linalg.norm(found_here - expected)) / max(float(np.linalg.norm(expected)), 1e-30)
            found.append(OpError(where, label, error))

    with watch(compare):
        list(logits(reference, tokens))
    return found


def _write_error(other: Model, op: Op, args: tuple[Any, ...], result: tuple[np.ndarray, np.ndarray]) -> float:
    """The relative error of a write into the cache, wherever it lands: `other` writes into copies of the pages.

    The copies hold the pages that the table names, with other numbers in the places that are to be written.
    """
    _, _, k, v, positions, table, layer = args
    page = result[1].shape[3]
    used, small_table = np.unique(table, return_inverse=True)
    rows, columns = np.nonzero(positions >= 0)
    place = positions[rows, columns]
    holds, slot = np.searchsorted(used, table[rows, place // page]), place % page
    keys, values = (pages[:, used].astype(other.cache_dtype) for pages in result)
    expected = [keys.astype(np.float64), values.astype(np.float64)]
    expected[0][layer, holds, :, :, slot] = k[rows, columns]
    expected[1][layer, holds, :, slot] = v[rows, columns]
    keys[layer, holds, :, :, slot] = values[layer, holds, :, slot] = -1
    send = other.home.asarray
    table = send(small_table.reshape(table.shape).astype(np.int32))
    with using(other.plan):
        written = op(send(keys), send(values), send(k.copy()), send(v.copy()), send(positions), table, layer)
    wrong = [other.home.to_numpy(got).astype(np.float64) - want for got, want in zip(written, expected, strict=True)]
    size = np.linalg.norm(k[rows, columns]) + np.linalg.norm(v[rows, columns])
    return float(sum(map(np.linalg.norm, wrong)) / max(float(size), 1e-30))


def _address(weight: np.ndarray | QTensor) -> tuple[int, int]:
    data = weight.data[weight.index or 0] if isinstance(weight, QTensor) else weight
    return data.ctypes.data, data.nbytes


def _places(weights: Any) -> dict[tuple[int, int], tuple[str, int | None]]:
    """Where each weight of the reference lies in memory -> (field, layer)."""
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
