"""nearest and rescore: every kind and metric against a float64 sort, and the kernels' promise of equal bits."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.tree import map_arrays
from soberano.core.errors import InputError, ShapeError
from soberano.ops import knn, knn_native
from soberano.ops.certified import OPS, Scan
from soberano.quant.vectors import Vectors, vectors
from tests.cases import MINILM_L6
from tests.tolerance import UNITS, assert_close

METRICS = ("dot", "cosine", "l2")
KINDS = ("float32", "bfloat16", "int8", "bit")
needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])


def on(home: Home, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with arguments from NumPy and results brought back to it."""

    def call(*args: Any, **options: Any) -> Any:
        moved = [map_arrays(home.asarray, a) if isinstance(a, Vectors | np.ndarray) else a for a in args]
        found = function(*moved, **options)
        # Copies, since JAX lends its memory to be read only.
        return (
            tuple(np.array(home.to_numpy(part)) for part in found) if isinstance(found, tuple) else home.to_numpy(found)
        )

    return call


def compiled(home: Home, impl: str) -> Scan:
    """The two ops as one implementation on one home, compiled where it compiles; k and upper are static."""

    @functools.cache
    def program(k: int, upper: bool) -> Callable[..., Any]:
        return on(home, home.compile(partial(knn.nearest, k=k, upper=upper, impl=impl)))

    rescore = on(home, home.compile(partial(knn.rescore, impl=impl)))
    return Scan(lambda queries, base, k, *, upper=False: program(k, upper)(queries, base), rescore)


@pytest.fixture(scope="session", params=["numpy", "jax", "cupy", "native", "native from jax"])
def scan(request: pytest.FixtureRequest) -> Scan:
    """Each way to search, called on NumPy arrays: the meaning on each home, the kernel by itself and through XLA."""
    if request.param.startswith("native") and not native.state()[0]:
        pytest.skip(native.state()[1])
    if request.param == "cupy":
        pytest.importorskip("cupy")
    if request.param == "native":
        return knn_native.NATIVE
    if request.param == "native from jax":
        return compiled(home_named("jax"), "kernel")
    return compiled(home_named(request.param), "meaning")


def scores_of(queries: np.ndarray, base: Vectors) -> np.ndarray:
    """All scores of what a base decodes to, in float64 (Q, N)."""
    queries = queries.astype(np.float64)
    if base.metric == "cosine":
        length = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = queries / np.where(length == 0, 1, length)
    rows = base.rows(home_named("numpy"), np.arange(len(base))).astype(np.float64)
    return queries @ rows.T - (0.0 if base.half is None else base.half.astype(np.float64))


def best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


# Whole numbers, of which every home computes exact scores in float32: ties are the rule, and ids have to be right.
WHOLE = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@given(queries=arrays(np.float32, (3, 5), elements=WHOLE), base=arrays(np.float32, (40, 5), elements=WHOLE))
def test_ties_go_to_the_smaller_id(scan: Scan, kind: str, metric: str, queries: np.ndarray, base: np.ndarray) -> None:
    packed = vectors(base, metric).packed(kind)
    expected = scores_of(queries, packed)
    scores, ids = scan.nearest(queries, packed, 7)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, best(expected, 7))
    np.testing.assert_array_equal(scores, np.take_along_axis(expected, best(expected, 7), 1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_real_shapes(scan: Scan, rng: np.random.Generator, kind: str, metric: str) -> None:
    """More rows than a block of the meaning, none of them a multiple of anything."""
    packed = vectors(rng.normal(size=(5003, MINILM_L6.width)), metric).packed(kind)
    queries = rng.normal(size=(3, MINILM_L6.width)).astype(np.float32)
    check(scan, queries, packed, 10)


@needs_native
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_shape(kind: str, metric: str, seed: int, data: st.DataObject) -> None:
    """The kernel alone: XLA would compile each of them."""
    rows, width, batch = (data.draw(st.integers(1, most)) for most in (700, 150, 40))
    rng = np.random.default_rng(seed)
    packed = vectors(rng.normal(size=(rows, width)), metric).packed(kind)
    check(knn_native.NATIVE, rng.normal(size=(batch, width)), packed, data.draw(st.integers(1, rows)))


def check(scan: Scan, queries: np.ndarray, packed: Vectors, k: int) -> None:
    """Scores are those of the returned rows, and no better row is missing, but for rounding."""
    expected = scores_of(queries, packed)
    scores, ids = scan.nearest(queries.astype(np.float32), packed, k)
    label = f"{packed.kind} {packed.metric}"
    size = np.linalg.norm(queries, axis=1).max() * np.linalg.norm(packed.rows(home_named("numpy"), ids), axis=-1).max()
    if packed.metric == "cosine":
        size = 1.0
    # Codes meet queries of 15 bits, and the matrix unit splits a query into two bfloat16: some 16 bits either way.
    size *= 1 if packed.kind == "float32" else 2.0**-14 / UNITS["float32"]
    summed = packed.width
    assert_close(scores, np.take_along_axis(expected, ids, 1), summed=summed, size=size, what=label)
    assert_close(scores, -np.sort(-expected, axis=1)[:, :k], summed=summed, size=size, what=label)
    assert all(len(set(row)) == k for row in ids.tolist()), "an id twice"
    assert (np.diff(scores, axis=1) <= 0).all()
    ties = np.diff(scores, axis=1) == 0
    assert (np.diff(ids, axis=1)[ties] > 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_rescore(scan: Scan, rng: np.random.Generator, kind: str, metric: str) -> None:
    base = vectors(rng.normal(size=(300, 50)), metric).packed(kind)
    queries, ids = rng.normal(size=(3, 50)).astype(np.float32), rng.integers(0, 300, (3, 70)).astype(np.int32)
    expected = np.take_along_axis(scores_of(queries, base), ids, 1)
    assert_close(scan.rescore(queries, base, ids), expected, summed=50, size=100.0, what=f"{kind} {metric}")


@needs_native
@pytest.mark.parametrize("metric", METRICS)
def test_a_rescored_row_has_the_bits_of_the_scan(rng: np.random.Generator, metric: str) -> None:
    base = vectors(rng.normal(size=(300, 50)), metric)
    queries = rng.normal(size=(5, 50)).astype(np.float32)
    scores, ids = knn_native.nearest(queries, base, 300)
    assert (knn_native.rescore(queries, base, ids).view(np.uint32) == scores.view(np.uint32)).all()


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 150), batch=st.integers(1, 40))
def test_a_query_does_not_depend_on_its_batch(kind: str, seed: int, width: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    base = vectors(rng.normal(size=(400, width)), "l2").packed(kind)
    queries = rng.normal(size=(batch, width)).astype(np.float32)
    for upper in (False, True):
        together = knn_native.nearest(queries, base, 20, upper=upper)
        for i in range(batch):
            alone = knn_native.nearest(queries[i : i + 1], base, 20, upper=upper)
            assert (alone[0].view(np.uint32) == together[0][i].view(np.uint32)).all()
            assert (alone[1] == together[1][i]).all()


@needs_native
@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_score_equally_wherever_they_lie(rng: np.random.Generator, kind: str) -> None:
    base = np.tile(rng.normal(size=(1, 77)), (403, 1))
    scores, ids = knn_native.nearest(rng.normal(size=(19, 77)), vectors(base, "dot").packed(kind), 403)
    assert (scores == scores[:, :1]).all()
    assert (ids == np.arange(403)).all()


def test_every_vector_may_be_asked_for_and_a_single_one_found(scan: Scan) -> None:
    base = vectors(np.array([[1.0], [3.0], [2.0]]), "dot")
    assert scan.nearest(np.array([[1.0], [-1.0]], np.float32), base, 3)[1].tolist() == [[1, 2, 0], [0, 2, 1]]
    alone = vectors(np.array([[1.0, 2.0]]), "l2").packed("int8")
    assert scan.nearest(np.array([[1.0, 2.0]], np.float32), alone, 1)[1].tolist() == [[0]]


def test_a_query_of_zeros_is_a_query(scan: Scan, rng: np.random.Generator) -> None:
    for metric in METRICS:
        scores, ids = scan.nearest(np.zeros((1, 4), np.float32), vectors(rng.normal(size=(9, 4)), metric), 2)
        assert np.isfinite(scores).all() and ids.shape == (1, 2)
    assert ids.tolist() != [[0, 1]]  # the shortest two, by l2


NOT_COMPILED = (OPS, knn_native.NATIVE) if native.state()[0] else (OPS,)


@pytest.mark.parametrize("scan", NOT_COMPILED, ids=["ops", "native"][: len(NOT_COMPILED)])
@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (
            np.zeros(3, np.float32),
            1,
            ShapeError,
            r"nearest: queries are \(3,\) and the base is \(5, 3\); pass \(Q, 3\)",
        ),
        (np.zeros((2, 4), np.float32), 1, ShapeError, r"queries are \(2, 4\)"),
        (np.zeros((2, 3), np.int32), 1, InputError, "queries are int32; pass floating-point numbers"),
        (np.zeros((2, 3), np.float32), 0, InputError, "k is 0, but the base has 5 vectors; pass a k from 1 to 5"),
        (np.zeros((2, 3), np.float32), 6, InputError, "k is 6, but the base has 5 vectors"),
        (np.array([[0, 0, 0], [0, np.nan, 0]], np.float32), 1, InputError, "nearest: query 1 holds NaN"),
        (np.array([[0, 0, -np.inf]], np.float32), 1, InputError, "query 0 holds NaN, an infinity"),
        (np.array([[0, 0, 1e30]], np.float32), 1, InputError, "so large that its length may exceed 1e"),
    ],
)
def test_refuses_with_the_numbers(
    scan: Scan, queries: np.ndarray, k: int, error: type[Exception], message: str
) -> None:
    base = vectors(np.zeros((5, 3)), "dot")
    with pytest.raises(error, match=message):
        scan.nearest(queries, base, k)


@pytest.mark.parametrize("scan", NOT_COMPILED, ids=["ops", "native"][: len(NOT_COMPILED)])
def test_rescore_refuses_ids_of_other_shapes_and_types(scan: Scan) -> None:
    base, queries = vectors(np.zeros((5, 3)), "dot"), np.zeros((2, 3), np.float32)
    for ids in (np.zeros((1, 4), np.int32), np.zeros((2, 4), np.int64), np.zeros(2, np.int32)):
        with pytest.raises(ShapeError, match=r"rescore: ids are int.. \(.*\) for 2 queries; pass int32 \(2, C\)"):
            scan.rescore(queries, base, ids)


def test_half_precision_queries(home: Home, rng: np.random.Generator) -> None:
    base, queries = vectors(rng.normal(size=(20, 8)), "dot"), rng.normal(size=(2, 8)).astype(np.float16)
    _, ids = on(home, knn.nearest)(queries, base, 3)
    np.testing.assert_array_equal(ids, best(scores_of(queries, base), 3))


@pytest.mark.parametrize("bad", [-1, 100, 2**30])
def test_rescore_refuses_ids_that_are_no_rows(home: Home, bad: int) -> None:
    base, queries = vectors(np.ones((100, 8)), "dot"), np.ones((1, 8), np.float32)
    ids = np.array([[5, bad, 7]], np.int32)
    calls = [lambda: knn.rescore(home.asarray(queries), map_arrays(home.asarray, base), home.asarray(ids))]
    if native.state()[0]:
        calls.append(lambda: knn_native.rescore(queries, base, ids))
    for call in calls:
        with pytest.raises(
            InputError, match=f"rescore: {bad} is no id of a base of 100 vectors; pass ids from 0 to 99"
        ):
            call()


@needs_native
@pytest.mark.parametrize("bad", [-1, 100, 2**30])
def test_nor_does_a_compiled_kernel_read_them(bad: int) -> None:
    base, queries = vectors(np.ones((100, 8)), "l2"), np.ones((1, 8), np.float32)
    scan = compiled(home_named("jax"), "kernel")
    with pytest.raises(Exception, match="rescore: an id is outside of the base"):
        scan.rescore(queries, base, np.array([[5, bad, 7]], np.int32))
