"""Streams: framing that no text can break, usage, keep-alive, errors in the middle, and clients that leave."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import given
from hypothesis import strategies as st

from soberano.server.stream import frame
from tests.server.fake import FakeModel
from tests.server.live import serving

HELLO = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


async def events(client: TestClient, path: str = "/v1/chat/completions", **body: Any) -> list[Any]:
    reply = await client.post(path, json={**HELLO, **body} if "chat" in path else {"stream": True, **body})
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("text/event-stream")
    raw = (await reply.read()).decode("ascii")
    assert raw.endswith("\n\n")
    lines = [line.removeprefix("data: ") for line in raw.split("\n\n") if line and not line.startswith(":")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def until(condition: Any, seconds: float = 5.0) -> None:
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


@given(st.text() | st.characters(categories=["Cs", "Zl", "Zp", "Cc"]))
def test_no_text_can_break_a_frame(text: str):
    framed = frame({"text": text})
    assert framed.endswith(b"\n\n") and framed.startswith(b"data: ") and framed.isascii()
    assert len(framed.decode().splitlines()) == 2 and json.loads(framed[6:]) == {"text": text}


async def test_a_chat_stream():
    async with serving(FakeModel(text="one two")) as client:
        *chunks, done = await events(client)
    assert done == "[DONE]" and len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"].get("content") for choice in choices[1:-1]] == ["one ", "two "]
    assert choices[-1]["finish_reason"] == "stop" and all(choice["finish_reason"] is None for choice in choices[:-1])
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_in_a_last_chunk_without_choices():
    async with serving(FakeModel(text="one two")) as client:
        *chunks, last, _ = await events(client, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == [] and last["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


async def test_counts_so_far_come_with_every_chunk_where_they_are_asked_for():
    wish = {"include_usage": True, "continuous_usage_stats": True}
    async with serving(FakeModel(text="one two three four five", hold=2)) as client:
        *chunks, last, _ = await events(client, stream_options=wish)
        told = await events(client, stream_options={"continuous_usage_stats": True})
        *two, end, _ = await events(client, "/v1/completions", prompt=["ab", "c"], n=2, stream_options=wish)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 2, 4, 5, 5]
    assert {chunk["usage"]["prompt_tokens"] for chunk in [*chunks, last]} == {9}
    assert last["usage"] == {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    assert not any("usage" in chunk for chunk in told[:-1]), "as in vLLM it says nothing alone"
    assert {chunk["usage"]["prompt_tokens"] for chunk in two} == {3} and two[-1]["usage"] == end["usage"]


async def test_a_completion_stream_with_echo_and_two_choices():
    async with serving(FakeModel(text="one two")) as client:
        *chunks, _ = await events(client, "/v1/completions", prompt="Say: ", n=2, echo=True)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "Say: one two ", 1: "Say: one two "}


async def test_offsets_run_on_through_a_stream():
    async with serving(FakeModel(text="one two")) as client:
        *chunks, _ = await events(client, "/v1/completions", prompt="a", logprobs=0)
    scores = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [score["text_offset"] for score in scores if score] == [[0], [4]]


async def test_text_that_looks_like_the_protocol_stays_text():
    async with serving(FakeModel(text="\n\ndata: [DONE]\r\n\u2028 end")) as client:
        *chunks, done = await events(client)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert "data: [DONE]"[:5] in text and "\u2028" in text and done == "[DONE]"


async def test_an_error_in_the_middle_is_told_and_nothing_says_done():
    async with serving(FakeModel(break_at=2, delay=0.3)) as client:  # else a busy machine breaks before the first word
        told = await events(client)
    assert told[-1]["error"]["code"] == "internal_error" and "[DONE]" not in told


async def test_a_request_in_the_queue_is_kept_alive():
    model = FakeModel(delay=0.01, pages=1)
    async with serving(model, heartbeat_s=0.05) as client:
        first = asyncio.create_task(events(client))
        await until(lambda: model.steps)
        reply = await client.post("/v1/chat/completions", json={**HELLO, "max_tokens": 1})
        raw = await reply.read()
        assert raw.startswith((b"data: ", b": waiting"))
        assert b": waiting\n\n" in raw and raw.endswith(b"data: [DONE]\n\n")
        await first


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_pages(stream: bool):
    model = FakeModel(delay=0.01)
    async with serving(model, heartbeat_s=30) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json={**HELLO, "stream": stream}))
        await until(lambda: len(model.steps) > 3)
        if stream:
            reply = await asking
            await reply.content.readany()
            reply.close()
        else:
            asking.cancel()
        await until(lambda: model.generations[0].closed)
        assert model.pages == 4 and not model.generations[0].done
        text = await (await client.get("/metrics")).text()
        assert 'request_success_total{finished_reason="abort",model_name="fake"} 1.0' in text


async def test_several_clients_take_turns():
    model = FakeModel(delay=0.002)
    async with serving(model) as client:
        long = asyncio.create_task(events(client))
        await until(lambda: len(model.steps) > 5)
        await events(client, max_tokens=2)
        assert not long.done(), "a short answer waits for no long one"
        await asyncio.gather(long, *(events(client) for _ in range(3)))
    assert len(model.generations) == 5 and all(generation.closed for generation in model.generations)


async def test_a_graceful_stop_lets_a_stream_end():
    model = FakeModel(delay=0.01)
    async with serving(model, grace_s=10) as client:
        asking = asyncio.create_task(events(client))
        await until(lambda: len(model.steps) > 3)
        closing = asyncio.create_task(client.server.close())
        assert (await asking)[-1] == "[DONE]"
        await closing
    assert model.pages == 4


async def test_a_stop_without_grace_says_so_in_the_stream():
    model = FakeModel(delay=0.01)
    async with serving(model, grace_s=0) as client:
        asking = asyncio.create_task(events(client))
        await until(lambda: len(model.steps) > 3)
        closing = asyncio.create_task(client.server.close())
        assert (await asking)[-1]["error"]["code"] == "server_stopping"
        await closing
    assert model.pages == 4


async def test_a_deadline_is_504_before_the_first_byte_and_an_event_after_it():
    async with serving(FakeModel(delay=0.03), deadline_s=0.15) as client:
        reply = await client.post("/v1/chat/completions", json={**HELLO, "stream": False})
        assert reply.status == 504
        assert (await events(client))[-1]["error"]["code"] == "deadline_exceeded"
