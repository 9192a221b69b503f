"""The server around real models: a tiny random one always, SmolLM2 where it is."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import soberano
from soberano.core.progress import silent
from soberano.server.routes import STATE
from soberano.server.warm import warm_rest, warm_up
from tests.server.live import serving
from tests.smollm2 import smollm2_path
from tests.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soberano.Model]:
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny_llama(path)
    with soberano.load(path, sequences=2) as model:
        yield model


async def post(client: Any, path: str = "/v1/chat/completions", **body: Any) -> dict:
    hello = {"messages": [{"role": "user", "content": "The quick brown fox"}]} if "chat" in path else {}
    reply = await client.post(path, json=hello | body)
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def test_a_seed_gives_the_same_answer_alone_and_among_others(tiny: soberano.Model):
    wanted = {"seed": 7, "max_tokens": 12, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    async with serving(tiny) as client:
        alone = await post(client, **wanted)
        crowd = [post(client, **wanted), *(post(client, seed=i, max_tokens=20, ignore_eos=True) for i in range(3))]
        among = (await asyncio.gather(*crowd))[0]
    assert among["choices"] == alone["choices"]
    assert len(alone["choices"][0]["logprobs"]["content"]) == 12 == alone["usage"]["completion_tokens"]


async def test_choices_of_one_request_draw_apart_and_as_their_seeds_say(tiny: soberano.Model):
    wanted = {"max_tokens": 12, "temperature": 2, "ignore_eos": True}
    async with serving(tiny) as client:
        both = await post(client, seed=7, n=2, **wanted)
        second = await post(client, seed=8, **wanted)
    texts = [choice["message"]["content"] for choice in both["choices"]]
    assert texts[0] != texts[1] == second["choices"][0]["message"]["content"]


@pytest.mark.parametrize("temperature", [0, 0.8])
async def test_a_warm_model_compiles_nothing_for_a_short_chat(tmp_path: Path, temperature: float):
    pytest.importorskip("jax")
    from jax import monitoring

    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path, layers=2 if temperature else 1)
    made: list[str] = []
    with soberano.load(path, backend="xla") as model:
        warm_up(model, silent)
        async with serving(model) as client:
            monitoring.register_event_duration_secs_listener(lambda event, *_, **__: made.append(event))
            await post(client, max_tokens=4, temperature=temperature, ignore_eos=True)
    assert not [event for event in made if "compile" in event]


async def test_a_model_that_has_rested_compiles_nothing_for_any_request(tmp_path: Path):
    pytest.importorskip("jax")
    from jax import monitoring

    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path, layers=3, context=2048)
    made: list[str] = []
    with soberano.load(path, backend="cpu", context=2048) as model:
        warm_up(model, silent)
        for _ in warm_rest(model):
            assert model.pages.free == model.pages.count, "nothing is held between two of them"
        async with serving(model) as client:
            monitoring.register_event_duration_secs_listener(lambda event, *_, **__: made.append(event))
            for body in (
                {"temperature": 0.7, "frequency_penalty": 0.5},
                {"temperature": 0, "repeat_penalty": 1.2},
                {"logit_bias": {"5": 1}, "top_logprobs": 3, "logprobs": True},
                {"messages": [{"role": "user", "content": "word " * 250}]},
                {"messages": [{"role": "user", "content": "word " * 120}], "temperature": 0},
            ):
                await post(client, max_tokens=4, ignore_eos=True, **body)
    assert not [event for event in made if "compile" in event]


async def test_more_clients_than_pages_are_all_served_and_all_pages_come_back(tiny: soberano.Model):
    free = tiny.pages.free
    async with serving(tiny) as client:
        answers = await asyncio.gather(*(post(client, seed=i, max_tokens=200, ignore_eos=True) for i in range(5)))
    assert all(answer["choices"][0]["finish_reason"] == "length" for answer in answers)
    assert tiny.pages.free == free


async def test_a_stream_says_what_the_whole_answer_says(tiny: soberano.Model):
    body = {"prompt": "The quick", "seed": 3, "max_tokens": 20, "ignore_eos": True}
    async with serving(tiny) as client:
        whole = (await post(client, "/v1/completions", **body))["choices"][0]["text"]
        reply = await client.post("/v1/completions", json=body | {"stream": True})
        chunks = [json.loads(line[6:]) for line in (await reply.text()).split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


async def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(tiny: soberano.Model):
    async with serving(tiny) as client:
        for stream in (False, True):
            body = {"prompt": [5] * 300, "stream": stream}
            reply = await client.post("/v1/completions", json=body)
            error = (await reply.json())["error"]
            assert (reply.status, error["code"]) == (400, "context_length_exceeded")
            assert "300" in error["message"] and "256" in error["message"]


class Fragile:
    """The programs of a model, of which the next prompt breaks the step when `armed`, with the cache in its hands.

    A token waits while it is `alone`, so that an answer is not at its end before another request is there.
    """

    def __init__(self, programs: Any) -> None:
        self.programs, self.armed, self.waits = programs, False, False
        self.alone: Callable[[], bool] = lambda: False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.programs, name)

    def prompt(self, *args: Any) -> Any:
        self.fails, self.armed = self.armed, False
        return self.programs.prompt(*args)

    def decode(self, *args: Any, **more: Any) -> Any:
        while self.alone():
            self.waits = True
            time.sleep(0.001)
        return self.programs.decode(*args, **more)

    def forward(self, weights: Any, k: Any, *rest: Any, **more: Any) -> Any:
        if getattr(self, "fails", False):
            self.fails = False
            k.delete()
            raise RuntimeError("the device caught fire")
        return self.programs.forward(weights, k, *rest, **more)


@pytest.mark.parametrize("streamed", [True, False])
async def test_when_a_step_loses_the_cache_others_end_with_an_error_and_no_wrong_text(
    tiny: soberano.Model, monkeypatch: pytest.MonkeyPatch, streamed: bool
):
    body = {"prompt": "The quick", "seed": 3, "max_tokens": 240, "ignore_eos": True}
    fragile = Fragile(tiny.programs)
    monkeypatch.setattr(tiny, "programs", fragile)
    free = tiny.pages.free
    async with serving(tiny) as client:
        whole = (await post(client, "/v1/completions", **body))["choices"][0]["text"]
        engine, end = client.app[STATE].engine, time.monotonic() + 60
        fragile.alone = lambda: engine.running + engine.waiting < 2 and time.monotonic() < end
        first = asyncio.create_task(client.post("/v1/completions", json=body | {"stream": streamed}))
        while not fragile.waits:  # its own prompt is through, and will not be the one that breaks
            await asyncio.sleep(0)
        fragile.armed = True
        broken = await client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 2})
        fragile.alone = lambda: False
        assert (broken.status, (await broken.json())["error"]["code"]) == (500, "internal_error")
        reply = await first
        told = (await reply.text()).removesuffix("\n\n").split("\n\n")
        error = json.loads(told[-1].removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("server_error", "out_of_capacity") and "again" in error["message"]
        if streamed and reply.status == 200:
            said = "".join(
                json.loads(line[6:])["choices"][0]["text"] for line in told[:-1] if line.startswith("data: ")
            )
            assert whole.startswith(said) and len(said) < len(whole)
        else:
            assert reply.status == 503 and reply.headers["Retry-After"]
        assert (await post(client, "/v1/completions", **body))["choices"][0]["text"] == whole
    assert tiny.pages.free == free


@pytest.mark.model
async def test_the_demo_model_answers_sensibly():
    with soberano.load(smollm2_path(), context=512) as model:
        async with serving(model, name="demo") as client:
            asked = [{"role": "user", "content": "What is the capital of France? One sentence."}]
            answer = await post(client, model="demo", messages=asked, temperature=0, max_tokens=40)
    assert answer["model"] == "demo" and "Paris" in answer["choices"][0]["message"]["content"]
