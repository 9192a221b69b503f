"""How a model turns queries and keys by their positions: the rotary embedding that its file describes.

All kinds of scaling are divisors of the frequencies and one magnitude, known before the first token:

    linear      every frequency divided by the factor
    yarn        slow frequencies divided, fast ones kept, a ramp between; and longer vectors (arXiv 2309.00071)
    longrope    divisors from the file, one list for short conversations and one for long ones (arXiv 2402.13753)
    llama 3     divisors from the file, as the tensor rope_freqs.weight
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soberano.core.errors import FileError
from soberano.core.types import Array
from soberano.models.layers import Metadata
from soberano.ops.rope import Rotation, rotation

UNSCALED = ("none", "default")
KINDS = (*UNSCALED, "linear", "yarn", "longrope")


@dataclass(frozen=True)
class Rotary:
    """The angles of a model: `width` numbers of a head turn, pair i by position * scale * base^(-2i / width) / factor.

    Vectors get longer by `magnitude`.
    """

    width: int
    base: float
    scale: float = 1.0
    factors: tuple[float, ...] | None = None
    magnitude: float = 1.0

    def at(self, positions: Array) -> Rotation:
        """The rotation of tokens at positions (B, T)."""
        turn = rotation(positions, self.width, base=self.base, scale=self.scale, factors=self.factors)
        if self.magnitude == 1.0:
            return turn
        return Rotation(turn.cos * self.magnitude, turn.sin * self.magnitude)


def read_rotary(meta: Metadata, head: int) -> Rotary:
    """The rotary embedding that a file asks for, of heads `head` wide.

    As in llama.cpp, a factor without a type is linear, and old files call it rope.scale_linear. Raises UnsupportedModel
    for another kind of scaling, FileError for numbers that cannot be.
    """
    width = meta.whole("rope.dimension_count", head)
    if width % 2 or width > head:
        meta.fail("rope.dimension_count", width, f"even, and at most {head}, the width of a head")
    base = meta.number("rope.freq_base", 10_000.0)
    kind = meta.choice("rope.scaling.type", KINDS, "linear")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0))
    original = meta.whole("rope.scaling.original_context_length", meta.whole("context_length"))
    magnitude = meta.number("rope.scaling.attn_factor", 1.0)
    factors = _factors(meta, width // 2, meta.length > original)
    if kind == "yarn":
        ramp = _yarn(meta, width, base, factor, original)
        magnitude *= _yarn_magnitude(meta, factor)
        return Rotary(width, base, 1.0, tuple(np.multiply(ramp, factors or 1.0).tolist()), magnitude)
    return Rotary(width, base, 1.0 if kind in UNSCALED else 1.0 / factor, factors, magnitude)


def read_rotary_of_windows(meta: Metadata, width: int, base: float) -> Rotary:
    """The rotary embedding of layers with a sliding window, which is never scaled; `base` where the file says none."""
    return Rotary(width, meta.number("rope.freq_base_swa", base))


def _factors(meta: Metadata, pairs: int, long: bool) -> tuple[float, ...] | None:
    """The divisors that a file carries as a tensor. Raises FileError unless they are finite and above 0."""
    names = ("rope_freqs.weight", f"rope_factors_{'long' if long else 'short'}.weight")
    name = next((name for name in names if name in meta.file.tensors), None)
    if name is None:
        return None
    info = meta.file.tensors[name]
    if info.format.name != "F32" or info.shape != (pairs,):
        raise FileError(
            f"{meta.file.path}: the tensor {name} is {info.format.name} {info.shape}, and must be F32 {(pairs,)}; "
            f"convert the file again"
        )
    factors = meta.file.raw(name).view("<f4")
    wrong = factors[~(np.isfinite(factors) & (factors > 0))]
    if wrong.size:
        raise FileError(
            f"{meta.file.path}: the tensor {name} holds {wrong[0]}, and must hold finite numbers above 0; get the file "
            f"again"
        )
    return tuple(float(f) for f in factors)


def _yarn(meta: Metadata, width: int, base: float, factor: float, original: int) -> Sequence[float]:
    """The divisor of each pair: 1 where a pair turns often within the original context, `factor` where it hardly does.

    Between the pairs that turn beta_fast and beta_slow times there, the frequency changes evenly.
    """

    def pair(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first = max(0.0, math.floor(pair(meta.number("rope.scaling.yarn_beta_fast", 32.0))))
    last = min(width - 1.0, math.ceil(pair(meta.number("rope.scaling.yarn_beta_slow", 1.0))))
    kept = 1 - np.clip((np.arange(width // 2) - first) / max(0.001, last - first), 0, 1)
    return (1 / (kept + (1 - kept) / factor)).tolist()


def _yarn_magnitude(meta: Metadata, factor: float) -> float:
    """How much longer vectors get: 1 + ln(factor) / 10, unless the file takes a part of that back."""
    back = meta.amount("rope.scaling.yarn_log_multiplier", 0.0)
    growth = max(0.0, math.log(factor)) / 10
    return (1 + growth) / (1 + back * growth)
