"""Special tokens are found where a plain search finds them, however many there are and whatever the text is."""

from hypothesis import given
from hypothesis import strategies as st

from soberano.text.special import Spellings

FAMILY = [f"<u{i}>" for i in range(40)]  # many that begin alike and have few lengths: they are looked up
SPELT = st.text("<u1>ab\n ", min_size=1, max_size=4)


def cut_plainly(text: str, spellings: list[str]) -> list[tuple[int, int, str]]:
    """One spelling after the other, in what is left of the text."""
    free, found = [(0, len(text))], []
    for spelling in spellings:
        rest = []
        for start, stop in free:
            while (at := text.find(spelling, start, stop)) >= 0:
                rest.append((start, at))
                start = at + len(spelling)
                found.append((at, start, spelling))
            rest.append((start, stop))
        free = rest
    return sorted(found)


@given(st.lists(SPELT, unique=True), st.lists(st.sampled_from(FAMILY) | SPELT).map("".join))
def test_they_take_their_places_in_order(more: list[str], text: str):
    spellings = list(dict.fromkeys([*more, *FAMILY]))
    assert Spellings(spellings).cut(text) == cut_plainly(text, spellings)


@given(st.lists(SPELT, unique=True), st.lists(st.sampled_from(FAMILY) | SPELT).map("".join))
def test_every_place_is_found(more: list[str], text: str):
    spellings = list(dict.fromkeys([*more, *FAMILY]))
    want = {(at, s) for s in spellings for at in range(len(text)) if text.startswith(s, at)}
    found = list(Spellings(spellings).every(text))
    assert set(found) == want
    assert len(found) == len(want)


def test_greedy_ones_take_the_white_space_after_them():
    spellings = Spellings(["\n<b>", "<a>"], frozenset({"<a>"}))
    assert spellings.cut("<a> \t\n x<a>") == [(0, 7, "<a>"), (8, 11, "<a>")]
    assert spellings.cut("<a> \n<b>") == [(0, 4, "<a>"), (4, 8, "\n<b>")]
    assert spellings.cut("<a>\u00a0") == [(0, 3, "<a>")]


def test_thousands_of_them_and_a_hostile_text_take_no_long_time():
    many = [f"<unused{i}>" for i in range(6_000)]
    spellings = Spellings(many)
    assert spellings.cut("<unused" * 100_000) == []
    listed = "".join(many) + "x" * 1_000_000
    assert [spelling for _, _, spelling in spellings.cut(listed)] == many
    lines = Spellings("\n" * size for size in range(31, 0, -1))
    assert len(lines.cut("\n" * 100_000)) == 100_000 // 31 + 1
