"""Every text goes through once, among its like, in few shapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import CapacityError
from soberano.models.batches import LENGTHS, MOST_TOKENS, ROWS, batches, check_memory

TEXTS = st.lists(st.integers(1, 600).map(lambda n: list(range(1, n + 1))), max_size=40)


@given(texts=TEXTS, most=st.integers(1, 40), pads=st.booleans())
def test_every_text_goes_through_once_among_its_like(texts: list[list[int]], most: int, pads: bool) -> None:
    found = list(batches(texts, most, pads=pads))
    assert sorted(i for batch in found for i in batch.texts) == list(range(len(texts)))
    for batch in found:
        count, (rows, length) = len(batch.texts), batch.tokens.shape
        assert 1 <= count <= min(most, rows) and rows * length <= 2 * MOST_TOKENS
        assert max(len(texts[i]) for i in batch.texts) <= 4 / 3 * min(len(texts[i]) for i in batch.texts)
        assert (rows in ROWS and (length in LENGTHS or length % LENGTHS[-1] == 0)) if pads else rows == count
        for row, i in enumerate(batch.texts):
            assert batch.lengths[row] == len(texts[i])
            assert batch.tokens[row, : len(texts[i])].tolist() == texts[i]
            assert not batch.tokens[row, len(texts[i]) :].any()
        assert (batch.lengths[count:] == 1).all()


def test_the_longest_come_first() -> None:
    texts = [[0] * n for n in (3, 200, 4, 180, 4)]
    assert [batch.texts for batch in batches(texts, 32, pads=True)] == [[1, 3], [2, 4, 0]]
    assert [batch.texts for batch in batches(texts, 2, pads=True)] == [[1, 3], [2, 4], [0]]
    assert list(batches([], 32, pads=True)) == []


@pytest.mark.parametrize(("context", "tokens"), [(256, 32 * 256), (512, MOST_TOKENS), (32768, 32768)])
def test_weights_and_a_batch_that_memory_cannot_hold(context: int, tokens: int) -> None:
    need = 10**9 + 4 * tokens * (5 * 384 + 2 * 1536)
    check_memory(10**9, context, 384, 1536, need)
    with pytest.raises(
        CapacityError, match=rf"the weights take 1.00 GB and texts of up to {context} tokens .* are free"
    ):
        check_memory(10**9, context, 384, 1536, need - 1)
