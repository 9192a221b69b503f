"""A program: the check sums of what the kernels compute, by instruction set and thread count of the process it is.

`python -m tests.ops.bits` prints one JSON object; test_bits.py runs it under every setting and compares.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from soberano.backends import native
from soberano.backends.choose import choose
from soberano.backends.homes import home
from soberano.backends.plan import using
from soberano.core.types import Array
from soberano.ops import knn_native
from soberano.ops.attention import attention, write_kv
from soberano.ops.causal_attention import causal_attention, causal_attention_back
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import linear
from soberano.ops.norm import rms_norm
from soberano.quant import tiles
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from soberano.quant.vectors import vectors
from tests.ops.test_linear import TILED, random_blocks, weight_of

jax = home("jax")
PAGES, PAGE = 12, 32


def products(rng: np.random.Generator) -> Iterator[Array]:
    """Every kind of weight times few rows and many, and transposed; what is not finite stays in its row."""
    for kind in TILED:
        x = jax.asarray(rng.normal(size=(25, 512)).astype(np.float32))
        weight = weight_of(kind, "tiles", random_blocks(kind, 150, 512, rng), jax)
        yield from (linear(weight, x), linear(weight, x[:9]))
        packed, y = tiles.pack(kind, random_blocks(kind, 150, 512, rng)), rng.normal(size=(11, 150)).astype(np.float32)
        back, layout = np.zeros((11, 512), np.float32), tiles.layout_of(kind)
        native.call("soberano_linear_transposed", y, packed, back, 11, 512, 150, layout.kind)
        yield back
        for bad, at in zip((np.nan, np.inf, -np.inf), rng.integers(512, size=3), strict=True):
            x = x.at[4, at].set(bad)
            z = jax.to_numpy(linear(weight_of(kind, "tiles", random_blocks(kind, 150, 512, rng), jax), x))
            assert not np.isfinite(z[4]).any() and np.isfinite(z[:4]).all(), (kind.name, bad)
            x = x.at[4, at].set(0)
    for kind in (TILED[0], format_named("F32")):
        shapes = ((64, 288), (288, 64))
        up, down = (weight_of(kind, "tiles", encode(kind, draw(rng, *s)), jax) for s in shapes)
        biases = (None, jax.asarray(draw(rng, 64)), jax.asarray(draw(rng, 288)))
        for activation in ("silu", "gelu", "gelu_erf"):
            yield feed_forward(None, up, down, jax.asarray(draw(rng, 25, 288)), biases, activation=activation)


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def cached(rng: np.random.Generator) -> Iterator[Array]:
    """Attention over pages, the write of new keys and values, and a norm."""
    keys, values = pages(rng, 64)
    q, table = rng.normal(size=(1, 3, 6, 64)).astype(np.float32), jax.asarray(np.arange(PAGES, dtype=np.int32)[None])
    at = jax.asarray(np.array([[5, 200, 380]], np.int32))
    yield attention(jax.asarray(q), keys, values, at, table, 0)
    bad = q.copy()
    bad[0, 1, 2, 40] = np.nan
    out = attention(jax.asarray(bad), keys, values, at, table, 0)
    assert np.isnan(out[0, 1, 2]).all() and np.isnan(out).sum() == 64
    new = [jax.asarray(rng.normal(size=(1, 3, 2, 64)).astype(np.float32)) for _ in range(2)]
    yield from write_kv(keys, values, *new, jax.asarray(np.array([[5, -1, 380]], np.int32)), table, 0)
    yield rms_norm(jax.asarray(q[0, 0]), jax.asarray(np.ones(64, np.float32)), eps=1e-5)


def windows(rng: np.random.Generator) -> Iterator[Array]:
    """Attention with windows, a cap and sinks: one token, a few and a chunk."""
    sinks = jax.asarray(rng.normal(size=6).astype(np.float32))
    table = jax.asarray(np.arange(PAGES, dtype=np.int32)[None])
    for width in (64, 80):
        kept = pages(rng, width)
        for new in (1, 3, 90):
            q = jax.asarray(3 * rng.normal(size=(1, new, 6, width)).astype(np.float32))
            at = jax.asarray(np.arange(370 - new, 370, dtype=np.int32)[None])
            for window in (0, 1, 50, 150):
                with using(replace(choose("cpu"), role="token")):
                    yield attention(q, *kept, at, table, 0, window=window, cap=2.0, sinks=sinks, impl="kernel")


def causal(rng: np.random.Generator) -> Iterator[Array]:
    """Causal attention of packed texts, and its gradients: more blocks of tokens than parts of them."""
    q, k, v = (jax.asarray(rng.normal(size=(2, 150, heads, 64)).astype(np.float32)) for heads in (6, 2, 2))
    segments = jax.asarray(np.sort(rng.integers(0, 3, (2, 150))).astype(np.int32))
    out = causal_attention(q, k, v, segments, 40, cap=2.0, impl="kernel")
    yield out
    yield from causal_attention_back(out, out, q, k, v, segments, 40, cap=2.0, impl="kernel")


def search(rng: np.random.Generator) -> Iterator[Array]:
    """The nearest of 9,001 vectors, of each kind whose bits no instruction set changes."""
    exact, queries = _vectors(rng)
    for kind in ("float32", "int8", "bit"):
        yield from knn_native.nearest(queries, exact.packed(kind), 30, upper=True)


def search_bfloat16(rng: np.random.Generator) -> Iterator[Array]:
    """The same of bfloat16, where the matrix unit adds in an order of its own."""
    exact, queries = _vectors(rng)
    yield from knn_native.nearest(queries, exact.packed("bfloat16"), 30)


def _vectors(rng: np.random.Generator) -> tuple:
    return vectors(rng.normal(size=(9001, 100)), "l2"), rng.normal(size=(21, 100)).astype(np.float32)


def pages(rng: np.random.Generator, width: int) -> tuple[Array, Array]:
    """Keys and values of one layer and two heads, in float16."""
    shapes = (1, PAGES, 2, width, PAGE), (1, PAGES, 2, PAGE, width)
    keys, values = (jax.asarray(rng.normal(size=shape).astype(np.float16)) for shape in shapes)
    return keys, values


def check_sum(program: Callable[[np.random.Generator], Iterator[Array]]) -> int:
    """Of all that a program yields."""
    seen = 0
    for part in program(np.random.default_rng(1)):
        seen = zlib.crc32(jax.to_numpy(part).tobytes(), seen)
    return seen


if __name__ == "__main__":
    programs = (products, cached, windows, causal, search, search_bfloat16)
    print(json.dumps({"isa": native.isa()} | {program.__name__: check_sum(program) for program in programs}))
