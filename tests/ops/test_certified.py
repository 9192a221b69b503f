"""The certificate is never wrong: bounds hold for every pair, what is proven is what a float32 scan gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends import native
from soberano.core.errors import InputError
from soberano.ops import knn_native
from soberano.ops.certified import Scan, certified
from soberano.quant.vectors import vectors
from tests.cases import MINILM_L6
from tests.ops.test_knn import METRICS, scan, scores_of  # noqa: F401 - scan is a fixture

PACKED = ("bfloat16", "int8", "bit")
needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])
ROWS, WIDTH, BATCH = 120, 24, 4  # one shape for every example, so that XLA compiles once


def hard_case(seed: int, spread: float, scale: float, sparse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Queries and a base of near-ties: a few centres, and around them rows that differ by `spread`, some by nothing.

    Sparse rows have most of their length in one column, the worst that can be rounded to a shared scale.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, WIDTH))
    if sparse:
        centres[:, 1:] *= 1e-3
    base = centres[rng.integers(0, 3, ROWS)] + spread * rng.normal(size=(ROWS, WIDTH)) * rng.integers(0, 2, (ROWS, 1))
    queries = base[rng.integers(0, ROWS, BATCH)] + spread * rng.normal(size=(BATCH, WIDTH))
    return queries.astype(np.float32), (base * scale).astype(np.float32)


CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "spread": st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 0.03, 0.5]),
    "scale": st.sampled_from([1e-38, 1e-30, 1e-12, 1.0, 1e15]),
    "sparse": st.booleans(),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", PACKED)
@given(**CASES)
def test_no_original_scores_above_its_bound(
    scan: Scan,  # noqa: F811
    kind: str,
    metric: str,
    seed: int,
    spread: float,
    scale: float,
    sparse: bool,
) -> None:
    queries, base = hard_case(seed, spread, scale, sparse)
    exact = vectors(base, metric)
    bounds, ids = scan.nearest(queries, exact.packed(kind), ROWS, upper=True)
    scores, also = scan.nearest(queries, exact, ROWS)
    by_id = np.empty_like(scores), np.empty_like(scores)
    for values, at, into in zip((bounds, scores), (ids, also), by_id, strict=True):
        np.put_along_axis(into, at, values, 1)
    assert (by_id[0] >= by_id[1]).all()


@needs_native
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", PACKED)
@given(**CASES, k=st.integers(1, 20), candidates=st.integers(0, 40))
def test_what_is_proven_is_the_float32_answer(
    kind: str, metric: str, seed: int, spread: float, scale: float, sparse: bool, k: int, candidates: int
) -> None:
    queries, base = hard_case(seed, spread, scale, sparse)
    exact = vectors(base, metric)
    packed = exact.packed(kind)
    expected = knn_native.nearest(queries, exact, ROWS)
    found = certified(queries, packed, exact, k, candidates=k + candidates, scan=knn_native.NATIVE)
    for q in range(BATCH):
        if found.proven[q]:
            np.testing.assert_array_equal(found.ids[q], expected[1][q, :k])
            np.testing.assert_array_equal(found.scores[q], expected[0][q, :k])
        missed = ~np.isin(expected[1][q], found.ids[q])
        could = max(found.bound[q], found.scores[q, -1])
        assert (expected[0][q][missed] <= could).all(), "something better was missed, and the bound did not say so"
    sure = certified(queries, packed, exact, k, candidates=k + candidates, exact=True, scan=knn_native.NATIVE)
    assert sure.proven.all()
    np.testing.assert_array_equal(sure.ids, expected[1][:, :k])
    np.testing.assert_array_equal(sure.scores, expected[0][:, :k])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", PACKED)
def test_exact_answers_on_every_home(
    scan: Scan,  # noqa: F811
    rng: np.random.Generator,
    kind: str,
    metric: str,
) -> None:
    exact = vectors(rng.normal(size=(3000, MINILM_L6.width)), metric)
    queries = rng.normal(size=(3, MINILM_L6.width)).astype(np.float32)
    found = certified(queries, exact.packed(kind), exact, 10, exact=True, scan=scan)
    expected = scores_of(queries, exact)
    gaps = np.diff(np.sort(expected, axis=1)[:, -11:], axis=1)
    assert gaps.min() > 1e-6, "the example has a near-tie, which homes may round differently: choose another seed"
    np.testing.assert_array_equal(found.ids, np.argsort(-expected, axis=1)[:, :10])
    assert found.proven.all()


@needs_native
def test_int8_proves_most_answers_among_scattered_vectors(rng: np.random.Generator) -> None:
    exact = vectors(rng.normal(size=(3000, MINILM_L6.width)), "cosine")
    queries = rng.normal(size=(50, MINILM_L6.width))
    found = certified(queries, exact.packed("int8"), exact, 10, scan=knn_native.NATIVE)
    assert found.proven.mean() > 0.9, "a certificate that is never given proves nothing"


@needs_native
def test_near_ties_are_not_proven_until_asked(rng: np.random.Generator) -> None:
    base = np.tile(rng.normal(size=(1, 32)), (2000, 1))
    base[1500] *= 1 + 1e-6  # the nearest, by less than a byte can tell
    exact = vectors(base, "dot")
    packed, query = exact.packed("int8"), base[:1]
    found = certified(query, packed, exact, 1, scan=knn_native.NATIVE)
    assert not found.proven[0] and found.bound[0] >= found.scores[0, 0]
    sure = certified(query, packed, exact, 1, exact=True, scan=knn_native.NATIVE)
    assert sure.proven[0] and sure.ids.tolist() == [[1500]]


@needs_native
def test_originals_may_be_bfloat16(rng: np.random.Generator) -> None:
    short = vectors(rng.normal(size=(500, 40)), "cosine").packed("bfloat16")
    queries = rng.normal(size=(6, 40))
    found = certified(queries, short.packed("int8"), short, 5, exact=True, scan=knn_native.NATIVE)
    scores, ids = knn_native.nearest(queries, short.packed("float32"), 5)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)


def test_refuses_with_the_numbers(rng: np.random.Generator) -> None:
    exact = vectors(rng.normal(size=(20, 4)), "dot")
    packed, queries = exact.packed("int8"), np.zeros((1, 4), np.float32)
    other = vectors(rng.normal(size=(21, 4)), "dot")
    with pytest.raises(
        InputError, match="packed holds 20 x 4 in int8 for dot, the original 21 x 4 for dot; make it by"
    ):
        certified(queries, packed, other, 3)
    with pytest.raises(InputError, match="packed holds 20 x 4 in float32"):
        certified(queries, exact, exact, 3)
    with pytest.raises(InputError, match="the original is in int8; pass the float32 or bfloat16 vectors"):
        certified(queries, packed, packed, 3)
    with pytest.raises(InputError, match="2 candidates are too few for the 3 nearest; pass 3 or more"):
        certified(queries, packed, exact, 3, candidates=2)
    with pytest.raises(InputError, match="certified: k is 21, but the base has 20 vectors"):
        certified(queries, packed, exact, 21)
