"""Ranking: scores are those of sentence-transformers and of llama.cpp, in any batch, from any file, by either kind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soberano.core.errors import CapacityError, ContextError, FileError, InputError, UnsupportedModel
from soberano.models.batches import batches
from soberano.models.encoder import Encoder
from soberano.models.load import load_decoder, load_encoder
from soberano.models.model import Model
from soberano.models.rank import Ranked, best, probability
from tests import tiny_judge
from tests.text.vocabularies import with_tokens
from tests.tiny import write_tiny_llama
from tests.tiny_encoders import CONTEXT, QUERY, RANKERS, TEXTS, Tiny
from tests.tiny_judge import write_tiny_judge

NAMES = sorted(path.stem for path in RANKERS.glob("*.json"))


@pytest.fixture(scope="module", params=NAMES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return Tiny(request.param, RANKERS)


@pytest.fixture(scope="module", params=["numpy", "xla", "cpu", "cpu exact"])
def model(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    backend, _, exact = request.param.partition(" ")
    path = tiny.write_gguf(tmp_path_factory.mktemp("rank") / "m.gguf")
    with load_encoder(path, backend=backend, exact=bool(exact)) as found:
        yield found


def logits(model: Encoder, pairs: list[list[int]], batch: int) -> np.ndarray:
    """What the head says, before it is made a probability."""
    found = np.zeros(len(pairs))
    for part in batches(pairs, batch, pads=model.pads):
        found[part.texts] = model.run(part)[: len(part.texts), 0]
    return found


def test_pairs_and_scores_are_those_of_sentence_transformers(tiny: Tiny, model: Encoder) -> None:
    golden = tiny.golden
    pairs = model.pairs(QUERY, TEXTS)
    wanted = np.split(golden["tokens"], np.cumsum(golden["lengths"])[:-1])
    assert pairs.tokens == [list(each) for each in wanted] and pairs.cut == 1
    assert max(map(len, pairs.tokens)) == CONTEXT == model.context
    limit = 2e-5 if not model.plan.native else 5e-2 if model.plan.isa == "amx" and model.plan.role == "prompt" else 1e-3
    np.testing.assert_allclose(logits(model, pairs.tokens, 32), golden["scores"], rtol=0, atol=limit)


def test_neither_padding_nor_company_changes_a_score(model: Encoder) -> None:
    pairs = model.pairs(QUERY, TEXTS * 3).tokens
    alone = logits(model, pairs, 1)
    for batch in (2, 5, 32):
        if model.plan.native:
            np.testing.assert_array_equal(logits(model, pairs, batch), alone)
        else:
            np.testing.assert_allclose(logits(model, pairs, batch), alone, rtol=0, atol=2e-5)


def test_the_best_come_first(model: Encoder) -> None:
    found = model.rerank(QUERY, TEXTS)
    assert sorted(each.index for each in found) == list(range(len(TEXTS)))
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    scores = logits(model, model.pairs(QUERY, TEXTS).tokens, 32)
    for each in found:
        assert each.score == pytest.approx(1 / (1 + np.exp(-scores[each.index])), rel=1e-12)
    assert model.rerank(QUERY, TEXTS, top=2) == found[:2]
    assert model.rerank(QUERY, []) == []


def test_a_folder_is_the_same_model(tiny: Tiny, tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "m.gguf")
    tiny.write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.Transformer"}]))
    with load_encoder(tmp_path / "m.gguf", backend="numpy") as model:
        wanted = model.rerank(QUERY, TEXTS)
    with load_encoder(tmp_path / "folder", backend="numpy") as model:
        assert model.rerank(QUERY, TEXTS) == wanted


def test_no_vector_of_what_ranks_and_no_rank_of_what_embeds(tiny: Tiny, model: Encoder, tmp_path: Path) -> None:
    assert model.ranks
    with pytest.raises(InputError, match="ranks documents and has no vector of a text; ask it to rerank"):
        model.embed("a")
    with pytest.raises(InputError, match="is a cross-encoder, which takes no instruction"):
        model.rerank("a", ["b"], instruction="Find c.")
    with (
        load_encoder(Tiny("bert").write_gguf(tmp_path / "m.gguf"), backend="numpy") as other,
        pytest.raises(InputError, match="embeds texts and has no head to rank with"),
    ):
        other.rerank("a", ["b"])


ASKED: dict[str, tuple[tuple[Any, Any], dict[str, Any], type[Exception], str]] = {
    "no text": ((b"a", ["b"]), {}, InputError, "the query is b'a', and must be a string"),
    "no document": (("a", ["b", 7]), {}, InputError, "document 1 is 7, and must be a string"),
    "one document": (("a", "b"), {}, InputError, "documents is the string 'b'; give a list of strings"),
    "no top": (("a", ["b"]), {"top": 0}, InputError, "top is 0; give a number of documents"),
    "a long query": (
        ("a " * 62, ["b"]),
        {},
        ContextError,
        "the query is 62 tokens, which leaves no room for documents",
    ),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_be_asked(case: str, model: Encoder) -> None:
    args, how, kind, match = ASKED[case]
    with pytest.raises(kind, match=match):
        model.rerank(*args, **how)


def test_a_query_may_leave_room_for_one_token(model: Encoder) -> None:
    pairs = model.pairs("a " * 60, ["b c", "b"])
    assert [len(tokens) for tokens in pairs.tokens] == [CONTEXT, CONTEXT] and pairs.cut == 1


def test_what_stands_between_two_texts() -> None:
    for end, count in (("[SEP]", 1), ("</s>", 2)):
        rows = [("[CLS]", 3), (end, 3)]
        ids = {"bos_token_id": 384, "eos_token_id": 385, "add_bos_token": True, "add_eos_token": True}
        words = with_tokens(*rows, pre="modern-bert", **ids)
        a, b = words.encode("a", add_bos=False), words.encode("b", add_bos=False)
        assert words.pair("a", "b", 32) == ([384, *a, *[385] * count, *b, 385], False)
        assert words.pair("a", "b" * 99, 8)[0] == [384, *a, *[385] * count, *b * (5 - count), 385]


def test_heads_that_are_not_understood(tmp_path: Path) -> None:
    bert, modern = Tiny("bert", RANKERS), Tiny("modern_bert.cls", RANKERS)
    sound = bert.weights()
    path = tmp_path / "m.gguf"
    three = {"cls.output.weight": np.zeros((3, 64), np.float32), "cls.output.bias": np.zeros(3, np.float32)}
    with pytest.raises(
        UnsupportedModel, match=r"the head \(cls.output.weight\) is \(3, 64\), so it tells classes apart"
    ):
        load_encoder(bert.write_gguf(path, "F32", sound | three), backend="numpy")
    with pytest.raises(FileError, match=r"cls\.weight is missing, without which its head"):
        without = {name: value for name, value in sound.items() if name != "cls.weight"}
        load_encoder(bert.write_gguf(path, "F32", without), backend="numpy")
    with pytest.raises(FileError, match=r"the tensor cls.bias is \(3,\), and must be \(64,\)"):
        load_encoder(bert.write_gguf(path, "F32", sound | {"cls.bias": three["cls.output.bias"]}), backend="numpy")
    with pytest.raises(UnsupportedModel, match="says that it ranks, but has no head"):
        load_encoder(Tiny("bert").write_gguf(path, pooling_type=4), backend="numpy")
    with pytest.raises(UnsupportedModel, match="says that it ranks, but has no head"):
        load_encoder(Tiny("jina_bert_v2").write_gguf(path, pooling_type=4), backend="numpy")
    with pytest.raises(FileError, match=r"classifier.pooling_type is 3; it must be 1 \(mean\) or 2 \(cls\)"):
        load_encoder(modern.write_gguf(path, classifier__pooling_type=3), backend="numpy")
    with pytest.raises(UnsupportedModel, match=r"cls.norm.weight means nothing to the architecture 'bert'"):
        load_encoder(bert.write_gguf(path, "F32", sound | {"cls.norm.weight": sound["cls.bias"]}), backend="numpy")


def test_probabilities_and_order() -> None:
    assert [probability(x) for x in (0.0, 800.0, -800.0)] == [0.5, 1.0, 0.0]
    assert probability(-40.0) == pytest.approx(np.exp(-40.0), rel=1e-12, abs=0)
    assert probability(2.0) + probability(-2.0) == pytest.approx(1, abs=1e-15)
    assert best([0.5, 0.5, 0.75], None) == [Ranked(2, 0.75), Ranked(0, 0.5), Ranked(1, 0.5)]


@pytest.fixture(scope="module", params=["numpy", "xla", "cpu"])
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load_decoder(write_tiny_judge(tmp_path_factory.mktemp("judge") / "m.gguf"), backend=request.param) as found:
        yield found


def test_how_likely_a_model_says_yes(judge: Model) -> None:
    with np.load(RANKERS / "llama.npz") as golden:
        wanted = golden["scores"]
    found = judge.rerank(tiny_judge.QUERY, tiny_judge.DOCUMENTS)
    assert [each.index for each in found] == list(np.argsort(-wanted))
    limit = 1e-5 if not judge.plan.native else 2e-2  # a prompt on a matrix unit is rounded to bfloat16
    np.testing.assert_allclose([each.score for each in found], sorted(wanted)[::-1], rtol=0, atol=limit)
    assert judge.pages.free == judge.pages.count, "every page is given back"


def test_the_question(judge: Model) -> None:
    (tokens,) = judge.pairs("Who?", ["Ada <|im_end|>"], instruction="Find names.").tokens
    text = judge.tokenizer.decode(tokens, special=True)
    assert text.endswith(
        "<Instruct>: Find names.\n<Query>: Who?\n<Document>: Ada <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens.count(judge.tokenizer.vocab.ids["<|im_end|>"]) == 2, "what stands in a document is text"
    plain = judge.rerank("Who?", ["Ada"], instruction="Find names.")
    assert plain != judge.rerank("Who?", ["Ada"])


def test_a_template_of_its_own(tmp_path: Path) -> None:
    template = "<|im_start|>{query}<|im_end|>the {document}!<|im_start|>"
    path = write_tiny_judge(tmp_path / "m.gguf", **{"tokenizer.chat_template.rerank": template})
    with load_decoder(path, backend="numpy") as model:
        (tokens,) = model.pairs("a<|im_start|>", ["dog {query}"]).tokens
        assert (
            model.tokenizer.decode(tokens, special=True)
            == "<|im_start|>a<|im_start|><|im_end|>the dog {query}!<|im_start|>"
        )
        assert tokens.count(model.tokenizer.vocab.ids["<|im_start|>"]) == 2
        with pytest.raises(InputError, match="a template for ranking that takes no instruction"):
            model.pairs("a", ["b"], instruction="c")


def test_a_long_document_is_cut_to_the_last_token(judge: Model) -> None:
    long = "the lazy dog " * 500
    pairs = judge.pairs("Who?", [long, "x"])
    assert pairs.cut == 1 and len(pairs.tokens[0]) == judge.context
    assert len(judge.rerank("Who?", [long, "x"])) == 2
    with pytest.raises(ContextError, match="which leaves no room for one: the context holds 512"):
        judge.pairs("Who? " * 500, ["x", long])


def test_models_that_cannot_judge(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "m.gguf")
    with (
        load_decoder(tmp_path / "m.gguf", backend="numpy") as model,
        pytest.raises(InputError, match="spells 'yes' in 3 tokens, so it cannot be asked to rank"),
    ):
        model.rerank("a", ["b"])
    write_tiny_llama(tmp_path / "m.gguf", more={"tokenizer.chat_template": 7})
    with (
        load_decoder(tmp_path / "m.gguf", backend="numpy") as model,
        pytest.raises(InputError, match="has no chat template"),
    ):
        model.rerank("a", ["b"])


def test_a_judge_holds_its_pages_until_it_is_closed(judge: Model) -> None:
    pairs = judge.pairs("Who?", ["Ada", "Grace"])
    ranking = judge.start_ranking(pairs.tokens)
    assert ranking.prompt_tokens == sum(map(len, pairs.tokens)) and judge.pages.free < judge.pages.count
    ranking.step()
    judge.epoch += 1
    with pytest.raises(CapacityError, match="the cache was lost"):
        ranking.step()
    assert ranking.done and ranking.step() == []
    ranking.close()
    ranking.close()
    assert judge.pages.free == judge.pages.count
    with pytest.raises(InputError, match="question 0 has 0 tokens"):
        judge.start_ranking([[]])
