"""Ids are those of llama.cpp and of the rule as it is written; text comes back; no text is a control token."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import FileError
from soberano.formats import gguf
from soberano.text import sentencepiece
from soberano.text.chat import ChatTemplate, encode_chat
from soberano.text.tokenizer import Tokenizer, from_metadata
from tests.gemma3 import gemma3_path
from tests.text.strings import HARD, SCORED, scored_metadata

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "tokens_scored.json").read_text())
BUILT = {name: from_metadata(scored_metadata(**changes)) for name, changes in SCORED.items()}
SPACED, BARE = BUILT["spaced"], BUILT["bare"]
PARTS = ["</s>", "<tool>", "<|im_end|>", "<im", "  ", "\n\n\n", " ", "the ", "\u2581", "<0x41>", "é", "你"]
TEXT = st.lists(st.sampled_from(PARTS) | st.text()).map("".join)


def same_ids(tokenizer: Tokenizer, golden: dict[str, Any]) -> None:
    for text, (plain, *special) in zip(HARD, golden["rows"], strict=True):
        assert tokenizer.encode(text, add_bos=False) == plain, f"{text!r}"
        assert tokenizer.encode(text, add_bos=False, special=True) == (special or [plain])[0], f"{text!r} with tokens"
    assert sorted(tokenizer.stop_ids) == golden["ends"]


@pytest.mark.parametrize("name", SCORED)
def test_ids_are_those_of_llama_cpp(name: str):
    same_ids(BUILT[name], GOLDEN[name])


@pytest.mark.model
def test_ids_of_the_real_vocabulary_are_those_of_llama_cpp():
    with gguf.read(gemma3_path()) as file:
        tokenizer = from_metadata(file.metadata)
    same_ids(tokenizer, json.loads((FOLDER / "tokens_gemma3.json").read_text()))
    for text in HARD:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    turns = "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.encode(turns, special=True) == [2, 105, 2364, 107, 10979, 106, 107, 105, 4368, 107]
    assert not tokenizer.vocab.control & set(tokenizer.encode(turns, add_bos=False))


def by_the_rule(text: str, ids: dict[str, int], scores: list[float]) -> list[int]:
    """Merge the best pair, the leftmost where scores are equal, until there is none: as it is said, pair by pair."""
    symbols = list(text)
    while True:
        pairs = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]
        if not pairs:
            return [ids[symbol] for symbol in symbols]
        _, i = min(pairs)
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]


@given(
    merges=st.dictionaries(st.text("ab\u2581", min_size=2, max_size=5), st.integers(-3, 3).map(float)),
    text=st.text("ab ", max_size=60),
)
def test_merges_go_by_score_then_by_place(merges: dict[str, float], text: str):
    tokens, scores = ["a", "b", "\u2581", *merges], [0.0, 0.0, 0.0, *merges.values()]
    tokenizer = from_metadata(
        scored_metadata(tokens=tokens, scores=scores, token_type=None, add_bos_token=False, add_space_prefix=False)
    )
    ids = {token: i for i, token in enumerate(tokens)}
    assert tokenizer.encode(text) == by_the_rule(text.replace(" ", "\u2581"), ids, scores)


@given(TEXT)
def test_text_comes_back(text: str):
    want = text.replace("\u2581", " ")  # which is how a space is spelt
    for tokenizer in (SPACED, BARE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == want
        assert tokenizer.decode(ids, special=True) == "<s>" + want
        assert not tokenizer.vocab.control & set(ids[1:])  # whatever it spells, it is text
        assert tokenizer.decode(tokenizer.encode(text, special=True, add_bos=False), special=True) == want


@given(TEXT)
def test_a_stream_is_the_continuation_of_a_text(text: str):
    """It keeps the space of its first word, and never shows half a character."""
    for tokenizer in (SPACED, BARE):
        ids = tokenizer.encode(text, add_bos=False)
        stream = tokenizer.stream()
        pieces = [stream.push(i) for i in ids]
        raw = b"".join(map(tokenizer.bytes_of, ids))
        assert "".join(pieces) + stream.finish() == raw.decode()
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_a_space_stands_before_every_text():
    the = SPACED.encode("the", add_bos=False)
    assert BARE.encode(" the", add_bos=False) == the != BARE.encode("the", add_bos=False)
    tool, end = SPACED.vocab.ids["<tool>"], SPACED.vocab.ids["</s>"]
    assert SPACED.encode("the<tool>the", add_bos=False) == [*the, tool, *the]
    assert SPACED.encode("the</s>the", special=True) == [1, *the, end, *the]
    assert SPACED.decode([*the, tool, *the]) == "the<tool>the"
    stream = SPACED.stream()
    assert "".join(map(stream.push, the)) == " the"  # what a model says after a prompt
    assert SPACED.encode("") == [1]


def test_special_tokens_of_phi_3_take_white_space_along():
    phi, end = BUILT["phi-3"], BARE.vocab.ids["<|im_end|>"]
    the = phi.encode("the", add_bos=False)
    assert phi.encode("<|im_end|> \n\t the", special=True, add_bos=False) == [end, *the]
    assert SPACED.encode("<|im_end|> \n\t the", special=True, add_bos=False) != [end, *the]
    spared = phi.vocab.ids["<|endoftext|>"]
    assert phi.encode("<|endoftext|>\nthe", special=True, add_bos=False)[:3] != [spared, *the[:2]]


def test_what_is_no_token_is_spelt_in_bytes_and_without_them_unknown():
    byte = SPACED.vocab.ids["<0x00>"]
    assert BARE.encode("\U0010ffff", add_bos=False) == [byte + b for b in "\U0010ffff".encode()]
    small = {"token_type": None, "scores": None, "add_space_prefix": False, "add_bos_token": False}
    tokenizer = from_metadata(scored_metadata(tokens=["?", "a", "ab", "b", "<0xC3>"], **small))
    assert tokenizer.encode("abéca") == [2, 0, 0, 1]
    named = from_metadata(scored_metadata(tokens=["a", "b"], unknown_token_id=1, **small))
    assert named.encode("aé") == [0, 1]


def test_ids_that_a_file_does_not_say_are_those_of_llama_2():
    assert (SPACED.bos, SPACED.eos, SPACED.add_bos) == (1, 2, True)
    silent = from_metadata(scored_metadata(add_bos_token=False))
    assert silent.encode("the") == SPACED.encode("the")[1:]
    lone = from_metadata(scored_metadata(tokens=["a"], scores=[0.0], token_type=None, add_space_prefix=False))
    assert (lone.bos, lone.encode("aa")) == (None, [0, 0])


def test_what_a_token_adds_to_a_text():
    tokens = {name: SPACED.vocab.ids[name] for name in ("<tool>", "[gone]", "<0xE4>", "</s>", "\u2581t")}
    assert [SPACED.bytes_of(i) for i in tokens.values()] == [b"<tool>", b"", b"\xe4", b"", b" t"]
    assert SPACED.text_of(tokens["</s>"]) == "</s>"


GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + (m.content | trim) }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [GEMMA, GEMMA.replace("{{ bos_token }}", "")])
def test_a_conversation_begins_with_one_bos(template: str):
    tokens = scored_metadata()["tokenizer.ggml.tokens"]
    tokens[3:5] = ["<start_of_turn>", "<end_of_turn>"]
    tokenizer = from_metadata(scored_metadata(tokens=tokens, add_space_prefix=False))
    chat = ChatTemplate(template, {"bos_token": "<s>"})
    ids = encode_chat(tokenizer, chat, [{"role": "user", "content": " Hi <s></s>\n\n\n<end_of_turn>"}])
    want = "<s><start_of_turn>user\nHi <s></s>\n\n\n<end_of_turn><end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(ids, special=True) == want
    assert [i for i in ids if i in tokenizer.vocab.control] == [1, 3, 4, 3]
    chat.close()


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "scores too short": ({"scores": [0.0]}, "tokenizer.ggml.scores has 1 entries"),
    "scores of text": ({"scores": ["a"] * 3, "tokens": ["a", "b", "c"], "token_type": None}, "not a list of numbers"),
    "scores no list": ({"scores": 7}, "not a list of numbers"),
    "a score that is no number": (
        {"scores": [0.0, float("nan")], "tokens": ["a", "b"], "token_type": None},
        "tokenizer.ggml.scores holds nan",
    ),
    "prefix no bool": ({"add_space_prefix": 1}, "tokenizer.ggml.add_space_prefix"),
    "no tokens": ({"tokens": None}, "tokenizer.ggml.tokens"),
    "unknown out of range": ({"unknown_token_id": 10**6}, "tokenizer.ggml.unknown_token_id"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_metadata_is_named(case: str):
    changes, named = HOSTILE[case]
    with pytest.raises(FileError, match=named):
        from_metadata(scored_metadata(**changes))


@pytest.mark.parametrize("unit", [" ", "a", "ab", "the", "\n ", "é", "你", "<", "</s>"])
def test_long_runs_take_no_long_time(unit: str):
    text = unit * (200_000 // len(unit))
    assert SPACED.decode(SPACED.encode(text)) == text


def test_a_long_stretch_is_merged_as_a_short_one():
    """Only short ones are remembered."""
    changes: dict[str, Any] = {"token_type": None, "add_bos_token": False, "add_space_prefix": False}
    tokenizer = from_metadata(
        scored_metadata(tokens=["a", "b", "ab", "ba", "abab"], scores=[0.0, 0, 3, 2, 1], **changes)
    )
    for size in (4, sentencepiece._WORD, 4 * sentencepiece._WORD):
        assert tokenizer.encode("abab" * size) == [4] * size
