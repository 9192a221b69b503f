"""Where texts become tokens: one thread, one text at a time, and the shortest of those that wait comes first.

A long text takes a good part of a second, and templates and tokenizers hold Python's lock for some of it, so several
threads would only hold up the engine. A client that leaves leaves the line too. How many may stand in it is not decided
here: whoever comes has a place in the engine's queue already (see Engine.reserve).
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Desk:
    """Of one event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "soberano-text")
        self._line: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap: by size, then by who came first
        self._numbers = itertools.count()
        self._busy = False

    async def run(self, size: int, function: Callable[..., T], *args: Any, **more: Any) -> T:
        """function(*args, **more) on the thread, when no smaller `size` waits for it."""
        if self._busy:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._line, (size, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # called up and gone in the same moment
                    self._next()
                raise
        self._busy = True
        work = self._thread.submit(partial(function, *args, **more))
        work.add_done_callback(partial(self._done, asyncio.get_running_loop()))
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Let the thread go when it has done what it is doing."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _done(self, loop: asyncio.AbstractEventLoop, _: Any) -> None:
        """On the thread, whether or not anybody still waits for what it did."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._next)

    def _next(self) -> None:
        """Call up the next who still waits."""
        while self._line:
            _, _, turn = heapq.heappop(self._line)
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False
