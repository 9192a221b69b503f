"""Stop strings: what comes out is the text before the first of them, however it was cut into pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from soberano.models.generate import _StopText

TEXT = st.text("ab<>", max_size=30)


@given(
    text=TEXT, stops=st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3), cuts=st.lists(st.integers(0, 30))
)
def test_pieces_make_no_difference(text: str, stops: list[str], cuts: list[int]) -> None:
    places = [text.find(stop) for stop in stops if stop in text]
    filter_, out, hit = _StopText(tuple(stops)), "", False
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in pairwise(edges):
        piece, hit = filter_.push(text[start:end])
        out += piece
        assert text.startswith(out)
        if hit:
            break
    out += filter_.finish(hit)
    # With several, which one is seen first may depend on the pieces; that one is seen does not.
    assert hit == bool(places)
    if not places:
        assert out == text
    else:
        assert min(places) <= len(out) < len(text) and text.startswith(out)
    if len(stops) == 1:
        assert out == (text[: places[0]] if places else text)
