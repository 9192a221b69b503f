"""Ids are those of transformers, whatever file they come from; no text is a special token; files cannot hurt."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import FileError, UnsupportedModel
from soberano.text.hugging_face import from_tokenizer_json, from_vocab_txt
from soberano.text.tokenizer import Tokenizer, from_metadata
from tests.minilm import minilm_folder
from tests.text.vocabularies import wordpiece_json, wordpiece_metadata, wordpieces

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens_wordpiece.json").read_text())
TOKENS = wordpieces()
LINES = "".join(f"{token}\n" for token in TOKENS)
TINY = from_vocab_txt(LINES, {})
TEXT = st.lists(st.sampled_from(["[CLS]", "[SEP]", "[UNK]", "##ing", "hello", " ", "é", "你"]) | st.text()).map("".join)


def of_json(lowercase: bool, accents: bool | None, ideographs: bool) -> Tokenizer:
    file = wordpiece_json(TOKENS)
    file["normalizer"] |= {"lowercase": lowercase, "strip_accents": accents, "handle_chinese_chars": ideographs}
    return from_tokenizer_json(file)


BUILT = {
    "uncased": [
        TINY,
        from_vocab_txt(LINES.replace("\n", "\r\n"), {"do_lower_case": True}),
        of_json(True, None, True),
        from_metadata(wordpiece_metadata(TOKENS)),
    ],
    "cased": [
        from_vocab_txt(LINES, {"do_lower_case": False}),
        of_json(False, None, True),
        from_metadata(wordpiece_metadata(TOKENS, **{"normalizer.lowercase": False})),
    ],
    "accents": [
        from_vocab_txt(LINES, {"strip_accents": False}),
        of_json(True, False, True),
        from_metadata(wordpiece_metadata(TOKENS, **{"normalizer.strip_accents": False})),
    ],
    "ideographs": [
        from_vocab_txt(LINES, {"do_lower_case": False, "tokenize_chinese_chars": False}),
        of_json(False, None, False),
    ],
}


@pytest.mark.parametrize("rules", BUILT)
def test_ids_are_those_of_transformers(rules: str) -> None:
    for tokenizer in BUILT[rules]:
        for text, ids, *_ in GOLDEN[rules]:
            assert tokenizer.encode(text, add_bos=False) == ids, f"{text!r}"
    assert len(GOLDEN[rules]) >= 150


@pytest.mark.model
def test_ids_of_the_real_vocabulary() -> None:
    folder = minilm_folder()
    file = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    lines = (folder / "vocab.txt").read_text()
    metadata = wordpiece_metadata(lines.removesuffix("\n").split("\n"))
    for tokenizer in (from_tokenizer_json(file), from_vocab_txt(lines, settings), from_metadata(metadata)):
        for text, ids, *_ in GOLDEN["minilm"]:
            assert tokenizer.encode(text, add_bos=False) == ids, f"{text!r}"
        assert tokenizer.sequence("Hello world", 256) == [101, 7592, 2088, 102]


def test_a_text_stands_between_two_tokens_and_is_cut_to_fit() -> None:
    begin, end = TOKENS.index("[CLS]"), TOKENS.index("[SEP]")
    the = TOKENS.index("the")
    for tokenizer in BUILT["uncased"]:
        assert tokenizer.sequence("", 8) == [begin, end]
        assert tokenizer.sequence("the the the", 8) == [begin, the, the, the, end]
        assert tokenizer.sequence("the the the", 4) == [begin, the, the, end]
        assert tokenizer.sequence("the the the", 2) == [begin, end]
        assert tokenizer.encode("the", add_bos=True) == [begin, the]
        assert tokenizer.stop_ids == frozenset()


@given(TEXT)
def test_no_text_is_a_special_token(text: str) -> None:
    ids = TINY.encode(text, add_bos=False)
    assert not set(ids) & (TINY.vocab.control - {TOKENS.index("[UNK]")})
    assert TINY.encode(text + " [SEP]", special=True, add_bos=False) == [
        *TINY.encode(f"{text} ", special=True, add_bos=False),
        3,
    ]


@given(TEXT)
def test_a_text_of_its_own_words_comes_back(text: str) -> None:
    ids = [i for i in TINY.encode(text, add_bos=False) if i not in TINY.vocab.control]
    again = TINY.decode(ids)
    assert TINY.decode(TINY.encode(again, add_bos=False)) == again
    stream = TINY.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == again


def test_decoding() -> None:
    assert TINY.decode(TINY.encode("Hello boxing WORLD!", add_bos=False)) == " hello boxing world !"
    assert TINY.decode([2, TOKENS.index("the"), 3]) == " the"
    assert TINY.decode([2, TOKENS.index("the"), 3], special=True) == "[CLS] the[SEP]"


def test_a_word_of_a_hundred_letters_is_spelt_and_a_longer_one_is_not() -> None:
    assert len(TINY.encode("a" * 100, add_bos=False)) == 100
    assert TINY.encode("a" * 101, add_bos=False) == [1]


@pytest.mark.parametrize("unit", [" ", "a", "!", "é", "你", "[SEP]", "\u0301"])
def test_long_runs_take_no_long_time(unit: str) -> None:
    TINY.encode(unit * (200_000 // len(unit)))


def changed(part: str, **values: Any) -> dict[str, Any]:
    file = wordpiece_json(TOKENS)
    file[part] = {name: value for name, value in (file[part] | values).items() if value is not ...}
    return file


VOCAB = {token: i for i, token in enumerate(TOKENS)}
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no model": (wordpiece_json(TOKENS, model=None), "model is None"),
    "no vocabulary": (changed("model", vocab=...), "vocab is None"),
    "ids with a hole": (changed("model", vocab=VOCAB | {"new": 10**9}), "'new' the id 1000000000"),
    "an id twice": (changed("model", vocab=VOCAB | {"new": 7}), "the id 7"),
    "an id that is true": (changed("model", vocab=VOCAB | {"new": True}), "the id True"),
    "a huge token": (changed("model", vocab=VOCAB | {"x" * 100_000: len(VOCAB)}), "100000 characters"),
    "unknown is unknown": (changed("model", unk_token="<unk>"), "no token '<unk>'"),
    "a huge word": (changed("model", max_input_chars_per_word=1 << 40), "max_input_chars_per_word"),
    "two ids": (
        wordpiece_json(TOKENS, added_tokens=[{"content": "the", "id": 1, "special": True}]),
        "'the' two ids",
    ),
    "added tokens of numbers": (wordpiece_json(TOKENS, added_tokens=[1]), "content is None"),
    "no frame": (wordpiece_json(TOKENS, post_processor=None), "post_processor is None"),
    "a frame of others": (
        wordpiece_json(TOKENS, post_processor={"type": "BertProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]}),
        "no token '<s>'",
    ),
    "lowercase no bool": (changed("normalizer", lowercase="yes"), "lowercase is 'yes'"),
}
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "another model": (changed("model", type="Trie"), "model is 'Trie'; only WordPiece"),
    "another normalizer": (changed("normalizer", type="NFC"), "normalizer is 'NFC'"),
    "another splitter": (wordpiece_json(TOKENS, pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is 'Whitespace'"),
    "another prefix": (changed("model", continuing_subword_prefix="@@"), "'@@'"),
    "another frame": (wordpiece_json(TOKENS, post_processor={"type": "ByteLevel"}), "'ByteLevel'"),
    "words only": (
        wordpiece_json(
            TOKENS, added_tokens=[{"content": "<x>", "id": len(TOKENS), "special": False, "single_word": True}]
        ),
        "'<x>' is matched",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_tokenizer_json_is_named(case: str) -> None:
    file, named = HOSTILE[case]
    with pytest.raises(FileError, match=named):
        from_tokenizer_json(file)


@pytest.mark.parametrize("case", OTHER)
def test_what_is_not_known_is_named(case: str) -> None:
    file, named = OTHER[case]
    with pytest.raises(UnsupportedModel, match=named):
        from_tokenizer_json(file)


def test_other_frames_and_added_tokens() -> None:
    file = wordpiece_json(TOKENS, post_processor={"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]})
    file["added_tokens"].append({"content": "<call>", "id": len(TOKENS), "special": False, "normalized": False})
    tokenizer = from_tokenizer_json(file)
    assert tokenizer.sequence("the<call>", 9) == [2, TOKENS.index("the"), len(TOKENS), 3]
    assert tokenizer.decode([len(TOKENS)]) == "<call>"


@pytest.mark.parametrize(
    ("lines", "named"),
    [("", "'\\[CLS\\]'"), ("[CLS]\n[SEP]\n", "'\\[UNK\\]'"), (LINES + "the\n", "two tokens alike: 'the'")],
)
def test_a_malformed_vocab_txt_is_named(lines: str, named: str) -> None:
    with pytest.raises(FileError, match=named):
        from_vocab_txt(lines, {})


def test_malformed_metadata_is_named() -> None:
    with pytest.raises(FileError, match="cls_token_id' nor a token \\[CLS\\]"):
        from_metadata(wordpiece_metadata([token for token in TOKENS if token != "[CLS]"]))
    with pytest.raises(FileError, match="seperator_token_id is 10000"):
        from_metadata(wordpiece_metadata(TOKENS, seperator_token_id=10_000))
    with pytest.raises(FileError, match="lowercase is 1"):
        from_metadata(wordpiece_metadata(TOKENS, **{"normalizer.lowercase": 1}))
    named = from_metadata(wordpiece_metadata(TOKENS, cls_token_id=None, seperator_token_id=None))
    assert named.sequence("", 2) == [2, 3]  # by their spelling
