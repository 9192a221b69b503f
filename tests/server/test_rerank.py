"""/v1/rerank in the shape of Jina and Cohere, by a cross-encoder and by a model that generates text."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from soberano.models.encoder import Encoder
from soberano.models.load import load_decoder, load_encoder
from soberano.models.model import Model
from tests import tiny_judge
from tests.server.live import serving
from tests.tiny import write_tiny_llama
from tests.tiny_encoders import CONTEXT, QUERY, RANKERS, TEXTS, Tiny
from tests.tiny_judge import write_tiny_judge


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    path = Tiny("bert", RANKERS).write_gguf(tmp_path_factory.mktemp("rank") / "tiny.gguf")
    with load_encoder(path, backend="numpy") as found:
        yield found


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load_decoder(write_tiny_judge(tmp_path_factory.mktemp("judge") / "m.gguf"), backend="numpy") as found:
        yield found


async def ask(client: Any, status: int = 200, **body: Any) -> dict[str, Any]:
    async with client.post("/v1/rerank", json=body) as response:
        found = await response.json()
        assert response.status == status, found
        return found


async def test_documents_come_back_best_first(model: Encoder) -> None:
    async with serving(model) as client:
        answer = await ask(client, query=QUERY, documents=TEXTS, model=model.name, user="me")
        found = [(each["index"], each["relevance_score"]) for each in answer["results"]]
        assert found == [(each.index, each.score) for each in model.rerank(QUERY, TEXTS)]
        count = sum(map(len, model.pairs(QUERY, TEXTS).tokens))
        assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count, "truncated": 1}
        assert (answer["object"], answer["model"]) == ("list", model.name)
        two = await ask(client, query=QUERY, documents=TEXTS, top_n=2)
        assert two["results"] == answer["results"][:2]


async def test_documents_may_be_objects_and_may_come_back(model: Encoder) -> None:
    async with serving(model) as client:
        plain = await ask(client, query=QUERY, documents=TEXTS)
        objects = await ask(client, query=QUERY, documents=[{"text": text} for text in TEXTS], return_documents=True)
        for one, other in zip(plain["results"], objects["results"], strict=True):
            assert other == one | {"document": {"text": TEXTS[one["index"]]}}


async def test_a_model_that_generates_is_asked(judge: Model) -> None:
    async with serving(judge) as client:
        answer = await ask(client, query=tiny_judge.QUERY, documents=tiny_judge.DOCUMENTS)
        found = [(each["index"], each["relevance_score"]) for each in answer["results"]]
        assert found == [(each.index, each.score) for each in judge.rerank(tiny_judge.QUERY, tiny_judge.DOCUMENTS)]
        other = await ask(client, query=tiny_judge.QUERY, documents=tiny_judge.DOCUMENTS, instruction="Find cats.")
        assert other["results"] != answer["results"]
        async with client.post("/v1/completions", json={"prompt": "The", "max_tokens": 2}) as response:
            assert response.status == 200
    assert judge.pages.free == judge.pages.count


WRONG: dict[str, tuple[Any, str, str | None]] = {
    "no object": ([1], "must be a JSON object", None),
    "no query": ({"documents": ["a"]}, "query is missing", "query"),
    "no documents": ({"query": "a"}, "documents is missing", "documents"),
    "none": ({"query": "a", "documents": []}, "a list of at least one document", "documents"),
    "a string": ({"query": "a", "documents": "b"}, "a list of at least one document", "documents"),
    "a number": ({"query": "a", "documents": ["b", 1]}, "documents[1] is 1, but must be a string", "documents[1]"),
    "an object without": ({"query": "a", "documents": [{}]}, "must be a string", "documents[0].text"),
    "an object with more": (
        {"query": "a", "documents": [{"text": "b", "title": "c"}]},
        "'documents[0].title' is no parameter",
        "documents[0].title",
    ),
    "too many": ({"query": "a", "documents": ["b"] * 2049}, "holds 2049, but one request may hold 2048", "documents"),
    "top_n": ({"query": "a", "documents": ["b"], "top_n": 0}, "a whole number from 1 to", "top_n"),
    "a surrogate": ({"query": "\ud800", "documents": ["b"]}, "without lone surrogates", "query"),
    "misspelt": ({"query": "a", "document": ["b"]}, "did you mean documents", "document"),
    "an instruction": (
        {"query": "a", "documents": ["b"], "instruction": "c"},
        "this model is a cross-encoder; leave it out",
        "instruction",
    ),
    "another model": ({"query": "a", "documents": ["b"], "model": "gpt"}, "no model is called 'gpt'", "model"),
    "whether": ({"query": "a", "documents": ["b"], "return_documents": 1}, "true or false", "return_documents"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_served_is_named(case: str, model: Encoder) -> None:
    body, says, param = WRONG[case]
    async with serving(model) as client, client.post("/v1/rerank", json=body) as response:
        error = (await response.json())["error"]
        assert response.status == (404 if case == "another model" else 400)
        assert error["type"] == "invalid_request_error" and error["param"] == param
        assert says in error["message"], error["message"]


async def test_a_query_that_leaves_no_room(model: Encoder, judge: Model) -> None:
    async with serving(model) as client:
        error = (await ask(client, 400, query="a " * 100, documents=["b"]))["error"]
        assert error["code"] == "context_length_exceeded" and f"the model reads {CONTEXT} of both" in error["message"]
    async with serving(judge) as client:
        error = (await ask(client, 400, query="a " * 1000, documents=["b"]))["error"]
        assert error["code"] == "context_length_exceeded"


async def test_each_kind_of_model_has_its_routes(model: Encoder, tmp_path: Any) -> None:
    async with serving(model) as client:
        for route, body in (("chat/completions", {"messages": []}), ("embeddings", {"input": "a"})):
            async with client.post(f"/v1/{route}", json=body) as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (400, "unsupported_model")
                assert "ranks documents" in error["message"] and "use /v1/rerank" in error["message"]
        async with client.get("/v1/models") as response:
            (card,) = (await response.json())["data"]
        assert card["context_length"] == CONTEXT and "dimensions" not in card
    with load_encoder(Tiny("bert").write_gguf(tmp_path / "m.gguf"), backend="numpy") as other:
        async with serving(other) as client:
            error = (await ask(client, 400, query="a", documents=["b"]))["error"]
            assert error["code"] == "unsupported_model" and "has no head to rank with" in error["message"]
    write_tiny_llama(tmp_path / "m.gguf")
    with load_decoder(tmp_path / "m.gguf", backend="numpy") as silent:
        async with serving(silent) as client:
            error = (await ask(client, 400, query="a", documents=["b"]))["error"]
            assert "spells 'yes' in 3 tokens" in error["message"]


def test_scores_are_numbers_that_json_has(model: Encoder) -> None:
    scores = [each.score for each in model.rerank(QUERY, TEXTS)]
    assert all(type(score) is float and 0 < score < 1 for score in scores) and np.isfinite(scores).all()
