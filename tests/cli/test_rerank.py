import io
import json
from pathlib import Path

import pytest

from soberano.models.load import load_decoder, load_encoder
from soberano.models.rank import Ranked
from tests import tiny_judge
from tests.tiny_encoders import CONTEXT, QUERY, RANKERS, TEXTS, Tiny
from tests.tiny_judge import write_tiny_judge


@pytest.fixture(scope="module")
def ranker(tmp_path_factory) -> Path:
    return Tiny("bert", RANKERS).write_folder(tmp_path_factory.mktemp("models") / "tiny-ranker")


@pytest.fixture(scope="module")
def wanted(ranker) -> list[Ranked]:
    with load_encoder(ranker, backend="numpy") as model:
        return model.rerank(QUERY, TEXTS)


@pytest.fixture
def rerank(soberano, ranker, monkeypatch):
    def run(*argv, stdin: bytes = b"", model=ranker):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return soberano("rerank", model, *argv, "--backend", "numpy")

    return run


def test_a_line_a_document_the_best_first(rerank, wanted):
    answer = rerank(QUERY, *TEXTS)
    assert answer.status == 0
    assert answer.err == f"cut at {CONTEXT} tokens: 1 of {len(TEXTS)} documents; the model reads no more\n"
    rows = [line.split("\t") for line in answer.out.splitlines()]
    assert [(float(score), int(index)) for score, index, _ in rows] == [(round(w.score, 6), w.index) for w in wanted]
    assert [text for *_, text in rows] == [" ".join(TEXTS[w.index].split()) for w in wanted]
    assert rerank(QUERY, *TEXTS, "--top", "2").out.splitlines() == answer.out.splitlines()[:2]


def test_json(rerank, wanted):
    whole = json.loads(rerank(QUERY, *TEXTS, "--json").out)
    assert (whole["model"], whole["truncated"]) == ("tiny-ranker", 1) and whole["tokens"] > CONTEXT
    assert whole["results"] == [
        {"index": w.index, "relevance_score": w.score, "document": TEXTS[w.index]} for w in wanted
    ]


def test_files_and_standard_input(rerank, tmp_path):
    given = rerank(QUERY, *TEXTS[1:4]).out
    (tmp_path / "in.txt").write_text("\n".join(TEXTS[1:4]) + "\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS[1:4]))
    assert rerank(QUERY, "--file", tmp_path / "in.txt").out == given
    assert rerank(QUERY, "--file", tmp_path / "in.jsonl", "--field", "body").out == given
    assert rerank(QUERY, stdin="\n".join(TEXTS[1:4]).encode()).out == given
    assert rerank(QUERY, stdin=b"").out == ""


def test_a_model_that_generates_text(rerank, tmp_path):
    path = write_tiny_judge(tmp_path / "m.gguf")
    with load_decoder(path, backend="numpy") as model:
        found = model.rerank(tiny_judge.QUERY, tiny_judge.DOCUMENTS, instruction="Find dogs.")
    asked = (tiny_judge.QUERY, *tiny_judge.DOCUMENTS, "--instruction", "Find dogs.")
    whole = json.loads(rerank(*asked, "--json", model=path).out)
    assert [(each["index"], each["relevance_score"]) for each in whole["results"]] == [
        (each.index, each.score) for each in found
    ]


def test_what_a_document_says_drives_no_terminal(rerank):
    answer = rerank("the", "the\x1b[2J\tfox\nhello")
    assert answer.status == 0 and "\x1b" not in answer.out and answer.out.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("a", "b", "--file", "x"), "give them in one of the two ways"),
        (("a", "b", "--instruction", "c"), "is a cross-encoder, which takes no instruction"),
        (("a " * 100, "b"), "the query is 100 tokens, which leaves no room for documents"),
        (("a", "b", "--context", "65"), "the model reads 2 to 64 tokens"),
        (("\udcff", "b"), "a text is not utf-8"),
        (("a", "\udcff"), "a text is not utf-8"),
    ],
)
def test_what_cannot_be_asked(rerank, argv, says):
    answer = rerank(*argv)
    assert answer.status == 2 and says in answer.err and answer.err.count("\n") == 1


def test_other_models_say_what_they_are(soberano, ranker, tmp_path):
    embedder = Tiny("bert").write_gguf(tmp_path / "m.gguf")
    assert "has no head to rank with" in soberano("rerank", embedder, "a", "b").err
    assert "ranks documents and has no vector of a text" in soberano("embed", ranker, "a").err
