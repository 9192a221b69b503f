"""The book of pages: no page is lost or held twice, whatever happens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends.base import Home
from soberano.core.errors import CapacityError, InputError
from soberano.models.cache import PAGE, Cache, Pages, Room, cache_dtype
from soberano.ops.attention import attention, write_kv
from soberano.ops.rope import rope, rotation
from tests.tolerance import assert_close


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


def test_a_room_knows_its_bytes(home: Home) -> None:
    room = Room(layers=3, kv_heads=2, width=32, dtype=np.float16, context=65, sequences=2)
    keys, values = room.make(home)
    assert keys.shape == (3, 6, 2, 32, PAGE) and values.shape == (3, 6, 2, PAGE, 32)
    assert room.nbytes == keys.nbytes + values.nbytes
    for name, numbers in (("bf16", 2), ("q8_0", 1 + 2 / 32)):
        other = replace(room, dtype=cache_dtype(name, 32))
        keys, values = other.make(home)
        assert other.nbytes == keys.nbytes + values.nbytes == room.nbytes * numbers / 2


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 3 * 2**20 + 5])
def test_a_new_cache_is_zero_wherever_its_memory_was_before(home: Home, size: int) -> None:
    for _ in range(3):
        used = [home.asarray(np.full(size + 64, 7, np.uint8)) + home.xp.uint8(1) for _ in range(2)]
        for each in used:
            home.synchronize(each)
        del used, each
        for each in home.zeros([(size,), (3, size)], np.uint8):
            assert not home.to_numpy(each).any()
            assert home.to_numpy(each + home.xp.uint8(1)).all()


def test_a_cache_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="cache is 'q4'; pass f16, bf16, q8_0, or nothing"):
        cache_dtype("q4", 64)
    with pytest.raises(InputError, match="every 32 numbers of a head, and the heads of this model have 80; pass f16"):
        cache_dtype("q8_0", 80)


OUT = "context of 64 tokens takes 16.* and .* of memory are free; ask for a smaller context"


@pytest.mark.parametrize(
    "error, raised, says",
    [
        (MemoryError(), CapacityError, OUT),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes"), CapacityError, OUT),
        (RuntimeError("the device is lost"), RuntimeError, "the device is lost"),
    ],
    ids=["NumPy", "XLA", "another error"],
)
def test_a_failed_allocation_says_the_numbers(error: Exception, raised: type[Exception], says: str) -> None:
    def zeros(*_: object) -> None:
        raise error

    with pytest.raises(raised, match=says):
        Room(1, 2, 16, np.float32, 64, 1).make(SimpleNamespace(zeros=zeros))  # type: ignore[arg-type]


def test_a_block_says_what_its_tokens_may_see(home: Home, rng: np.random.Generator) -> None:
    room = Room(layers=2, kv_heads=2, width=32, dtype=np.float16, context=4 * PAGE, sequences=1)
    at, table = np.arange(100, 103, dtype=np.int32)[None], np.arange(4, dtype=np.int32)[None]
    where = [home.asarray(a) for a in (at, table)]
    turn = rotation(where[0], 32)
    q, k, v = (home.asarray(rng.normal(size=(1, 3, heads, 32)).astype(np.float32)) for heads in (4, 2, 2))
    said = {"scale": 0.3, "window": 2, "cap": 1.5, "sinks": home.asarray(rng.normal(size=4).astype(np.float32))}
    out, cache = Cache(*room.make(home), *where, layer=1).attend(q, k, v, turn, pairing="halves", **said)
    written = write_kv(*room.make(home), rope(k, turn, pairing="halves"), v, *where, 1)
    wanted = attention(rope(q, turn, pairing="halves"), *written, *where, 1, **said)
    assert_close(home.to_numpy(out), home.to_numpy(wanted), summed=32, what="Cache.attend")
    assert cache.layer == 1 and home.to_numpy(cache.k).any()
