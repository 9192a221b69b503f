"""The official client, knowing nothing of us, against a server that really listens."""

from collections.abc import Iterator

import openai
import pytest

from tests.server.fake import FakeModel
from tests.server.live import live

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        live(FakeModel(text="one two three four")) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=20) as made,
    ):
        yield made


def test_plain(client: openai.OpenAI):
    answer = client.chat.completions.create(model="fake", messages=HELLO)
    assert answer.choices[0].message.content == "one two three four "
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 4)


def test_stream(client: openai.OpenAI):
    chunks = list(
        client.chat.completions.create(
            model="fake", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three four "
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.total_tokens == 13


def test_logprobs(client: openai.OpenAI):
    answer = client.chat.completions.create(model="fake", messages=HELLO, logprobs=True, top_logprobs=2)
    scores = answer.choices[0].logprobs.content
    assert [score.token for score in scores] == ["one ", "two ", "three ", "four "]
    assert all(len(score.top_logprobs) == 2 and score.bytes for score in scores)


def test_stop_and_length(client: openai.OpenAI):
    stopped = client.chat.completions.create(model="fake", messages=HELLO, stop=["three"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("one two ", "stop")
    short = client.chat.completions.create(model="fake", messages=HELLO, max_completion_tokens=2).choices[0]
    assert (short.message.content, short.finish_reason) == ("one two ", "length")


def test_completions_and_models(client: openai.OpenAI):
    answer = client.completions.create(model="fake", prompt=["a", "b"], logprobs=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1] and answer.choices[1].logprobs.text_offset[1] == 4
    assert [model.id for model in client.models.list()] == ["fake"] and client.models.retrieve("fake").id == "fake"


def test_errors_become_the_clients_own(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=HELLO, temperature=3)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature",
        "invalid_value",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt", messages=HELLO)
    assert unknown.value.code == "model_not_found" and unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model="fake", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert tools.value.param == "tools"


def test_an_error_in_the_middle_of_a_stream_is_raised_by_the_client():
    with (
        live(FakeModel(break_at=1)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(openai.APIError, match="request id"),
    ):
        list(client.chat.completions.create(model="fake", messages=HELLO, stream=True))


def test_a_wrong_key_is_an_authentication_error():
    with (
        live(FakeModel(), api_key="right") as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert client.with_options(api_key="right").models.list().data
