"""The jobs of one request, seen from asyncio: take places for them, submit them together, hear their events, cancel
what is left.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType

from soberano.server.engine import Engine
from soberano.server.jobs import Asked, Event, Failed, Finished, Job, Prompt

Numbered = tuple[int, Event]


class Run:
    """`async with Run(engine, 2) as run: run.submit(...)`: leaving the block, for any reason, frees what it holds.

    That is the places in the queue that entering takes (it raises what Engine.reserve raises), and the jobs.
    """

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine, self.count = engine, count
        self._reserved = 0
        self._events: asyncio.Queue[Numbered] = asyncio.Queue()
        self._jobs: list[Job] = []
        self._open = set(range(count))

    async def __aenter__(self) -> "Run":
        self.engine.reserve(self.count)
        self._reserved = self.count
        return self

    def submit(self, choices: Sequence[tuple[Prompt, Asked]]) -> None:
        """Queue the jobs, as many as there are places. Raises NotReady or Stopping."""
        jobs = [(prompt, options, self._listener(i)) for i, (prompt, options) in enumerate(choices)]
        self._jobs = self.engine.submit(jobs, reserved=self._reserved)
        self._reserved = 0

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.release(self._reserved)
        for index in self._open:
            if index < len(self._jobs):
                self.engine.cancel(self._jobs[index])

    def prompt_tokens(self, choices_a_prompt: int) -> int:
        """Tokens of all prompts; each counts once, however many choices it has."""
        return sum(len(job.prompt) for job in self._jobs[::choices_a_prompt])

    def _listener(self, index: int) -> Callable[[Event], None]:
        loop = asyncio.get_running_loop()

        def listen(event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return listen

    async def batches(self, heartbeat_s: float) -> AsyncIterator[list[Numbered]]:
        """What has happened since the last batch, until all jobs have ended; empty after a quiet `heartbeat_s`."""
        while self._open:
            try:
                batch = [await asyncio.wait_for(self._events.get(), heartbeat_s)]
            except TimeoutError:
                yield []
                continue
            while not self._events.empty():
                batch.append(self._events.get_nowait())
            for index, event in batch:
                if isinstance(event, (Finished, Failed)):
                    self._open.discard(index)
            yield batch
