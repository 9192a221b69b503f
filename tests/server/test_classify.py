"""/v1/classify in the shape of Jina, and /v1/rerank, by heads that were trained on an encoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soberano.models.encoder import Encoder
from soberano.models.load import load_decoder, load_encoder
from soberano.train.head import HeadSettings, train_head
from tests.server.live import serving
from tests.tiny import write_tiny_llama
from tests.tiny_encoders import CONTEXT, Tiny
from tests.train.test_head import classes, written

TEXTS = ["the quick fox", "hello world", ""]
DOCUMENTS = ["a dog", "hello world", "fox " * 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, a head that classifies, and one that ranks."""
    made = tmp_path_factory.mktemp("heads")
    path = Tiny("bert").write_gguf(made / "tiny.gguf")
    settings = HeadSettings(hidden=8, epochs=3, batch=16)
    pairs = [
        {"query": f"{line['label']} {i % 16}", "document": line["text"], "score": i % 2}
        for i, line in enumerate(classes())
    ]
    with load_encoder(path, backend="numpy") as model:
        train_head(model, written(made / "c.jsonl", *classes()), made / "classes", settings)
        train_head(model, written(made / "r.jsonl", *pairs), made / "relevance", settings)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Encoder]:
    with load_encoder(folder / "tiny.gguf", head=folder / "classes", backend="numpy") as found:
        yield found


@pytest.fixture(scope="module")
def ranker(folder: Path) -> Iterator[Encoder]:
    with load_encoder(folder / "tiny.gguf", head=folder / "relevance", backend="numpy") as found:
        yield found


async def ask(client: Any, route: str, status: int = 200, **body: Any) -> dict[str, Any]:
    async with client.post(f"/v1/{route}", json=body) as response:
        found = await response.json()
        assert response.status == status, found
        return found


async def test_classes_as_the_model_says_them(model: Encoder) -> None:
    async with serving(model) as client:
        answer = await ask(client, "classify", input=TEXTS, model=model.name, user="me")
        for i, (each, found) in enumerate(zip(answer["data"], model.classify(TEXTS), strict=True)):
            assert (each["object"], each["index"]) == ("classification", i)
            assert (each["prediction"], each["score"]) == (found.label, pytest.approx(found.score, abs=1e-6))
            assert [p["label"] for p in each["predictions"]] == [label for label, _ in found.predictions]
        count = sum(len(model.tokens(text)) for text in TEXTS)
        assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
        one = await ask(client, "classify", input=TEXTS[0])
        assert one["data"][0]["prediction"] == answer["data"][0]["prediction"] and len(one["data"]) == 1
        assert len((await ask(client, "embeddings", input="a"))["data"]) == 1
        async with client.get("/v1/models") as response:
            (card,) = (await response.json())["data"]
        assert card["labels"] == ["animals", "greetings"] and card["dimensions"] == model.width


async def test_documents_by_the_head(ranker: Encoder) -> None:
    async with serving(ranker) as client:
        answer = await ask(client, "rerank", query="the fox", documents=DOCUMENTS)
        found = [(each["index"], each["relevance_score"]) for each in answer["results"]]
        assert found == [(each.index, each.score) for each in ranker.rerank("the fox", DOCUMENTS)]
        pairs = ranker.pairs("the fox", DOCUMENTS)
        count = sum(map(len, pairs.tokens))
        assert (len(pairs.tokens), pairs.documents, pairs.cut) == (4, 3, 1)
        assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count, "truncated": 1}
        error = (await ask(client, "rerank", 400, query="a " * 100, documents=["b"]))["error"]
        assert error["code"] == "context_length_exceeded" and f"the model reads {CONTEXT}" in error["message"]
        error = (await ask(client, "rerank", 400, query="a", documents=["b"], instruction="c"))["error"]
        assert "has a head of its own; leave it out" in error["message"]
        error = (await ask(client, "classify", 400, input="a"))["error"]
        assert "has no head that classifies" in error["message"] and "use /v1/rerank" in error["message"]


def test_scores_are_those_of_the_vectors(ranker: Encoder) -> None:
    assert ranker.head is not None
    query, *documents = ranker.embed(["the fox", *DOCUMENTS])
    for each in ranker.rerank("the fox", DOCUMENTS):
        assert each.score == pytest.approx(
            float(ranker.head.relevance(query, documents[each.index][None])[0]), abs=1e-5
        )
    assert ranker.rerank("the fox", []) == []


WRONG: dict[str, tuple[Any, str, str | None]] = {
    "no input": ({}, "input is missing", "input"),
    "labels": ({"input": "a", "labels": ["b"]}, "the head of this server has its own; leave it out", "labels"),
    "a number": ({"input": [["a"]]}, "must be a whole number", "input[0]"),
    "dimensions": ({"input": "a", "dimensions": 8}, "'dimensions' is no parameter", "dimensions"),
    "too long": ({"input": "a " * 100}, f"the model reads {CONTEXT} of a text", None),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_served_is_named(case: str, model: Encoder) -> None:
    body, says, param = WRONG[case]
    async with serving(model) as client:
        error = (await ask(client, "classify", 400, **body))["error"]
        assert says in error["message"] and error["param"] == param, error
        if case == "too long":
            assert len((await ask(client, "classify", **body, truncate=True))["data"]) == 1


async def test_other_models_classify_nothing(tmp_path: Path) -> None:
    with load_encoder(Tiny("bert").write_gguf(tmp_path / "e.gguf"), backend="numpy") as plain:
        async with serving(plain) as client:
            assert "--head FOLDER" in (await ask(client, "classify", 400, input="a"))["error"]["message"]
    write_tiny_llama(tmp_path / "m.gguf")
    with load_decoder(tmp_path / "m.gguf", backend="numpy") as decoder:
        async with serving(decoder) as client:
            assert "classifies none" in (await ask(client, "classify", 400, input="a"))["error"]["message"]
