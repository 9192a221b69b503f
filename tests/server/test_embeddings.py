"""/v1/embeddings in OpenAI's shape, raw and by the official client; each kind of model refuses the other's routes."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from soberano.core.types import Array
from soberano.models.encoder import Encoder
from soberano.models.load import load_encoder
from tests.server.fake import FakeModel
from tests.server.live import live, serving
from tests.tiny_bert import CONTEXT, WIDTH, write_folder

TEXTS = ["the quick brown fox", "hello", "the " * 30]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    with load_encoder(write_folder(tmp_path_factory.mktemp("models") / "tiny"), backend="numpy") as found:
        yield found


async def ask(client: Any, status: int = 200, **body: Any) -> dict[str, Any]:
    async with client.post("/v1/embeddings", json=body) as response:
        found = await response.json()
        assert response.status == status, found
        return found


def vectors(answer: dict[str, Any]) -> Array:
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    assert {row["object"] for row in answer["data"]} == {"embedding"}
    return np.array([row["embedding"] for row in answer["data"]], np.float32)


async def test_texts(model: Encoder) -> None:
    async with serving(model) as client:
        answer = await ask(client, input=TEXTS, model="tiny", user="me")
        np.testing.assert_array_equal(vectors(answer), model.embed(TEXTS))
        count = sum(len(model.tokens(text)) for text in TEXTS)
        assert (answer["object"], answer["model"]) == ("list", "tiny")
        assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
        one = await ask(client, input=TEXTS[0])
        np.testing.assert_allclose(vectors(one)[0], model.embed(TEXTS[0]), atol=1e-6)


async def test_token_ids_are_what_the_model_reads(model: Encoder) -> None:
    async with serving(model) as client:
        many = [model.tokens(text) for text in TEXTS]
        np.testing.assert_array_equal(vectors(await ask(client, input=many)), model.embed(TEXTS))
        one = vectors(await ask(client, input=many[1]))
        assert one.shape == (1, WIDTH)
        np.testing.assert_allclose(one[0], model.embed(TEXTS[1]), atol=1e-6)


async def test_base64_and_dimensions(model: Encoder) -> None:
    async with serving(model) as client:
        answer = await ask(client, input=TEXTS, encoding_format="base64", dimensions=16)
        found = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]])
        np.testing.assert_array_equal(found, model.embed(TEXTS, dimensions=16))


async def test_a_long_text_is_refused_or_cut(model: Encoder) -> None:
    long = "the " * 1000
    async with serving(model) as client:
        error = (await ask(client, 400, input=["a", long]))["error"]
        assert (
            error["code"] == "context_length_exceeded"
            and f"input[1]: 1002 tokens, but the model reads {CONTEXT}" in error["message"]
        )
        answer = await ask(client, input=long, truncate=True)
        np.testing.assert_array_equal(vectors(answer)[0], model.embed(long))
        assert answer["usage"]["prompt_tokens"] == CONTEXT


WRONG: dict[str, tuple[Any, str, str | None]] = {
    "no object": ([1], "must be a JSON object", None),
    "no input": ({}, "input is missing", "input"),
    "null input": ({"input": None}, "input is missing", "input"),
    "empty list": ({"input": []}, "input is \\[\\], but must be a string", "input"),
    "a number": ({"input": 7}, "input is 7, but must be", "input"),
    "mixed": ({"input": ["a", 1]}, "must be a string", "input[1]"),
    "an empty text of ids": ({"input": [[1], []]}, "must be a string", "input[1]"),
    "an id that is none": ({"input": [1, 10**9]}, "a whole number from 0 to", "input"),
    "an id of text": ({"input": [[1, "a"]]}, "a whole number from 0 to", "input[0]"),
    "a surrogate": ({"input": "\ud800"}, "without lone surrogates", "input"),
    "many": ({"input": ["a"] * 2049}, "holds 2049 texts, but one request may hold 2048", "input"),
    "ids that do not fit": ({"input": [1] * (CONTEXT + 1)}, "65 tokens, but the model reads 64", None),
    "format": ({"input": "a", "encoding_format": "int8"}, "must be 'float' or 'base64'", "encoding_format"),
    "dimensions": ({"input": "a", "dimensions": 65}, "a whole number from 1 to 64", "dimensions"),
    "misspelt": ({"input": "a", "dimension": 3}, "did you mean dimensions", "dimension"),
    "another model": ({"input": "a", "model": "gpt"}, "no model is called 'gpt'", "model"),
    "truncate": ({"input": "a", "truncate": 1}, "true or false", "truncate"),
    "user": ({"input": "a", "user": 1}, "a string", "user"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_served_is_named(case: str, model: Encoder) -> None:
    body, says, param = WRONG[case]
    async with serving(model) as client, client.post("/v1/embeddings", json=body) as response:
        error = (await response.json())["error"]
        assert response.status == (404 if case == "another model" else 400)
        assert error["type"] == "invalid_request_error" and error["param"] == param
        assert says.replace("\\", "") in error["message"], error["message"]


async def test_each_kind_of_model_has_its_routes(model: Encoder) -> None:
    async with serving(model) as client:
        for route, body in (("chat/completions", {"messages": []}), ("completions", {"prompt": "a"})):
            async with client.post(f"/v1/{route}", json=body) as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (400, "unsupported_model")
                assert "tiny embeds texts and generates none; use /v1/embeddings" in error["message"]
        async with client.get("/v1/models") as response:
            (card,) = (await response.json())["data"]
        assert (card["id"], card["context_length"], card["dimensions"]) == ("tiny", CONTEXT, WIDTH)
        async with client.get("/metrics") as response:
            assert "soberano:prompt_tokens_total" in await response.text()
    async with serving(FakeModel(text="a")) as client:
        error = (await ask(client, 400, input="a"))["error"]
        assert error["code"] == "unsupported_model" and "use /v1/chat/completions" in error["message"]


def test_the_official_client(model: Encoder) -> None:
    with (
        live(model) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=20) as client,
    ):
        answer = client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64, and reads it itself
        np.testing.assert_array_equal(np.array([row.embedding for row in answer.data], np.float32), model.embed(TEXTS))
        short = client.embeddings.create(model="tiny", input="hello", dimensions=8, encoding_format="float")
        assert len(short.data[0].embedding) == 8
        with pytest.raises(openai.BadRequestError, match="the model reads 64"):
            client.embeddings.create(model="tiny", input="the " * 1000)
