"""The book of pages: no page is lost or held twice, whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import CapacityError
from soberano.models.cache import PAGE, Pages


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=200))
def test_every_page_is_in_one_place(events: list[tuple[bool, int]]) -> None:
    pages, held = Pages(16), list[list[int]]()
    for take, size in events:
        if take:
            before = pages.free
            try:
                held.append(pages.take(size))
                assert len(held[-1]) == -(-size // PAGE)
            except CapacityError:
                assert -(-size // PAGE) > before == pages.free
        elif held:
            pages.give_back(held.pop(size % len(held)))
        everywhere = [p for each in held for p in each]
        assert len(set(everywhere)) == len(everywhere) and len(everywhere) + pages.free == pages.count


def test_what_is_not_held_cannot_come_back() -> None:
    pages = Pages(4)
    mine = pages.take(PAGE * 2)
    pages.give_back(mine)
    for wrong in (mine, [99], [-1]):
        with pytest.raises(AssertionError):
            pages.give_back(wrong)
