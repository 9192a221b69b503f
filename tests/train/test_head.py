"""Heads on a frozen encoder: what can be told apart is, the same seed makes the same bits, wrong data is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soberano.cli.main import main
from soberano.core.errors import FileError, InputError
from soberano.models.encoder import Encoder
from soberano.models.load import load, load_encoder
from soberano.models.trained_head import CARD, WEIGHTS, pair_features, read_head
from soberano.train.head import HeadSettings, Training, train_head
from soberano.train.head_data import Examples, read_head_examples, split
from soberano.train.head_report import class_report, rank_report
from tests.tiny import write_tiny_llama
from tests.tiny_encoders import RANKERS, Tiny

SETTINGS = HeadSettings(hidden=8, rate=1e-2, epochs=30, batch=16)
WORDS = {"animals": ("fox", "dog"), "greetings": ("hello", "world")}


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def classes(count: int = 32) -> list[dict[str, str]]:
    """Texts that are told apart by their words."""
    return [
        {"text": f"{'the ' * (i % 7)}{words[i % 2]} {'abcdefgh'[i % 8]} {i}", "label": label}
        for label, words in WORDS.items()
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Tiny("bert").write_gguf(tmp_path_factory.mktemp("encoder") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    with load_encoder(tiny, backend="numpy") as found:
        yield found


def separable(kind: str, seed: int = 0) -> tuple[Examples, np.ndarray]:
    """Examples whose vectors say what they are: of classes the sign of a number, of relevance that of a product."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((240, 16)).astype(np.float32)
    if kind == "classifier":
        vectors[:, 3] += np.sign(vectors[:, 3])
    texts = [str(i) for i in range(len(vectors))]
    if kind == "classifier":
        targets = np.eye(2, dtype=np.float32)[(vectors[:, 3] > 0).astype(int)]
        return Examples("classifier", "classes", texts, np.arange(240)[:, None], targets, ("no", "yes"), 0), vectors
    rows = np.stack([np.repeat(np.arange(40), 20), rng.integers(40, 240, 800)], axis=1)
    targets = (vectors[rows[:, 0], 3] * vectors[rows[:, 1], 3] > 0).astype(np.float32)[:, None]
    return Examples("relevance", "scored", texts, rows, targets, (), 0), vectors


def test_it_tells_apart_what_is_apart() -> None:
    training = Training(*separable("classifier"), SETTINGS)
    training.run()
    report = training.report()
    assert report is not None and report["before"]["accuracy"] < 0.7 and report["after"]["accuracy"] > 0.9
    assert np.sum(report["after"]["confusion"]) == report["examples"] == len(training.held_out)


def test_relevance_begins_as_the_cosine_and_learns_more() -> None:
    training = Training(*separable("relevance"), SETTINGS)
    chosen = training.held_out
    cosine, first = training.features(chosen)[:, -1], training.logits(chosen, training.layers)[:, 0]
    np.testing.assert_array_equal(np.argsort(cosine), np.argsort(first))
    training.run()
    report = training.report()
    assert report is not None and report["before"]["auc"] < 0.75 and report["after"]["auc"] > 0.85
    assert report["after"]["ndcg_at_10"] > report["before"]["ndcg_at_10"] + 0.1


@pytest.mark.parametrize("kind", ["classifier", "relevance"])
def test_the_same_seed_makes_the_same_bits(kind: str) -> None:
    made = [Training(*separable(kind), replace(SETTINGS, epochs=3, seed=seed)) for seed in (1, 1, 2)]
    for each in made:
        each.run()
    one, same, other = (b"".join(array.tobytes() for array in each.layers) for each in made)
    assert one == same and one != other


def test_no_text_and_no_query_is_on_two_sides() -> None:
    for kind in ("classifier", "relevance"):
        examples, _ = separable(kind)
        parts = split(examples, (0.1, 0.2), 0)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(examples.rows)))
        sides = [set(examples.groups[part].tolist()) for part in parts]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2]) and all(sides)


def test_patience_ends_it_and_the_best_is_kept() -> None:
    rows: list[dict[str, Any]] = []
    training = Training(*separable("classifier"), replace(SETTINGS, rate=0.3, epochs=200, patience=3))
    training.run(rows.append)
    losses = [row["validation"] for row in rows]
    assert len(rows) < 200 and training.epochs == 1 + int(np.argmin(losses)) == len(rows) - 3
    assert training.loss(training.watched, training.layers) == min(losses)


def test_balanced_weights_let_rare_labels_count() -> None:
    examples, vectors = separable("classifier")
    rare = np.concatenate([np.flatnonzero(examples.targets[:, 0]), np.flatnonzero(examples.targets[:, 1])[:20]])
    examples = replace(examples, rows=examples.rows[rare], targets=examples.targets[rare])
    training = Training(examples, vectors, replace(SETTINGS, class_weights="balanced"))
    learnt = training.weights[training.learnt][:, None] * examples.targets[training.learnt]
    assert np.ptp(learnt.sum(axis=0)) < 1e-3


def test_a_head_is_written_and_read(model: Encoder, tiny: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "d.jsonl", *classes(), classes()[0])
    card = train_head(model, data, tmp_path / "head", SETTINGS)
    assert (card["kind"], card["labels"], card["data"]["twice"]) == ("classifier", ["animals", "greetings"], 1)
    assert json.loads((tmp_path / "head" / CARD).read_text()) == card
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == [CARD, WEIGHTS]
    head = read_head(tmp_path / "head")
    vectors = model.embed(["the dog", "hello world"])
    with load_encoder(tiny, head=tmp_path / "head", backend="numpy") as served:
        for row, found in zip(head.classify(vectors), served.classify(["the dog", "hello world"]), strict=True):
            assert found.score == max(row) and found.label == card["labels"][int(row.argmax())]
            assert sum(score for _, score in found.predictions) == pytest.approx(1)


def test_another_encoder_is_refused(model: Encoder, tmp_path: Path) -> None:
    train_head(model, written(tmp_path / "d.jsonl", *classes()), tmp_path / "head", replace(SETTINGS, epochs=1))
    other = Tiny("bert").write_gguf(tmp_path / "o.gguf", tensors=Tiny("bert").weights(seed=1))
    with pytest.raises(InputError, match="a head answers wrongly on another encoder"):
        load_encoder(other, head=tmp_path / "head", backend="numpy")
    write_tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="a trained head belongs to an encoder"):
        load(tmp_path / "m.gguf", head=tmp_path / "head", backend="numpy")
    ranker = Tiny("bert", RANKERS).write_gguf(tmp_path / "r.gguf")
    with pytest.raises(InputError, match="is a cross-encoder with a head of its own"):
        load_encoder(ranker, head=tmp_path / "head", backend="numpy")
    with (
        load_encoder(ranker, backend="numpy") as cross,
        pytest.raises(InputError, match="is a cross-encoder with a head of its own"),
    ):
        train_head(cross, tmp_path / "d.jsonl", tmp_path / "none", SETTINGS)
    card = json.loads((tmp_path / "head" / CARD).read_text())
    card["reads"]["pooling"] = "cls"
    (tmp_path / "head" / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"'pooling': 'cls'.*'pooling': 'mean'.*train it again"):
        load_encoder(model.path, head=tmp_path / "head", backend="numpy")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "says format 2 and kind 'classifier'"),
        ({"kind": "x"}, "and kind 'x'"),
        ({"labels": ["a", "a"]}, "2 or more different texts"),
        ({"labels": ["a", "b", "c"]}, r"the tensor skip is \(2, 64\) F32, and must be \(3, 64\)"),
        ({"hidden": 9}, "the tensor hidden is"),
        ({"reads": {"width": "64"}}, "reads must be an object of width"),
        ({"base": None}, "base must be an object of name"),
        ({"weights_sha256": "0"}, "is not the file that head.json was written with"),
    ],
)
def test_a_damaged_head(change: dict[str, Any], says: str, head: Path, tmp_path: Path) -> None:
    card = json.loads((head / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | change))
    (tmp_path / WEIGHTS).write_bytes((head / WEIGHTS).read_bytes())
    with pytest.raises(FileError, match=says):
        read_head(tmp_path)


@pytest.fixture(scope="module")
def head(model: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    train_head(model, written(folder / "d.jsonl", *classes()), folder / "head", replace(SETTINGS, epochs=1))
    return folder / "head"


def test_a_folder_without_a_head(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no head \(head.json is missing\)"):
        read_head(tmp_path)


TEXT, SCORED = {"text": "a", "label": "b"}, {"query": "a", "document": "b", "score": 1}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no example; it must have one a line: text and label"),
        ([TEXT, "nothing"], r"d\.jsonl:2 is not JSON"),
        ([TEXT, "[1]"], r"d\.jsonl:2 holds a list"),
        ([TEXT, {"txt": "a"}], r"d\.jsonl:2 has the fields txt; a head is trained on"),
        ([TEXT, SCORED], r"d\.jsonl:2 has the form scored, and .*d\.jsonl:1 the form classes"),
        ([TEXT | {"label": 1}], r"d\.jsonl:1: label is int, and must be text"),
        ([TEXT | {"label": " "}], r"d\.jsonl:1: label is empty"),
        ([TEXT | {"text": "\ud800"}], r"d\.jsonl:1: text holds lone surrogates"),
        ([TEXT], "every label is 'b'; a classifier needs two"),
        ([SCORED | {"score": 1.5}], r"d\.jsonl:1: score is 1.5, and must be a number from 0 to 1"),
        ([SCORED | {"score": float("nan")}], r"d\.jsonl:1: score is nan"),
        ([SCORED], "every score is 1; give documents that fit and others"),
        ([SCORED, SCORED | {"score": 0}], r"d\.jsonl:2: this query and document have the score 0 here, and 1 before"),
        ([{"query": "a", "positive": [], "negatives": []}], "positive must be a text or a list of texts"),
        ([{"query": "a", "positive": "b", "negatives": [3]}], "negatives is int, and must be text"),
    ],
)
def test_wrong_data(lines: list[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_head_examples(written(tmp_path / "d.jsonl", *lines))


def test_contrasts_become_pairs(tmp_path: Path) -> None:
    line = {"query": "a", "positive": "b", "negatives": ["c", "d"]}
    found = read_head_examples(
        written(tmp_path / "d.jsonl", line, line | {"query": "b", "positive": ["a", "d"], "negatives": []})
    )
    assert (found.kind, found.form, found.texts) == ("relevance", "contrast", ["a", "b", "c", "d"])
    pairs = [(found.texts[q], found.texts[d]) for q, d in found.rows.tolist()]
    assert dict(zip(pairs, found.targets[:, 0].tolist(), strict=True))[("a", "b")] == 1
    assert len(found.texts) == len(set(found.texts))


@pytest.mark.parametrize(
    "wrong",
    [{"hidden": 0}, {"rate": 2.0}, {"patience": -1}, {"held_out": 1.0}, {"held_out": 0.6, "validation": 0.5}],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Training(*separable("classifier"), replace(SETTINGS, **wrong))


def test_too_few_examples() -> None:
    examples, vectors = separable("classifier")
    few = replace(examples, rows=examples.rows[:3], targets=examples.targets[:3])
    with pytest.raises(InputError, match="3 different texts are too few for the shares"):
        Training(few, vectors, SETTINGS)


def test_measures_by_hand() -> None:
    report = class_report(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("a", "b", "c"))
    assert report["accuracy"] == 0.75 and report["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert report["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    queries, scores = np.array([0, 0, 0, 1, 1, 2]), np.array([0.0, 1, 0, 1, 0, 1])
    report = rank_report(queries, scores, np.array([0.9, 0.5, 0.1, 0.8, 0.2, 0.3]))
    assert report["queries"] == 2 and report["mrr"] == 0.75
    assert report["ndcg_at_10"] == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert rank_report(queries[-1:], scores[-1:], np.ones(1)) == {
        "ndcg_at_10": None,
        "mrr": None,
        "auc": None,
        "queries": 0,
    }


def test_pair_features_of_zeros_are_numbers() -> None:
    assert np.isfinite(pair_features(np.zeros(4, np.float32), np.ones((2, 4), np.float32))).all()


def test_the_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = written(tmp_path / "d.jsonl", *classes()), tmp_path / "head"
    how = ["--epochs", "20", "--hidden", "8", "--rate", "0.01", "--backend", "numpy"]
    assert main(["train", "head", str(tiny), str(data), "--out", str(out), *how]) == 0
    said = capsys.readouterr().err
    assert "a classifier of 2 labels, of classes examples" in said and "accuracy on what was held out" in said
    asked = ["classify", str(tiny), "the dog", "hello\tworld", "--head", str(out), "--backend", "numpy"]
    assert main(asked) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows] == ["the dog", "hello world"]
    assert main([*asked, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row[1], float(row[0])) for row in rows] == [(t["prediction"], round(t["score"], 6)) for t in told]
    assert main(["rerank", str(tiny), "a", "b", "--head", str(out), "--backend", "numpy"]) == 2
    assert "has no head to rank with" in capsys.readouterr().err
    bad = written(tmp_path / "bad.jsonl", TEXT, "no json")
    assert main(["train", "head", str(tiny), str(bad), "--out", str(tmp_path / "no"), "--backend", "numpy"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{bad}:2 is not JSON" in line and not (tmp_path / "no").exists()
