"""The engine alone: turns, room, cancelling, deadlines, errors and the stop, without any HTTP."""

import threading
import time
from typing import Any

import pytest

from soberano.core.errors import CapacityError, ContextError
from soberano.models.generate import Piece
from soberano.models.options import Options
from soberano.server.engine import Engine
from soberano.server.errors import Cancelled, DeadlineError, NotReady, QueueFull, Stopping
from soberano.server.jobs import Admitted, Drawn, Event, Failed, Finished
from tests.server.fake import FakeModel


class Heard:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.end = threading.Event()
        self.text = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Piece):
            self.text.set()
        if isinstance(event, (Finished, Failed)):
            self.end.set()

    def last(self) -> Any:
        assert self.end.wait(10), "the job never ended"
        return self.events[-1]


def begin(model: FakeModel, **more: Any) -> Engine:
    engine = Engine(lambda: model, **more)
    engine.start()
    engine.loaded.result(10)
    return engine


def ask(engine: Engine, prompt: str = "hi", **options: Any) -> tuple[Heard, Any]:
    heard = Heard()
    (job,) = engine.submit([(prompt.encode(), Options(**options), heard)])
    return heard, job


def test_a_job_is_admitted_says_its_pieces_and_finishes_once():
    model = FakeModel(text="one two three")
    engine = begin(model)
    heard, _ = ask(engine)
    end = heard.last()
    engine.stop()
    assert end == Finished("stop", 2, 3, model.generations[0].timings)
    assert [type(event) for event in heard.events] == [Admitted, Piece, Piece, Piece, Finished]
    assert model.pages == 4 and model.generations[0].closed


def test_running_jobs_take_turns():
    model = FakeModel(delay=0.002)
    engine = begin(model)
    jobs = [ask(engine)[0] for _ in range(3)]
    for heard in jobs:
        heard.last()
    engine.stop()
    start = model.steps.index(2)  # from here on all three run
    rounds = [set(model.steps[i : i + 3]) for i in range(start, start + 24, 3)]
    assert all(len(turn) == 3 for turn in rounds)


def test_jobs_wait_for_room_in_their_order_and_get_it():
    model = FakeModel(text="a b c", pages=1, delay=0.001)
    engine = begin(model)
    order: list[int] = []
    jobs = []
    for i in range(5):
        heard, job = ask(engine)
        jobs.append((heard, job))
        job.listener = lambda event, i=i, hear=heard: (
            order.append(i) if isinstance(event, Finished) else None,
            hear(event),
        )
    assert all(heard.last().reason == "stop" for heard, _ in jobs)
    engine.stop()
    assert order == sorted(order)


def test_a_job_that_no_idle_model_has_room_for_fails():
    engine = begin(FakeModel(pages=0))
    heard, _ = ask(engine)
    assert isinstance(heard.last().error, CapacityError)
    engine.stop()


def test_a_full_queue_refuses_and_says_how_long_it_is():
    model = FakeModel(delay=0.01)
    engine = begin(model, max_running=1, max_waiting=2)
    first, _ = ask(engine)
    assert first.text.wait(5)
    ask(engine), ask(engine)
    with pytest.raises(QueueFull, match="2 requests wait"):
        ask(engine)
    engine.stop()


def test_jobs_of_one_request_are_queued_all_or_none():
    engine = begin(FakeModel(delay=0.01), max_running=1, max_waiting=2)
    with pytest.raises(QueueFull):
        engine.submit([(b"hi", Options(), Heard())] * 4)
    assert engine.waiting == 0
    engine.stop()


def test_a_cancelled_job_frees_its_pages_at_once():
    model = FakeModel(delay=0.01)
    engine = begin(model)
    heard, job = ask(engine)
    assert heard.text.wait(5)
    engine.cancel(job)
    assert isinstance(heard.last().error, Cancelled)
    assert model.pages == 4 and len(model.steps) < 8
    engine.stop()


def test_a_cancelled_job_leaves_the_queue():
    model = FakeModel(delay=0.01, pages=1)
    engine = begin(model)
    first, _ = ask(engine)
    assert first.text.wait(5)
    waiting, queued = ask(engine)
    engine.cancel(queued)
    assert isinstance(waiting.last().error, Cancelled)
    assert not first.end.is_set() and len(model.generations) == 1
    engine.stop()


class Pages(FakeModel):
    """A prompt of so many letters takes so many pages."""

    def start(self, prompt: Any, options: Options) -> Any:
        if len(prompt) > self.pages:
            raise CapacityError(f"{len(prompt)} pages are wanted, {self.pages} are free")
        made = super().start(prompt, options)
        self.pages += 1 - len(prompt)  # beside the one that FakeModel has taken
        made.close = lambda: setattr(self, "pages", self.pages + len(prompt))
        return made


def test_who_leaves_the_head_of_the_queue_makes_way_for_smaller_ones():
    model = Pages(delay=0.01, pages=10, text="on and " * 200)
    engine = begin(model)
    first, first_job = ask(engine, "aaaaa")
    assert first.text.wait(5)
    large, large_job = ask(engine, "bbbbbbbb")
    small, _ = ask(engine, "cc", max_tokens=2)
    time.sleep(0.1)
    assert not small.events, "the small one never overtakes the large one"
    engine.cancel(large_job)
    assert small.last().reason == "length" and isinstance(large.last().error, Cancelled)
    assert not first.end.is_set(), "the first one still runs"
    engine.cancel(first_job)
    engine.stop()
    assert model.pages == 10


@pytest.mark.parametrize("heard", [Admitted, Piece, Finished, Failed])
def test_a_watcher_that_raises_keeps_no_event_from_a_client_nor_from_the_next_watcher(
    heard: type, caplog: pytest.LogCaptureFixture
):
    model = FakeModel(text="one two", break_at=2 if heard is Failed else -1)
    engine = begin(model)
    seen: list[Event] = []

    def watch(job: Any, event: Event) -> None:
        if isinstance(event, heard):
            raise RuntimeError("no label is called so")

    engine.watchers += [watch, lambda job, event: seen.append(event)]
    client, _ = ask(engine)
    assert isinstance(client.last(), Finished) or heard is Failed
    engine.stop()
    assert (
        [event for event in seen if not isinstance(event, Drawn)] == client.events
        and isinstance(seen[0], Admitted)
        and isinstance(seen[-1], (Finished, Failed))
    )
    assert heard is Failed or "no label is called so" in caplog.text


def test_a_deadline_ends_a_running_and_a_waiting_job():
    model = FakeModel(delay=0.02, pages=1)
    engine = begin(model, deadline_s=0.1)
    running, _ = ask(engine)
    waiting, _ = ask(engine)
    assert isinstance(running.last().error, DeadlineError)
    assert isinstance(waiting.last().error, DeadlineError)
    assert model.pages == 1
    engine.stop()


def test_an_error_in_a_step_ends_that_job_only():
    model = FakeModel(delay=0.001, break_at=3)
    engine = begin(model)
    broken, _ = ask(engine)
    assert "fire" in str(broken.last().error)
    model.break_at = -1
    healthy, _ = ask(engine)
    assert healthy.last().reason == "stop" and model.pages == 4
    engine.stop()


def test_an_error_at_the_start_ends_that_job_only():
    model = FakeModel(context=8)
    engine = begin(model)
    assert isinstance(ask(engine, "much longer than eight")[0].last().error, ContextError)
    assert ask(engine)[0].last().reason == "stop"
    engine.stop()


def test_chores_are_done_while_there_is_nothing_else_to_do():
    done: list[int] = []
    model, worked = FakeModel(text="one two"), threading.Event()

    def chores(given: Any) -> Any:
        assert given is model and threading.current_thread().name == "soberano-engine"
        for i in range(5):
            if i == 2:
                first.append(ask(engine)[0])  # from now on there is a job
            done.append(i)
            yield
        worked.set()

    first: list[Heard] = []
    engine = Engine(lambda: model, chores=chores)
    engine.start()
    assert worked.wait(5) and done == [0, 1, 2, 3, 4]
    assert first[0].last().reason == "stop"
    assert ask(engine)[0].last().reason == "stop"
    engine.stop()


def test_a_job_comes_before_the_next_chore():
    model, order = FakeModel(text="one two"), list[str]()

    def chores(_: Any) -> Any:
        heard, job = ask(engine)
        job.listener = lambda event: (order.append(type(event).__name__), heard(event))
        yield
        order.append("chore")
        yield
        engine.stop()
        yield
        order.append("a chore after the stop")

    engine = Engine(lambda: model, chores=chores)
    engine.start()
    engine._thread.join(5)
    assert not engine._thread.is_alive() and order == ["Admitted", "Piece", "Piece", "Finished", "chore"]


def test_a_chore_that_fails_harms_no_job(caplog: pytest.LogCaptureFixture):
    engine = begin(FakeModel(text="one"), chores=lambda _: (1 / 0 for _ in range(3)))
    assert ask(engine)[0].last().reason == "stop"
    engine.stop()
    assert "work that can wait failed" in caplog.text


def test_a_listener_that_raises_loses_its_job_and_nobody_elses():
    model = FakeModel(delay=0.001)
    engine = begin(model)

    def deaf(event: Event) -> None:
        raise RuntimeError("Event loop is closed")

    engine.submit([(b"hi", Options(), deaf)])
    assert ask(engine)[0].last().reason == "stop"
    engine.stop()
    assert model.pages == 4


def test_a_stop_lets_running_jobs_finish_within_their_grace():
    model = FakeModel(delay=0.005, pages=1)
    engine = begin(model)
    running, _ = ask(engine)
    assert running.text.wait(5)
    waiting, _ = ask(engine)
    engine.stop(grace_s=10)
    assert running.last().reason == "stop"
    assert isinstance(waiting.last().error, Stopping)
    with pytest.raises(Stopping):
        ask(engine)


def test_a_stop_without_grace_ends_everything_soon():
    model = FakeModel(delay=0.02)
    engine = begin(model)
    heard, _ = ask(engine)
    assert heard.text.wait(5)
    began = time.monotonic()
    engine.stop()
    assert isinstance(heard.last().error, Stopping) and time.monotonic() - began < 1 and model.pages == 4


def test_hurry_cuts_a_grace_short():
    engine = begin(FakeModel(delay=0.05))
    heard, _ = ask(engine)
    assert heard.text.wait(5)
    stopper = threading.Thread(target=engine.stop, args=(60,))
    stopper.start()
    time.sleep(0.05)
    engine.hurry()
    stopper.join(5)
    assert not stopper.is_alive() and isinstance(heard.last().error, Stopping)


def test_while_it_loads_and_after_a_failed_load_nothing_is_taken():
    gate = threading.Event()

    def load() -> Any:
        gate.wait(5)
        raise OSError("no such file")

    engine = Engine(load)
    engine.start()
    assert engine.state == "loading"
    with pytest.raises(NotReady, match="still loading"):
        ask(engine)
    gate.set()
    assert isinstance(engine.loaded.exception(5), OSError)
    assert engine.state == "failed"
    with pytest.raises(NotReady, match="no such file"):
        ask(engine)
    engine.stop()
