"""Ids are those of llama.cpp; text survives the way there and back; metadata from outside cannot hurt."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import ContextError, FileError, InputError, UnsupportedModel
from soberano.core.settings import settings
from soberano.formats import gguf
from soberano.text import bpe
from soberano.text.tokenizer import Tokenizer, from_metadata
from tests.smollm2 import smollm2_path
from tests.text.vocabularies import tiny, tiny_metadata, with_tokens
from tests.tiny import byte_spelling

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens_smollm2.json").read_text())
TINY = tiny()
# Texts full of what could be mistaken: special tokens, their halves, spaces, any Unicode.
TEXT = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "|>", "im_end", " ", "\n", "the "]) | st.text()
).map("".join)


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    with gguf.read(smollm2_path()) as file:
        return from_metadata(file.metadata)


@pytest.mark.model
def test_ids_of_the_real_vocabulary_are_those_of_llama_cpp(smollm2: Tokenizer):
    for text, plain, special in GOLDEN["rows"]:
        assert smollm2.encode(text) == plain, f"{text!r}"
        assert smollm2.encode(text, special=True) == special, f"{text!r} with special tokens"
    assert sorted(smollm2.stop_ids) == GOLDEN["ends"]
    assert len(GOLDEN["rows"]) >= 150


@pytest.mark.model
def test_the_real_vocabulary_brings_text_back(smollm2: Tokenizer):
    dropped = {"\x04", "\x06", "\x13", "\x14", "\x16", "\x1d"}  # bytes for which this vocabulary has no token
    for text, plain, _ in GOLDEN["rows"]:
        if not dropped & set(text):
            assert smollm2.decode(plain) == text


LONG = {
    "digits": "1" * 60_000,
    "letters": "a" * 60_000,
    "spaces": " " * 300_000,
    "lines": (" " * 1000 + "\n") * 300,
    "emoji": "😀" * 20_000,
    "prose": "The quick brown fox jumps over the lazy dog. " * 2_000,
}


@pytest.mark.model
@pytest.mark.parametrize("name", LONG)
def test_a_text_that_cannot_fit_is_given_up_before_its_end(
    smollm2: Tokenizer, name: str, monkeypatch: pytest.MonkeyPatch
):
    text, whole = LONG[name], smollm2.encode(LONG[name])
    assert smollm2.encode(text, most=len(whole)) == whole, "what fits is encoded as ever"
    encoded: list[int] = []
    encode = smollm2._encode_plain
    monkeypatch.setattr(smollm2, "_encode_plain", lambda part: encoded.append(len(part)) or encode(part))
    with pytest.raises(ContextError, match="longer than the 100 tokens that there is room for; shorten it"):
        smollm2.encode(text, most=100)
    assert sum(encoded) < len(text)


def test_a_long_text_has_the_ids_of_a_short_one():
    """From some length on a text goes through another door of the engine."""
    line = "Once upon a time there was a little girl, 123 times.\n"
    assert len(line * 200) > bpe.LONG > len(line * 10)
    assert TINY.encode(line * 200) == TINY.encode(line * 10) * 20


def shared_vectors() -> list[Path]:
    return sorted((Path(settings().shared) / "vectors").glob("*/ggml-vocab-*.gguf"))


def test_llama_cpps_own_vectors():
    ran = []
    for path in shared_vectors():
        texts, wanted = (path.with_name(path.name + end) for end in (".inp", ".out"))
        if not texts.is_file():
            continue
        with gguf.read(path) as file:
            try:
                tokenizer = from_metadata(file.metadata)
            except UnsupportedModel:
                continue
        cases = texts.read_bytes().decode().split("\n__ggml_vocab_test__\n")
        for text, ids in zip(cases, wanted.read_text().splitlines(), strict=False):
            assert tokenizer.encode(text, add_bos=False) == [int(i) for i in ids.split()], f"{path.name}: {text!r}"
        ran.append(path.name)
    if not ran:
        pytest.skip(
            "no ggml-vocab-*.gguf with .inp and .out under SOBERANO_SHARED/vectors; copy llama.cpp's models/ there"
        )


@given(TEXT)
def test_text_comes_back(text: str):
    ids = TINY.encode(text)
    assert TINY.decode(ids) == text
    assert not TINY.vocab.control & set(ids)  # whatever it spells, it is text


@given(TEXT)
def test_streaming_equals_decoding(text: str):
    ids = TINY.encode(text, special=True)
    for special in (False, True):
        stream = TINY.stream(special=special)
        assert "".join(map(stream.push, ids)) + stream.finish() == TINY.decode(ids, special=special)
    assert TINY.decode(ids, special=True) == text


@given(st.lists(st.integers(0, TINY.size - 1)))
def test_any_ids_can_be_decoded(ids: list[int]):
    stream = TINY.stream()
    text = "".join(map(stream.push, ids)) + stream.finish()
    assert text == TINY.decode(ids) == b"".join(map(TINY.bytes_of, ids)).decode("utf-8", "replace")


@given(TEXT)
def test_special_tokens_are_parsed_where_they_are_spelt(text: str):
    want: list[int] = []
    rest = text
    while rest:
        found = [(rest.find(s), s) for s in ("<|im_end|>", "<|im_start|>") if s in rest]
        at, spelling = min(found, default=(len(rest), ""))
        want += TINY.encode(rest[:at]) + [TINY.vocab.ids[s] for s in [spelling] if s]
        rest = rest[at + len(spelling) :]
    assert TINY.encode(text, special=True) == want


def test_bos_is_added_as_the_file_says():
    assert TINY.encode("a") == TINY.encode("a", add_bos=False)
    assert TINY.encode("a", add_bos=True) == [1, *TINY.encode("a")]
    wishing = from_metadata(tiny_metadata(add_bos_token=True))
    assert wishing.encode("") == [1]
    assert wishing.encode("a", add_bos=False) == TINY.encode("a")
    family = from_metadata(tiny_metadata(add_bos_token=None, pre="llama-bpe"))
    assert family.encode("") == [1]
    with pytest.raises(InputError, match="has none"):
        from_metadata(tiny_metadata(bos_token_id=None)).encode("a", add_bos=True)


def test_user_defined_tokens_are_text_and_always_parsed():
    tokenizer = with_tokens(("<tool_call>", 4), ("<tool_call>\n", 4), ("<hidden>", 3))
    call, line, hidden = tokenizer.size - 3, tokenizer.size - 2, tokenizer.size - 1
    assert tokenizer.encode("<tool_call><tool_call>\n") == [call, line]  # the longer one wins
    assert tokenizer.decode([call, hidden, line]) == "<tool_call><tool_call>\n"
    assert tokenizer.text_of(hidden) == "<hidden>"
    assert tokenizer.bytes_of(hidden) == b""
    assert hidden not in tokenizer.encode("<hidden>")
    assert tokenizer.encode("<hidden>", special=True) == [hidden]


def test_a_control_token_is_no_word_even_where_words_are_taken_whole():
    tokenizer = with_tokens(("secret", 3), pre="llama-bpe")
    assert tokenizer.size - 1 not in tokenizer.encode("secret")
    assert tokenizer.decode(tokenizer.encode("secret")) == "secret"


def test_a_byte_without_a_token_is_dropped_and_keeps_its_neighbours_apart():
    metadata = tiny_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    left, right = next(m.split() for m in metadata["tokenizer.ggml.merges"] if len(m) == 3 and m.isascii())
    tokens[tokens.index(byte_spelling()[3])] = "gone"  # now there is no token for the byte 3
    tokenizer = from_metadata(metadata)
    assert tokenizer.encode(left + right) == [tokens.index(left + right)]
    assert tokenizer.encode(f"{left}\x03{right}") == [tokens.index(left), tokens.index(right)]


def test_surrogates_become_characters_or_replacements():
    assert TINY.decode(TINY.encode("\ud83d\ude00 \ud800")) == "😀 \ufffd"


def test_text_of_and_bytes_of_one_token():
    byte = TINY.encode("é")
    assert [TINY.bytes_of(i) for i in byte] == [b"\xc3", b"\xa9"]
    assert TINY.text_of(byte[0]) == "\ufffd"
    assert TINY.text_of(2) == "<|im_end|>"
    for wrong in (-1, TINY.size):
        with pytest.raises(InputError, match=rf"token {wrong} does not exist.*0 to {TINY.size - 1}"):
            TINY.bytes_of(wrong)


def test_ends_of_a_generation():
    assert TINY.stop_ids == {0, 2}  # eos, and <|endoftext|> by its name
    tokenizer = with_tokens(("<|eom_id|>", 1), ("odd", 3), eot_token_id=TINY.size + 1)
    assert tokenizer.stop_ids == {0, 2, TINY.size, TINY.size + 1}
    assert tokenizer.decode([TINY.size]) == ""  # a control token by its spelling


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "tokenizer.ggml.model"),
    "no tokens": ({"tokens": None}, "tokenizer.ggml.tokens"),
    "empty tokens": ({"tokens": []}, "tokenizer.ggml.tokens"),
    "tokens of numbers": ({"tokens": [1, 2]}, "tokenizer.ggml.tokens"),
    "tokens no list": ({"tokens": "abc"}, "tokenizer.ggml.tokens"),
    "token twice": ({"tokens": [*tiny_metadata()["tokenizer.ggml.tokens"][:-1], "a"]}, "spells two tokens alike"),
    "huge token": (
        {"tokens": [*tiny_metadata()["tokenizer.ggml.tokens"][:-1], "x" * 10_000_000]},
        "tokenizer.ggml.tokens",
    ),
    "token of surrogates": ({"tokens": [*tiny_metadata()["tokenizer.ggml.tokens"][:-1], "\ud800"]}, "not Unicode"),
    "kinds too short": ({"token_type": [1]}, "tokenizer.ggml.token_type"),
    "kinds of text": ({"token_type": ["a"] * 384}, "tokenizer.ggml.token_type"),
    "no merges": ({"merges": None}, "tokenizer.ggml.merges"),
    "merge of an unknown token": ({"merges": ["qqq rrr"]}, "tokenizer.ggml.merges"),
    "merge to an unknown token": ({"merges": ["q x"]}, "tokenizer.ggml.merges"),
    "merge of a control token": ({"merges": ["<|im_end|> a"]}, "tokenizer.ggml.merges"),
    "merge of one": ({"merges": ["ab"]}, "tokenizer.ggml.merges"),
    "merge of three": ({"merges": ["a b c"]}, "tokenizer.ggml.merges"),
    "empty merge": ({"merges": [""]}, "tokenizer.ggml.merges"),
    "bos out of range": ({"bos_token_id": 384}, "tokenizer.ggml.bos_token_id"),
    "eos negative": ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id"),
    "eot no number": ({"eot_token_id": "2"}, "tokenizer.ggml.eot_token_id"),
    "fill out of range": ({"fim_pad_token_id": 1 << 40}, "tokenizer.ggml.fim_pad_token_id"),
    "bos wanted, none there": ({"bos_token_id": None, "add_bos_token": True}, "tokenizer.ggml.bos_token_id"),
    "flag no bool": ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token"),
    "pre no text": ({"pre": 7}, "tokenizer.ggml.pre"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_metadata_is_named(case: str):
    changes, named = HOSTILE[case]
    with pytest.raises(FileError, match=named):
        from_metadata(tiny_metadata(**changes))


@pytest.mark.parametrize("model", ["t5", "rwkv", "gemma4", "nonsense"])
def test_other_tokenizers_are_named(model: str):
    with pytest.raises(UnsupportedModel, match=f"'{model}'.*'gpt2'"):
        from_metadata(tiny_metadata(model=model))


def test_unusual_metadata_that_is_harmless():
    assert with_tokens(("", 1)).vocab.tokens[-1] == "[EMPTY_384]"
    merges = tiny_metadata()["tokenizer.ggml.merges"]
    assert from_metadata(tiny_metadata(merges=merges + merges)).encode("the fox") == TINY.encode(
        "the fox"
    )  # first one counts
    assert from_metadata(tiny_metadata(pre=None)).decode(TINY.encode("x")) == "x"
    assert with_tokens(("odd", 99)).bytes_of(384) == b""
    assert from_metadata(tiny_metadata(token_type=None)).decode(TINY.encode("x")) == "x"


@pytest.mark.parametrize("unit", [" ", "a", "A", "\n ", "!", "1", "é", "<", "<|im_end|>"])
def test_long_runs_take_no_long_time(unit: str):
    text = unit * (200_000 // len(unit))
    assert TINY.decode(TINY.encode(text)) == text
