"""The only thread that touches the device: it loads the model, admits requests, steps them in turn and lets them go.

A request is a Job. It waits in a bounded queue until the model has cache pages for it. Then every round of the thread
steps each running job once, so that several clients take turns and a long answer never blocks a short one. What
happens to a job is told to its listener as events, on this thread: a listener must not block (the asyncio side is
soberano.server.run.Run).

    reserve -> submit -> [waiting] -> Admitted -> Piece ... -> Finished(reason)
                    any time: Failed(error)   exactly one of Finished and Failed ends a job; nothing follows it
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from soberano.core.errors import CapacityError
from soberano.models import encoder
from soberano.models.model import Model
from soberano.server.errors import Cancelled, DeadlineError, NotReady, QueueFull, Stopping
from soberano.server.jobs import Admitted, Asked, Drawn, Event, Failed, Finished, Job, Listener, Prompt, Rank, Watcher

log = logging.getLogger("soberano.server")
Loaded = Model | encoder.Encoder
_NONE = object()
PATIENCE_S = 30.0
"""How long a stop waits for the step, or the part of a load, that cannot be interrupted."""


class Engine:
    """Runs jobs on one thread. Every public method may be called from any thread, and none of them waits but `stop`."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        name: str | None = None,
        max_running: int = 8,
        max_waiting: int = 64,
        deadline_s: float = 600.0,
        chores: Callable[[Loaded], Iterator[object]] = lambda _: iter(()),
    ) -> None:
        """`load` makes the model, on the engine's thread; clients know it as `name`, or by its own name.

        `deadline_s` bounds a request from submission to its end. `chores` is work that can wait: it goes on, from one
        item to the next, while there is no job.
        """
        self.max_running, self.max_waiting, self.deadline_s = max_running, max_waiting, deadline_s
        self.loaded: Future[Loaded] = Future()  # the model, or why there is none
        self.watchers: list[Watcher] = []
        self._load, self._name, self._chores = load, name, chores
        self._change = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._reserved = 0
        self._running: list[Job] = []
        self._numbers = itertools.count(1)
        self._full = False  # the model had no pages for the head of the queue at the last try; true until a job ends
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="soberano-engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which loads the model first."""
        self._thread.start()

    @property
    def model(self) -> Loaded:
        """The model. Raises NotReady while it loads, and after loading failed."""
        if not self.loaded.done():
            raise NotReady("the model is still loading; try again soon")
        if self.loaded.exception() is not None:
            raise NotReady(f"the model could not be loaded: {self.loaded.exception()}")
        return self.loaded.result()

    @property
    def name(self) -> str:
        """What clients call the model. Raises NotReady while there is none."""
        return self._name or self.model.name

    @property
    def adapters(self) -> list[str]:
        """The names under which clients get the model with an adapter."""
        return [] if isinstance(self.model, encoder.Encoder) else list(self.model.adapters)

    @property
    def state(self) -> str:
        """loading, ready, failed or stopping."""
        if self._stop_at is not None:
            return "stopping"
        if not self.loaded.done():
            return "loading"
        return "ready" if self.loaded.exception() is None else "failed"

    @property
    def running(self) -> int:
        """Jobs that hold cache pages."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs in the queue, and places in it that are reserved."""
        return len(self._waiting) + self._reserved

    def reserve(self, count: int) -> None:
        """Take places in the queue for the jobs of one request, before any work is done for it.

        Whoever reserves gives them up again, by `submit` or by `release`. Raises NotReady, Stopping or QueueFull.
        """
        with self._change:
            self._refuse(count)
            self._reserved += count

    def release(self, count: int) -> None:
        """Give up places that were reserved."""
        with self._change:
            self._reserved -= count

    def submit(
        self,
        jobs: Sequence[tuple[Prompt, Asked, Listener]],
        deadline_s: float | None = None,
        *,
        reserved: int = 0,
    ) -> list[Job]:
        """Queue the jobs of one request, all or none; `reserved` of them have their places already, and give them up.

        Raises NotReady, Stopping or QueueFull; places that were reserved stay so then.
        """
        deadline = time.monotonic() + min(deadline_s or self.deadline_s, self.deadline_s)
        with self._change:
            self._refuse(len(jobs) - reserved)
            self._reserved -= reserved
            made = [Job(next(self._numbers), prompt, options, listener, deadline) for prompt, options, listener in jobs]
            self._waiting.extend(made)
            self._change.notify()
        return made

    def _refuse(self, count: int) -> None:
        """Raise what speaks against `count` more jobs."""
        if self._stop_at is not None:
            raise Stopping("the server is stopping and takes no new requests; try another one")
        _ = self.model  # raises while there is none
        if count > 0 and self.waiting + count > self.max_waiting + self.max_running - len(self._running):
            raise QueueFull(
                f"{self.waiting} requests wait already and the queue holds {self.max_waiting}; try again soon"
            )

    def cancel(self, job: Job) -> None:
        """Give up a job: its pages are free before the next round. Harmless when it has ended."""
        with self._change:
            job.cancelled = True
            self._change.notify()

    def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new work, let running jobs finish for `grace_s` seconds, end the rest, and wait for the thread."""
        with self._change:
            stop_at = time.monotonic() + grace_s
            self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
            self._change.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(grace_s + PATIENCE_S)

    def hurry(self) -> None:
        """Cut the grace of a stop short."""
        with self._change:
            self._stop_at = time.monotonic()
            self._change.notify()

    # The rest runs on the engine's thread.

    def _run(self) -> None:
        try:
            self.loaded.set_result(self._load())
        except Exception as error:  # told to whoever waits for `loaded`
            self.loaded.set_exception(error)
            return
        chores = self._chores(self.model)
        while self._wait_for_work(chores):
            self._drop_lost()
            self._admit()
            for job in list(self._running):
                self._step(job)

    def _wait_for_work(self, chores: Iterator[object]) -> bool:
        """Do chores, then sleep, until there is something to do. False when the engine has stopped and all is done."""
        while not self._called and self._chore(chores):
            pass
        with self._change:
            while not self._called:
                self._change.wait()
            return bool(self._waiting or self._running or self._stop_at is None)

    @property
    def _called(self) -> bool:
        """Whether there is something to do."""
        return bool(self._waiting or self._running or self._stop_at is not None)

    def _chore(self, chores: Iterator[object]) -> bool:
        """Do one, and say whether there was one."""
        try:
            return next(chores, _NONE) is not _NONE
        except Exception:
            log.exception("work that can wait failed")
            return True  # an iterator that has raised has nothing left

    def _drop_lost(self) -> None:
        """End the jobs whose client left, whose time is over, or which the stop of the server overtakes."""
        now, stop_at = time.monotonic(), self._stop_at
        with self._change:
            queued = list(self._waiting)
        for job in queued + self._running:
            if job.cancelled:
                self._end(job, Failed(Cancelled()))
            elif stop_at is not None and (job.generation is None or now >= stop_at):
                self._end(job, Failed(Stopping("the server stopped before this answer was complete; ask again")))
            elif now > job.deadline:
                spent = now - job.submitted
                self._end(
                    job,
                    Failed(
                        DeadlineError(
                            f"this request has taken {spent:.1f} s, longer than the server allows; ask for fewer tokens"
                        )
                    ),
                )

    def _admit(self) -> None:
        """Start waiting jobs while the model has room. The oldest never loses its place to a smaller one."""
        while len(self._running) < self.max_running and not self._full:
            with self._change:
                job = self._waiting[0] if self._waiting else None
            if job is None:
                return
            try:
                # A route asks a model for what it can do, so prompt and options are of its kind.
                if isinstance(job.options, Rank):
                    job.generation = self.model.start_ranking(job.prompt)  # type: ignore[arg-type]
                else:
                    job.generation = self.model.start(job.prompt, job.options)  # type: ignore[arg-type]
            except CapacityError as error:
                if self._running:
                    self._full = True
                    return
                self._end(job, Failed(error))  # an idle model has no room for it, so it never will
                continue
            except Exception as error:
                self._end(job, Failed(error))
                continue
            with self._change:
                self._waiting.popleft()
                self._running.append(job)
            self._tell(job, Admitted(job.generation.prompt_tokens))

    def _step(self, job: Job) -> None:
        """Advance one job by one step of the device. What it raises ends this job and no other."""
        generation = job.generation
        assert generation is not None, "a running job has its generation"
        if job.cancelled:
            return
        try:
            before = generation.completion_tokens
            pieces = generation.step()
            if generation.completion_tokens > before:
                self._watch(job, Drawn())
            for piece in pieces:
                self._tell(job, piece)
            if generation.done:
                counts = generation.prompt_tokens, generation.completion_tokens
                self._end(job, Finished(generation.finish_reason or "stop", *counts, dict(generation.timings)))
        except Exception as error:
            self._end(job, Failed(error))

    def _end(self, job: Job, event: Finished | Failed) -> None:
        """Take a job out, free its pages, then say so: a client that hears the end may count on the room."""
        with self._change:
            for place in (self._waiting, self._running):
                if job in place:
                    place.remove(job)
        if job.generation is not None:
            try:
                job.generation.close()
            except Exception:
                log.exception("closing job %d failed", job.number)
        self._full = False  # room was given back, or the job that found none has left the queue to a smaller one
        self._tell(job, event)

    def _tell(self, job: Job, event: Event) -> None:
        """Pass an event on, and go on whoever fails at hearing it.

        Watchers come first: a client that has its answer finds it counted. A watcher that raises keeps the event from
        nobody; a listener that raises (its event loop is gone) loses its job.
        """
        self._watch(job, event)
        try:
            job.listener(event)
        except Exception as error:
            job.cancelled = True
            log.warning("a listener of job %d failed: %r", job.number, error)

    def _watch(self, job: Job, event: Event | Drawn) -> None:
        for watch in self.watchers:
            try:
                watch(job, event)
            except Exception:
                log.exception("a watcher failed at %s of job %d", type(event).__name__, job.number)
