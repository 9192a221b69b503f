"""Where a text spells special tokens, in time that neither thousands of them nor a hostile text can stretch.

Some vocabularies hold thousands of special tokens that begin alike (<unused0> to <unused6241>). To look for each in a
long text takes seconds, so such families are looked up instead: wherever their beginning stands, the few lengths that
they have are compared with a set.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator

_WHITE = re.compile(r"[ \t\n\v\f\r]*")  # C's white space
_HEAD = 2
_PAYS = 4
"""Members per length from which a family is looked up: less, and a search for each is faster."""


class Spellings:
    """Strings, in the order in which they take their places in a text; `greedy` ones with the white space after them.

    None is empty.
    """

    def __init__(self, spellings: Iterable[str], greedy: frozenset[str] = frozenset()) -> None:
        self._rank = {spelling: rank for rank, spelling in enumerate(spellings)}
        self._greedy = greedy
        families: dict[str, list[str]] = {}
        for spelling in self._rank:
            families.setdefault(spelling[:_HEAD], []).append(spelling)
        self._searched: list[str] = []
        self._looked_up: dict[str, list[int]] = {}  # head -> the lengths of its family
        for head, family in families.items():
            lengths = sorted({len(spelling) for spelling in family})
            if len(head) == _HEAD and len(family) > _PAYS * len(lengths):
                self._looked_up[head] = lengths
            else:
                self._searched += family

    def every(self, text: str) -> Iterator[tuple[int, str]]:
        """Every place at which one of them stands, those that overlap as well: (start, spelling)."""
        for spelling, places in self._families_in(text).items():
            yield from ((at, spelling) for at in places)
        for spelling in self._searched:
            yield from ((at, spelling) for at in _places(text, spelling))

    def cut(self, text: str) -> list[tuple[int, int, str]]:
        """The places that they take without overlap: (start, stop, spelling), from left to right.

        The first of them takes all that it can, from the left; the next what is left; and so on, as in llama.cpp.
        """
        known = self._families_in(text)
        there = [*known, *(spelling for spelling in self._searched if spelling in text)]
        taken, found = bytearray(len(text)), list[tuple[int, int, str]]()
        for spelling in sorted(there, key=self._rank.__getitem__):
            length, at = len(spelling), 0
            while (at := _next(text, spelling, known, at)) >= 0:
                stop = at + length
                if taken.find(1, at, stop) < 0:
                    if spelling in self._greedy:
                        stop = self._white_after(text, stop, taken.find(1, stop))
                    taken[at:stop] = b"\1" * (stop - at)
                    found.append((at, stop, spelling))
                at = taken.find(0, at + 1)
                if at < 0:
                    break
        return sorted(found)

    def _white_after(self, text: str, start: int, limit: int) -> int:
        white = _WHITE.match(text, start, limit if limit >= 0 else len(text))
        return white.end() if white else start

    def _families_in(self, text: str) -> dict[str, list[int]]:
        """The places of each spelling of the families that are looked up."""
        found: dict[str, list[int]] = {}
        for head, lengths in self._looked_up.items():
            for at in _places(text, head):
                for length in lengths:
                    spelling = text[at : at + length]
                    if spelling in self._rank and len(spelling) == length:
                        found.setdefault(spelling, []).append(at)
        return found


def _next(text: str, spelling: str, known: dict[str, list[int]], start: int) -> int:
    """The first place of a spelling from `start` on, -1 where there is none."""
    places = known.get(spelling)
    if places is None:
        return text.find(spelling, start)
    i = bisect_left(places, start)
    return places[i] if i < len(places) else -1


def _places(text: str, spelling: str) -> Iterator[int]:
    at = text.find(spelling)
    while at >= 0:
        yield at
        at = text.find(spelling, at + 1)
