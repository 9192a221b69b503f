"""The product from the other side, and gradients made of it: against float64, on every home; and bits in a batch."""

from dataclasses import replace

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.plan import Plan, using
from soberano.core.errors import ShapeError, Unsupported
from soberano.core.types import Array
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import linear, linears
from soberano.ops.linear_transposed import linears_transposed
from soberano.quant import tiles
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.tensor import Choice, QTensor
from tests.ops.test_linear import needs_native, weight_of
from tests.quant.test_tiles import TILED, random_blocks
from tests.tolerance import GRADIENT, assert_close

AMX = Plan("cpu", "jax", native=True, isa="amx", threads=2, weights="tiles", role="prompt")
"""Where the kernel multiplies in bfloat16."""


def dense_of(kind: type[BlockFormat], raw: np.ndarray) -> np.ndarray:
    return kind.dequantize(home_named("numpy"), raw).astype(np.float64)


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", TILED, ids=lambda k: k.name)
@pytest.mark.parametrize("form", ["blocks", "tiles"])
def test_the_meaning(kind: type[BlockFormat], form: str, home: Home, rng: np.random.Generator) -> None:
    raw, y = random_blocks(kind, 37, 512, rng), numbers(rng, 2, 3, 37)
    dense = dense_of(kind, raw)
    actual = linears_transposed((weight_of(kind, form, raw, home),), home.asarray(y), impl="meaning")
    size = float(np.abs(dense).max())
    assert_close(home.to_numpy(actual), y @ dense, summed=37, size=size, what=f"transposed {kind.name} {form}")


@needs_native
@pytest.mark.parametrize("kind", TILED, ids=lambda k: k.name)
@pytest.mark.parametrize("tokens,outputs", [(1, 16), (11, 150), (40, 33)])
def test_the_kernels(kind: type[BlockFormat], tokens: int, outputs: int, rng: np.random.Generator) -> None:
    home, raw, y = home_named("jax"), random_blocks(kind, outputs, 512, rng), numbers(rng, tokens, outputs)
    dense = dense_of(kind, raw)
    size = float(np.abs(dense).max())
    actual = np.zeros((tokens, 512), np.float32)
    native.call(
        "soberano_linear_transposed", y, tiles.pack(kind, raw), actual, tokens, 512, outputs, tiles.layout_of(kind).kind
    )
    assert_close(actual, y @ dense, summed=outputs, size=size, what=f"float32 {kind.name}")
    through_jax = linears_transposed((weight_of(kind, "tiles", raw, home),), home.asarray(y), impl="kernel")
    assert_close(through_jax, y @ dense, summed=outputs, size=size, what=f"through JAX {kind.name}")
    if native.isa() == "amx":
        with using(AMX):
            rounded = linears_transposed((weight_of(kind, "tiles", raw, home),), home.asarray(y), impl="kernel")
        assert_close(rounded, y @ dense, "bfloat16", summed=outputs, size=size / 4, what=f"bfloat16 {kind.name}")


@needs_native
@pytest.mark.parametrize("isa", ["amx", "avx2"])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(isa: str, rng: np.random.Generator) -> None:
    if isa == "amx" != native.isa():
        pytest.skip("this processor has no matrix unit")
    home, kinds = home_named("jax"), [format_named(name) for name in ("Q4_1", "Q6_K", "F16")]
    weights = tuple(weight_of(k, "tiles", random_blocks(k, 2800 + i, 512, rng), home) for i, k in enumerate(kinds))
    ys = [home.asarray(numbers(rng, 43, weight.shape[0])) for weight in weights]
    with using(replace(AMX, isa=isa)):
        batch = home.to_numpy(linears_transposed(weights, *ys, impl="kernel"))
        for row in (0, 31, 42):
            alone = linears_transposed(weights, *(y[row : row + 1] for y in ys), impl="kernel")
            np.testing.assert_array_equal(home.to_numpy(alone)[0], batch[row])


@needs_native
def test_several_weights_are_added(rng: np.random.Generator) -> None:
    home, expected, weights, ys = home_named("jax"), np.zeros((3, 512)), [], []
    for i, kind in enumerate(TILED):
        raw = random_blocks(kind, 16 * i + 5, 512, rng)  # an odd number of panels, and an even one
        ys.append(numbers(rng, 3, len(raw)))
        expected += ys[-1] @ dense_of(kind, raw)
        weights.append(weight_of(kind, "tiles", raw, home))
    actual = linears_transposed(tuple(weights), *(home.asarray(y) for y in ys), impl="kernel")
    size = float(np.abs(expected).max()) / 8
    assert_close(actual, expected, summed=sum(y.shape[1] for y in ys), size=size, what="all formats")


@needs_native
def test_the_gradient_of_linear_is_this_product(rng: np.random.Generator) -> None:
    """d/dx of |W x|^2 / 2 for a layer of a stack and for a layer of a mixed stack; and what is asked is no weight."""
    import jax

    home, kinds = home_named("jax"), (format_named("Q4_K"), format_named("BF16"))
    raws = [np.stack([random_blocks(kind, 70, 512, rng) for _ in range(2)]) for kind in kinds]
    members = tuple(
        QTensor(home.asarray(np.stack([tiles.pack(kind, raw) for raw in each])), None, (70, 512), kind.name, "tiles")
        for kind, each in zip(kinds, raws, strict=True)
    )
    tag, slot = (home.asarray(np.array(a, np.int32)) for a in ([1, 0], [0, 1]))
    x = home.asarray(numbers(rng, 2, 9, 512))

    @jax.jit
    def gradient(i: Array, x: Array) -> tuple[Array, Array, Array]:
        mixed, lone = Choice(members, tag, slot, i), members[0].at(i)
        both = jax.grad(lambda x: sum((y**2).sum() for y in linears((mixed, lone), x)) / 2)(x)
        again = jax.grad(lambda x: (jax.grad(lambda x: (linear(lone, x) ** 2).sum() / 2)(x) ** 2).sum() / 2)(x)
        return both, again, linear(lone, x)

    for i, (t, s) in enumerate([(1, 0), (0, 1)]):
        mixed, lone = dense_of(kinds[t], raws[t][s]), dense_of(kinds[0], raws[0][i])
        both, again, _ = gradient(home.asarray(np.int32(i)), x)
        wide = np.asarray(x, np.float64)
        first = wide @ mixed.T @ mixed + wide @ lone.T @ lone
        second = wide @ lone.T @ lone @ lone.T @ lone
        for actual, expected, what in ((both, first, "gradient"), (again, second, "gradient of the gradient")):
            size = GRADIENT * float(np.abs(expected).std()) / 16
            # activations are rounded to 15 bits on the way
            assert_close(actual, expected, "float16", summed=70, size=size, what=f"{what}, layer {i}")


@needs_native
def test_no_weight_becomes_whole_in_a_backward_pass(rng: np.random.Generator) -> None:
    import jax

    home, kind = home_named("jax"), format_named("Q4_0")
    up = weight_of(kind, "tiles", random_blocks(kind, 96, 64, rng), home)
    down = weight_of(kind, "tiles", random_blocks(kind, 64, 96, rng), home)
    x = home.asarray(numbers(rng, 5, 64))
    for name, loss in {
        "linear": lambda x: (linear(up, x) ** 2).sum(),
        "feed_forward": lambda x: (feed_forward(up, up, down, x) ** 2).sum(),
    }.items():
        program = str(jax.make_jaxpr(jax.grad(loss))(x))
        assert "soberano_linear_transposed" in program, name
        assert "f32[96,64]" not in program and "f32[64,96]" not in program, name


@needs_native
def test_the_gradient_of_a_feed_forward_layer(rng: np.random.Generator) -> None:
    import jax

    home, kind = home_named("jax"), format_named("Q8_0")
    raws = [random_blocks(kind, *shape, rng) for shape in ((96, 64), (96, 64), (64, 96))]
    gate, up, down = (home.asarray(dense_of(kind, raw).astype(np.float32)) for raw in raws)
    x = home.asarray(numbers(rng, 5, 64))
    packed = [weight_of(kind, "tiles", raw, home) for raw in raws]
    actual = jax.grad(lambda x: (feed_forward(*packed, x) ** 2).sum() / 2)(x)
    expected = jax.grad(lambda x: (feed_forward(gate, up, down, x, impl="meaning") ** 2).sum() / 2)(x)
    size = GRADIENT * float(np.abs(expected).max()) / 16
    # activations are rounded to 15 bits on the way
    assert_close(actual, expected, "float16", summed=96, size=size, what="gradient of feed_forward")


def test_wrong_shapes_are_named(home: Home, rng: np.random.Generator) -> None:
    y, kind = home.asarray(np.ones((2, 9), np.float32)), format_named("Q4_0")
    wrong = r"linears_transposed: the weight is \(4, 32\), but the last axis of y \(2, 9\) is 9"
    with pytest.raises(ShapeError, match=wrong):
        linears_transposed((home.asarray(np.ones((4, 32), np.float32)),), y)
    weight = weight_of(kind, "tiles", random_blocks(kind, 4, 32, rng), home)
    with pytest.raises(ShapeError, match=wrong):
        linears_transposed((weight,), y)
    with pytest.raises(Unsupported):
        linears_transposed((weight,), y, impl="kernel")
