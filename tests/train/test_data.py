"""Wrong data stops before training, with file and line; right data becomes tokens of which the answers are learnt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.core.errors import InputError, SoberanoError
from soberano.models.model import Model
from soberano.train.data import read_examples
from soberano.train.encode import encode_examples
from soberano.train.packing import batch_of, pack
from tests.tiny import write_tiny_llama

CHAT = {"messages": [{"role": "user", "content": "the dog?"}, {"role": "assistant", "content": "the fox"}]}


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path)
    with soberano.load(path, backend="numpy") as found:
        yield found


def encoded(model: Model, path: Path, longest: int = 64, **how: Any) -> Any:
    return encode_examples(read_examples(path), model.tokenizer, model.chat, longest, **how)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no example; it must have one a line"),
        (["", "  "], "holds no example"),
        ([{"text": "a"}, "no json"], r"m\.jsonl:2 is not JSON"),
        ([{"text": "a"}, "[1]"], r"m\.jsonl:2 holds a list, and must hold an object"),
        (
            [{"text": "a"}, "", {"prompt": "a", "completion": "b"}],
            r"m\.jsonl:3 is an example of the form completion, and",
        ),
        ([{"txt": "a"}], r"m\.jsonl:1 has the fields txt; known forms are chat"),
        ([{"instruction": "a", "input": ""}], r"m\.jsonl:1 has the fields instruction, input; known forms"),
        ([{"text": 5}], r"m\.jsonl:1: text is int, and must be text"),
        ([{"instruction": "a", "output": "b", "input": 3}], r"m\.jsonl:1: input is int"),
        ([{"messages": []}], r"m\.jsonl:1: messages must be a list of at least one message"),
        (["[" * 100_000], r"m\.jsonl:1"),
    ],
)
def test_wrong_files(lines: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_examples(written(tmp_path / "m.jsonl", *lines))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "dog " * 200}, r"m\.jsonl:1 is \d+ tokens long, and 64 are the most"),
        ({"prompt": "dog", "completion": ""} | {}, None),
        ({"messages": [{"role": "user", "content": "dog"}]}, r"m\.jsonl:1: no message is the assistant's"),
        ({"messages": [{"role": "user"}]}, r"m\.jsonl:1: "),
        ({"messages": [5]}, r"m\.jsonl:1: "),
    ],
)
def test_wrong_examples(model: Model, line: Any, said: str | None, tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", line)
    if said is None:
        assert encoded(model, path)[0].learnt.sum() == 1  # the end of the text
        return
    with pytest.raises(InputError, match=said):
        encoded(model, path)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path, written(tmp_path / "a.csv", "x")):
        with pytest.raises(SoberanoError, match=str(path)):
            read_examples(path)
    with pytest.raises(InputError, match="holds a dict, and must hold a list"):
        read_examples(written(tmp_path / "a.json", {"text": "a"}))
    with pytest.raises(SoberanoError, match="no Parquet file"):
        read_examples(written(tmp_path / "a.parquet", "x"))


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": "a", "completion": str(i)} for i in range(5)]
    written(tmp_path / "l.jsonl", *rows)
    (tmp_path / "j.json").write_text(json.dumps(rows))
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    for name in ("l.jsonl", "j.json", "p.parquet"):
        found = read_examples(tmp_path / name)
        assert found.form == "completion" and [e.fields for e in found.examples] == rows
    assert [e.fields for e in read_examples(tmp_path).examples] == rows * 3


def test_answers_are_learnt_and_what_ends_them(model: Model, tmp_path: Path) -> None:
    turns = [*CHAT["messages"], {"role": "user", "content": "why?"}, {"role": "assistant", "content": "is that so"}]
    (text,) = encoded(model, written(tmp_path / "m.jsonl", {"messages": turns}))
    said = model.tokenizer.decode(text.tokens[text.learnt], special=True)
    assert said == "the fox<|im_end|>is that so<|im_end|>"
    (alpaca,) = encoded(
        model, written(tmp_path / "a.jsonl", {"instruction": "the", "input": "dog?", "output": "the fox"})
    )
    assert model.tokenizer.decode(alpaca.tokens[alpaca.learnt], special=True) == "the fox<|im_end|>"
    assert "the\n\ndog?" in model.tokenizer.decode(alpaca.tokens)
    (plain,) = encoded(model, written(tmp_path / "t.jsonl", {"text": "the fox is"}))
    assert model.tokenizer.decode(plain.tokens, special=True) == "the fox is<|im_end|>"
    assert plain.learnt.tolist() == [False] + [True] * (len(plain.tokens) - 1)


def test_what_is_too_long_may_be_cut(model: Model, tmp_path: Path) -> None:
    (text,) = encoded(model, written(tmp_path / "m.jsonl", {"text": "dog " * 200}), cut=True)
    assert len(text.tokens) == 64


def test_rows_hold_every_text_once_and_targets_stay_inside(model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [{"text": "dog " * int(n)} for n in rng.integers(1, 40, 60)]
    texts = encoded(model, written(tmp_path / "m.jsonl", *lines), longest=128)
    rows = pack([len(text.tokens) for text in texts], 128)
    assert sorted(i for row in rows for i in row) == list(range(60))
    batch = batch_of([[texts[i] for i in row] for row in rows], 128, len(rows) + 1)
    assert (batch.targets >= 0).sum() == sum(text.learnt.sum() for text in texts)
    used = batch.targets[:, :-1] >= 0
    np.testing.assert_array_equal(batch.targets[:, :-1][used], batch.tokens[:, 1:][used])
    assert (batch.segments[:, 1:][used] == batch.segments[:, :-1][used]).all()
    assert (batch.segments[-1] == -1).all() and (batch.positions[batch.segments < 0] == 0).all()
