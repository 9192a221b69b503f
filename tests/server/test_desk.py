"""Texts on their way to tokens: they have places in the queue, take turns by size, and hold up nobody who matters."""

import asyncio
import threading
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from soberano.server.desk import Desk
from tests.server.fake import FakeModel, FakeTokenizer
from tests.server.live import serving


class Gate:
    """Encoding waits here until it is opened, and notes what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.seen = threading.Event(), list[int]()
        monkeypatch.setattr(FakeTokenizer, "encode", self.encode)

    def encode(self, text: str, **_: Any) -> list[int]:
        self.seen.append(len(text))
        self.open.wait(10)
        return list(text.encode())


def ask(client: TestClient, size: int, **more: Any) -> "asyncio.Task[ClientResponse]":
    body = {"prompt": "x" * size, "max_tokens": 1, **more}
    return asyncio.create_task(client.post("/v1/completions", json=body))


async def waiting(client: TestClient, count: int) -> None:
    for _ in range(500):
        if (await (await client.get("/health")).json())["waiting"] == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never {count} waited")


async def test_who_finds_no_place_in_the_queue_costs_no_tokenizing(monkeypatch: pytest.MonkeyPatch):
    gate = Gate(monkeypatch)
    async with serving(FakeModel(), max_running=1, max_waiting=2) as client:
        queued = [ask(client, 300, n=n) for n in (1, 2)]
        await waiting(client, 3)
        refused = await ask(client, 300)
        assert (refused.status, (await refused.json())["error"]["code"]) == (429, "queue_full")
        gate.open.set()
        assert [(await one).status for one in queued] == [200, 200]
        await waiting(client, 0)
        assert (await ask(client, 300)).status == 200, "the places are free again"
    assert gate.seen == [300, 300, 300]


async def test_a_client_that_leaves_costs_no_tokenizing_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch):
    gate = Gate(monkeypatch)
    async with serving(FakeModel()) as client:
        first, second, third = ask(client, 100), ask(client, 200), ask(client, 300)
        await waiting(client, 3)
        second.cancel()
        await waiting(client, 2)
        gate.open.set()
        assert [(await one).status for one in (first, third)] == [200, 200]
    assert gate.seen == [100, 300]


async def test_a_failure_gives_the_place_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakeTokenizer, "encode", lambda self, text, **_: 1 / 0)
    async with serving(FakeModel(), max_running=1, max_waiting=0) as client:
        assert [(await ask(client, 9)).status for _ in range(3)] == [500, 500, 500]
        await waiting(client, 0)


async def test_the_shortest_comes_first(monkeypatch: pytest.MonkeyPatch):
    gate = Gate(monkeypatch)
    async with serving(FakeModel()) as client:
        asked = []
        for i, size in enumerate((400, 300, 10, 20, 10)):
            asked.append(ask(client, size))
            await waiting(client, i + 1)
        gate.open.set()
        assert {(await one).status for one in asked} == {200}
    assert gate.seen == [400, 10, 10, 20, 300]


async def test_a_turn_that_is_given_to_somebody_who_just_left_passes_on():
    desk, begun, gate = Desk(), threading.Event(), threading.Event()
    first = asyncio.create_task(desk.run(1, lambda: begun.set() or gate.wait(5)))
    await asyncio.to_thread(begun.wait, 5)
    second, third = (asyncio.create_task(desk.run(size, lambda size=size: size)) for size in (2, 3))
    await asyncio.sleep(0)
    desk._next()  # as when the first is done, and the second hears of it only when this task lets it
    second.cancel()
    gate.set()
    assert await first and await third == 3
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await desk.run(4, lambda: 4) == 4
    desk.close()
