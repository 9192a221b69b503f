"""linear and embed: every kind of weight against float64, and the kernels' promise of equal bits."""

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.plan import Plan, using
from soberano.core.errors import ShapeError
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.quant import tiles
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.tensor import Choice, QTensor
from tests.quant.test_tiles import PACKED, TILED, random_blocks
from tests.tolerance import assert_close, assert_gradient

needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])


def weight_of(kind: type[BlockFormat], form: str, raw: np.ndarray, home: Home) -> QTensor:
    shape = (raw.shape[0], kind.row_weights(raw.shape[1]))
    data = raw if form == "blocks" else tiles.pack(kind, raw)
    return QTensor(home.asarray(data), None, shape, kind.name, form)  # type: ignore[arg-type]


def rounded(x: np.ndarray, kind: type[BlockFormat]) -> np.ndarray:
    """What the kernel makes of activations for codes: per 32, whole numbers up to 127 * 128 times a scale. float64."""
    if kind.plain:
        return x.astype(np.float64)
    groups = x.reshape(*x.shape[:-1], -1, 32)
    top, whole = np.abs(groups).max(-1, keepdims=True), np.float32(127 * 128)
    codes = np.round(groups * np.where(top > 0, whole / np.where(top > 0, top, 1), 0).astype(np.float32))
    return (codes.astype(np.float64) * (top / whole).astype(np.float64)).reshape(x.shape)


@pytest.mark.parametrize("kind", TILED, ids=lambda k: k.name)
@pytest.mark.parametrize("form", ["blocks", "tiles"])
def test_the_meaning(kind: type[BlockFormat], form: str, home: Home, rng: np.random.Generator) -> None:
    raw, x = random_blocks(kind, 37, 512, rng), rng.normal(size=(2, 3, 512)).astype(np.float32)
    dense = kind.dequantize(home_named("numpy"), raw).astype(np.float64)
    actual = linear(weight_of(kind, form, raw, home), home.asarray(x), impl="meaning")
    size = float(np.abs(dense).max())
    assert_close(home.to_numpy(actual), x @ dense.T, summed=512, size=size, what=f"linear {kind.name} {form}")


@needs_native
@pytest.mark.parametrize("kind", TILED, ids=lambda k: k.name)
@pytest.mark.parametrize("tokens", [1, 2, 11, 40])
def test_the_kernel(kind: type[BlockFormat], tokens: int, rng: np.random.Generator) -> None:
    home = home_named("jax")
    raw, x = random_blocks(kind, 150, 768, rng), rng.normal(size=(tokens, 768)).astype(np.float32)
    x[0, :32] = 0  # a group of zeros has no scale
    dense = kind.dequantize(home_named("numpy"), raw).astype(np.float64)
    actual = linear(weight_of(kind, "tiles", raw, home), home.asarray(x), impl="kernel")
    size = float(np.abs(dense).max())
    assert_close(home.to_numpy(actual), rounded(x, kind) @ dense.T, summed=768, size=size, what=f"linear {kind.name}")


@needs_native
@pytest.mark.parametrize("kind", TILED, ids=lambda k: k.name)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(kind: type[BlockFormat], rng: np.random.Generator) -> None:
    home = home_named("jax")
    weight = weight_of(kind, "tiles", random_blocks(kind, 640, 512, rng), home)
    x = rng.normal(size=(32, 512)).astype(np.float32)
    batch = home.to_numpy(linear(weight, home.asarray(x)))
    for row in (0, 7, 31):
        alone = home.to_numpy(linear(weight, home.asarray(x[row : row + 1])))
        np.testing.assert_array_equal(alone[0], batch[row])


@pytest.mark.parametrize("form", ["blocks", "tiles"])
@pytest.mark.parametrize("kind", [PACKED[1], format_named("F32")], ids=lambda k: k.name)
def test_biases_are_added(kind: type[BlockFormat], form: str, home: Home, rng: np.random.Generator) -> None:
    """To whom they belong: of three weights the second has none, and none has a whole number of panels."""
    raws = [random_blocks(kind, outputs, 64, rng) for outputs in (5, 20, 37)]
    weights = tuple(weight_of(kind, form, raw, home) for raw in raws)
    biases = [rng.normal(size=len(raw)).astype(np.float32) for raw in raws]
    given = (home.asarray(biases[0]), None, home.asarray(biases[2]))
    for tokens in (1, 19):
        x = home.asarray(rng.normal(size=(tokens, 64)).astype(np.float32))
        for role in (None, PROMPT) if home.name == "jax" and native.state()[0] and native.isa() == "amx" else (None,):
            with using(role):
                found, bare = linears(weights, x, given), linears(weights, x)
                assert linear(weights[0], x, given[0]).shape == (tokens, 5)
            for i, (y, without) in enumerate(zip(found, bare, strict=True)):
                expected = home.to_numpy(without) + (0 if i == 1 else biases[i])
                np.testing.assert_array_equal(home.to_numpy(y), expected)
    with pytest.raises(ShapeError, match=r"linear: bias is \(37,\), but the weight has 5 outputs; pass that many"):
        linear(weights[0], x, given[2])


@needs_native
def test_products_together_have_the_bits_of_each_alone(rng: np.random.Generator) -> None:
    home = home_named("jax")
    weights = tuple(
        weight_of(kind, "tiles", random_blocks(kind, 16 * i + 5, 512, rng), home) for i, kind in enumerate(TILED)
    )
    x = home.asarray(rng.normal(size=(3, 512)).astype(np.float32))
    for together, weight in zip(linears(weights, x), weights, strict=True):
        np.testing.assert_array_equal(home.to_numpy(together), home.to_numpy(linear(weight, x)))


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_stays_so(bad: float, impl: str, home: Home, rng: np.random.Generator) -> None:
    """And no other token notices: the place of the number is every one of a group in turn, beside zeros too."""
    kind = PACKED[1]
    raw, x = random_blocks(kind, 40, 64, rng), rng.normal(size=(64, 64)).astype(np.float32)
    x[:, 40:] = 0
    weight = weight_of(kind, "tiles", raw, home)
    before = home.to_numpy(linear(weight, home.asarray(x), impl=impl))
    x[np.arange(0, 64, 2), np.arange(0, 64, 2)] = bad
    with np.errstate(invalid="ignore"):
        after = home.to_numpy(linear(weight, home.asarray(x), impl=impl))
    assert not np.isfinite(after[::2]).any()
    np.testing.assert_array_equal(after[1::2], before[1::2])


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("prompt", [False, True])
def test_nor_does_a_layer_hide_it(prompt: bool, impl: str, home: Home, rng: np.random.Generator) -> None:
    kind = PACKED[1]
    gate, up, down = (
        weight_of(kind, "tiles", random_blocks(kind, *s, rng), home) for s in ((64, 32), (64, 32), (32, 64))
    )
    x = rng.normal(size=(3, 32)).astype(np.float32)
    x[1, 5] = np.nan
    with using(PROMPT if prompt and home.name == "jax" and native.isa() == "amx" else None):
        y = home.to_numpy(feed_forward(gate, up, down, home.asarray(x), impl=impl))
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("form", ["blocks", "tiles"])
def test_gradient(form: str, rng: np.random.Generator) -> None:
    import jax

    home, kind = home_named("jax"), PACKED[1]
    raw, x = random_blocks(kind, 5, 32, rng), rng.normal(size=(2, 32)).astype(np.float32)
    dense = kind.dequantize(home_named("numpy"), raw).astype(np.float64)
    weight = weight_of(kind, form, raw, home)
    gradient = jax.grad(lambda x: (linear(weight, x) ** 2).sum() / 2)(home.asarray(x))
    bias = home.asarray(np.ones(5, np.float32))
    by_bias = jax.grad(lambda bias: (linear(weight, home.asarray(x), bias) ** 2).sum() / 2)(bias)
    seen = rounded(x, kind) if form == "tiles" and native.state()[0] else x
    assert_close(by_bias, (seen @ dense.T + 1).sum(0), summed=32, what="gradient of linear by bias")
    if form == "blocks" or not native.state()[0]:
        assert_gradient(gradient, lambda x: float(((x @ dense.T) ** 2).sum()) / 2, x, summed=32, what="linear")
    else:  # forwards with rounded activations, backwards by linears_transposed: d/dx = w^T y
        dtype = "bfloat16" if native.isa() == "amx" else "float32"
        expected = (rounded(x, kind) @ dense.T) @ dense
        assert_close(gradient, expected, dtype, summed=32, size=0.02, what="gradient of linear in tiles")


def test_embed_takes_rows(home: Home, rng: np.random.Generator) -> None:
    kind = PACKED[4]
    raw, ids = random_blocks(kind, 40, 64, rng), np.array([[3, 39, 0]], np.int32)
    dense = kind.dequantize(home_named("numpy"), raw)
    for form in ("blocks", "tiles"):
        actual = embed(weight_of(kind, form, raw, home), home.asarray(ids))
        np.testing.assert_array_equal(home.to_numpy(actual), dense[ids])
    np.testing.assert_array_equal(home.to_numpy(embed(home.asarray(dense), home.asarray(ids))), dense[ids])


def test_a_choice_is_made_at_run_time(home: Home, rng: np.random.Generator) -> None:
    x = rng.normal(size=(1, 64)).astype(np.float32)
    stacks = [np.stack([random_blocks(kind, 8, 64, rng) for _ in range(2)]) for kind in PACKED[:2]]
    members = tuple(
        QTensor(home.asarray(raw), None, (8, 64), kind.name, "blocks")
        for kind, raw in zip(PACKED, stacks, strict=False)
    )
    plain = home.asarray(rng.normal(size=(1, 8, 64)).astype(np.float32))
    tag, slot = (home.asarray(np.array(a, np.int32)) for a in ([0, 1, 2, 1, 0], [0, 0, 0, 1, 1]))

    def choose(index: np.ndarray, x: np.ndarray) -> np.ndarray:
        return linear(Choice((*members, plain), tag, slot, index), x)

    for index, meant in enumerate([members[0].at(0), members[1].at(0), plain[0], members[1].at(1), members[0].at(1)]):
        actual = home.compile(choose)(home.asarray(np.int32(index)), home.asarray(x))
        expected = home.to_numpy(linear(meant, home.asarray(x)))
        assert_close(home.to_numpy(actual), expected, summed=64, what=f"choice {index}")


@needs_native
def test_the_kernel_looks_up_its_layer_in_a_mixed_stack(rng: np.random.Generator) -> None:
    home = home_named("jax")
    kinds = (format_named("Q4_1"), format_named("F16"))  # one wants activations in integers, one as they are
    raws = [[random_blocks(kind, 40, 512, rng) for _ in range(2)] for kind in kinds]
    members = tuple(
        QTensor(home.asarray(np.stack([tiles.pack(kind, raw) for raw in each])), None, (40, 512), kind.name, "tiles")
        for kind, each in zip(kinds, raws, strict=True)
    )
    tag, slot = (home.asarray(np.array(a, np.int32)) for a in ([1, 0, 1, 0], [0, 0, 1, 1]))
    x = home.asarray(rng.normal(size=(3, 512)).astype(np.float32))
    for index, (t, s) in enumerate([(1, 0), (0, 0), (1, 1), (0, 1)]):
        mixed = Choice(members, tag, slot, home.asarray(np.int32(index)))
        expected = linear(weight_of(kinds[t], "tiles", raws[t][s], home), x)
        np.testing.assert_array_equal(linear(mixed, x, impl="kernel"), expected)
    with pytest.raises(Exception, match="outside of its table"):
        linear(Choice(members, tag, slot, home.asarray(np.int32(4))), x, impl="kernel").block_until_ready()


def test_a_wrong_width_is_named(home: Home) -> None:
    with pytest.raises(ShapeError, match=r"linear: the weight is \(4, 8\), but the last axis of x \(2, 9\) is 9"):
        linear(home.asarray(np.ones((4, 8), np.float32)), home.asarray(np.ones((2, 9), np.float32)))


needs_amx = pytest.mark.skipif(
    not native.state()[0] or native.isa() != "amx", reason="this processor has no matrix unit"
)
PROMPT = Plan("cpu", "jax", native=True, isa="amx", threads=2, weights="tiles", role="prompt")


@needs_amx
@pytest.mark.parametrize("kind", TILED, ids=lambda k: k.name)
@pytest.mark.parametrize("tokens,outputs", [(1, 16), (11, 150), (40, 64), (64, 33)])
def test_a_prompt_goes_through_the_matrix_unit(
    kind: type[BlockFormat], tokens: int, outputs: int, rng: np.random.Generator
) -> None:
    home = home_named("jax")
    raw, x = random_blocks(kind, outputs, 512, rng), rng.normal(size=(tokens, 512)).astype(np.float32)
    dense = kind.dequantize(home_named("numpy"), raw).astype(np.float64)
    weight = weight_of(kind, "tiles", raw, home)
    with using(PROMPT):
        actual = home.to_numpy(linear(weight, home.asarray(x)))
        alone = home.to_numpy(linear(weight, home.asarray(x[-1:])))
    size = float(np.abs(dense).max())
    assert_close(actual, x @ dense.T, "bfloat16", summed=512, size=size / 4, what=f"prompt {kind.name}")
    np.testing.assert_array_equal(alone[0], actual[-1])
    assert not np.array_equal(actual, home.to_numpy(linear(weight, home.asarray(x)))), "the same as for tokens"
