import io
import json
from pathlib import Path

import numpy as np
import pytest

from soberano.models.load import load_encoder
from tests.tiny_bert import WIDTH, write_folder

TEXTS = ["the quick fox", "hello", ""]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="module")
def wanted(bert) -> np.ndarray:
    with load_encoder(bert, backend="numpy") as model:
        return model.embed(TEXTS)


@pytest.fixture
def embed(soberano, bert, monkeypatch):
    def run(*argv, stdin: bytes = b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return soberano("embed", bert, *argv, "--backend", "numpy")

    return run


def test_texts_of_the_command_line(embed, wanted):
    answer = embed(*TEXTS)
    assert (answer.status, answer.err) == (0, "")
    np.testing.assert_array_equal(np.array([json.loads(line) for line in answer.out.splitlines()], "f4"), wanted)
    whole = json.loads(embed(*TEXTS, "--json").out)
    assert (whole["model"], whole["dimensions"], whole["tokens"]) == ("tiny-bert", WIDTH, 10)
    np.testing.assert_array_equal(np.array(whole["embeddings"], "f4"), wanted)


def test_lines_of_standard_input(embed, wanted):
    assert embed(stdin="\r\n".join(TEXTS).encode() + b"\n\n").out.splitlines()[:2] == embed(*TEXTS[:2]).out.splitlines()
    assert len(embed(stdin=b"a\n\nb").out.splitlines()) == 3
    assert embed(stdin=b"").out == ""


def test_texts_that_are_cut_are_counted(embed):
    answer = embed("word " * 200, "short", "--context", "16")
    assert answer.status == 0 and answer.err == "cut at 16 tokens: 1 of 2 texts; the model reads no more\n"


def test_the_name_of_a_file_is_no_text(embed, tmp_path):
    (tmp_path / "texts.jsonl").write_text('"a"\n')
    answer = embed(tmp_path / "texts.jsonl")
    assert answer.status == 2 and "is the name of a file; to read what is in it: --file" in answer.err


def test_files(embed, wanted, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS[:2]) + "\n\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS) + "\n")
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    for name, *more in (("in.txt",), ("in.jsonl", "--field", "body"), ("plain.jsonl",)):
        out = tmp_path / f"{name}.npy"
        answer = embed("--file", tmp_path / name, "--out", out, *more)
        assert (answer.status, answer.out) == (0, "") and "3 vectors of 64 numbers" in answer.err
        np.testing.assert_array_equal(np.load(out), wanted)


def test_more_than_one_part(embed, tmp_path, monkeypatch):
    monkeypatch.setattr("soberano.cli.embed.PART", 7)
    texts = [f"a {'b ' * (i % 9)}" for i in range(20)]
    embed("--out", tmp_path / "out.jsonl", stdin="\n".join(texts).encode())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    alone = json.loads(embed(texts[13]).out)
    np.testing.assert_allclose(rows[13]["embedding"], alone, atol=2e-6)


def test_wishes(embed, wanted):
    (row,) = (json.loads(line) for line in embed(TEXTS[0], "--dimensions", "8", "--pooling", "cls").out.splitlines())
    assert len(row) == 8 and np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
    (long,) = (json.loads(line) for line in embed(TEXTS[0], "--no-normalize", "--context", "4").out.splitlines())
    assert np.linalg.norm(long) > 1.5


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("a", "--file", "x"), "give them in one of the two ways"),
        (("a", "--json", "--out", "x.npy"), "give one of the two"),
        (("a", "--out", "x.csv"), "end it in .npy"),
        (("a", "--dimensions", "65"), "dimensions is 65, but the vectors of this model have 64"),
        (("a", "--context", "65"), "the model reads 2 to 64 tokens"),
        (("\udcff",), "a text is not utf-8"),
    ],
)
def test_what_cannot_be_asked(embed, argv, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = embed(*argv)
    assert answer.status == 2 and says in answer.err and answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"text": "a"}\n{', "in.jsonl, line 2: not JSON"),
        (b'{"body": "a"}', "in.jsonl, line 1: no text under 'text'; say with --field"),
        (b"[1]", "line 1: no text"),
        (b'"\xff"', "line 1: not UTF-8"),
    ],
)
def test_a_wrong_line_is_named(embed, tmp_path, line, says):
    (tmp_path / "in.jsonl").write_bytes(line)
    answer = embed("--file", tmp_path / "in.jsonl", "--out", tmp_path / "out.npy")
    assert answer.status == 2 and says in answer.err
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_other_models_say_what_they_are(soberano, tiny, bert):
    assert "generates text and is no encoder" in soberano("embed", tiny, "a").err
    assert "is an encoder: it turns texts into vectors" in soberano("run", bert, "a").err
