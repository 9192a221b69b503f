"""The cases of `soberano bench ops`: each op of a step on shapes of real models, and what it moves and computes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from soberano.backends.base import Home
from soberano.backends.homes import home
from soberano.backends.plan import Plan, Role, using
from soberano.bench.peaks import Arithmetic, arithmetic_of
from soberano.core.types import Array
from soberano.ops.attention import attention
from soberano.ops.linear import linear
from soberano.ops.norm import rms_norm
from soberano.ops.sample import Sampling, greedy, sample
from soberano.quant import tiles
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.encode import encode
from soberano.quant.tensor import QTensor

FORMATS = (
    "F16",
    "BF16",
    "F32",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)
"""A format for each kind of tile."""


class Made(NamedTuple):
    """A case, ready to run: what one call moves between memory and the processor, and computes."""

    call: Callable[[], Any]
    moved: int  # bytes
    operations: float  # multiplications and additions
    arithmetic: Arithmetic


def cases(plan: Plan) -> dict[str, Callable[[], Made]]:
    """Every case by name; its arrays are made when it is called for."""
    make, found = _Cases(plan), dict[str, Callable[[], Made]]()
    for name in FORMATS:
        for tokens in (1, 8, 32):  # of as many answers in the making
            found[f"linear {name} 2048 to 8192, {tokens}"] = partial(make.product, name, 8192, 2048, tokens, "token")
        found[f"linear {name} 2048 to 8192, prompt 512"] = partial(make.product, name, 8192, 2048, 512, "prompt")
    for tokens, context in ((1, 512), (1, 4096), (512, 512), (512, 4096)):
        found[f"attention 9/3x64, {tokens} at {context}"] = partial(make.attend, 9, 3, 64, tokens, context)
    for tokens, context in ((1, 4096), (512, 512)):
        found[f"attention 32/8x64, {tokens} at {context}"] = partial(make.attend, 32, 8, 64, tokens, context)
    for width, rows in ((576, 1), (576, 512), (2048, 1), (2048, 512)):
        found[f"rms_norm {width}, {rows} row{'s' * (rows > 1)}"] = partial(make.norm, width, rows)
    return found | {"greedy 49152": partial(make.draw, 0), "sample 49152": partial(make.draw, 0.8)}


class _Cases:
    """Makes cases for a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._home, self._rng = plan, home(plan.home), np.random.default_rng(0)

    def _compiled(self, function: Callable[..., Any], *args: Any, role: Role = "token") -> Callable[[], None]:
        here: Home = self._home

        def traced(*args: Any) -> Any:
            with using(replace(self._plan, role=role)):
                return function(*args)

        fast = here.compile(traced)
        return lambda: here.synchronize(fast(*args))

    def _normal(self, *shape: int, dtype: Any = np.float32) -> Array:
        return self._home.asarray(self._rng.standard_normal(shape, np.float32).astype(dtype))

    def product(self, name: str, outputs: int, inputs: int, tokens: int, role: Role) -> Made:
        """A weight in the format of a file against tokens."""
        kind, native = format_named(name), self._plan.native
        raw = self._raw(kind, outputs, inputs)
        data = self._home.asarray(tiles.pack(kind, raw) if native else raw)
        weight = QTensor(data, None, (outputs, inputs), name, "tiles" if native else "blocks")
        arithmetic = arithmetic_of(self._plan, role)
        return Made(
            self._compiled(linear, weight, self._normal(tokens, inputs), role=role),
            int(data.nbytes),
            2.0 * outputs * inputs * tokens,
            "float32" if kind.plain and arithmetic == "bytes" else arithmetic,
        )

    def _raw(self, kind: type[BlockFormat], outputs: int, inputs: int) -> np.ndarray:
        if kind.plain or kind.codebook:  # any bytes would be numbers of any size
            return encode(kind, self._rng.standard_normal((outputs, inputs), np.float32))
        return self._rng.integers(0, 60, (outputs, kind.row_bytes(inputs)), dtype=np.uint8)

    def attend(self, heads: int, key_heads: int, head: int, tokens: int, context: int) -> Made:
        """The last tokens of a context against all of it; of a token's half that is to come, nothing counts."""
        send, page = self._home.asarray, 32
        dtype = np.float16 if self._plan.native else np.float32
        pages = context // page
        k = self._normal(1, pages, key_heads, head, page, dtype=dtype)
        v = self._normal(1, pages, key_heads, page, head, dtype=dtype)
        where = send(np.arange(context - tokens, context, dtype=np.int32)[None])
        table = send(np.arange(pages, dtype=np.int32)[None])
        seen = tokens * (context - (tokens - 1) / 2)
        return Made(
            self._compiled(
                attention,
                self._normal(1, tokens, heads, head),
                k,
                v,
                where,
                table,
                send(np.int32(0)),
                role="token" if tokens == 1 else "prompt",
            ),
            int(k.nbytes + v.nbytes),
            4.0 * heads * head * seen,
            "float32",
        )

    def norm(self, width: int, rows: int) -> Made:
        """Rows by their root mean square."""
        call = self._compiled(
            lambda x, w: rms_norm(x, w, eps=1e-5), self._normal(rows, width), self._home.asarray(np.ones(width, "f4"))
        )
        return Made(call, 8 * rows * width, 4.0 * rows * width, "float32")

    def draw(self, temperature: float) -> Made:
        """A token from logits."""
        send, logits = self._home.asarray, self._normal(1, 49152)
        if temperature == 0:
            return Made(self._compiled(greedy, logits), 4 * 49152, 49152.0, "float32")
        params = Sampling(
            send(np.array([temperature], np.float32)),
            send(np.array([40], np.int32)),
            send(np.array([0.95], np.float32)),
            send(np.array([0.05], np.float32)),
        )
        seed, position = send(np.zeros((1, 2), np.uint32)), send(np.zeros(1, np.int32))
        return Made(self._compiled(sample, logits, params, seed, position), 4 * 49152, 49152.0, "float32")
