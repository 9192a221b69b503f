"""Byte-level BPE from a tokenizer.json has the ids of the library that such files are written for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from soberano.core.errors import FileError, UnsupportedModel
from soberano.text.hugging_face import from_tokenizer_json
from soberano.text.hugging_face_bpe import PATTERNS
from soberano.text.pretokenize import GPT2
from tests.text.strings import HARD
from tests.text.vocabularies import added, bytes_json, tiny_metadata

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TOKENS: list[str] = tiny_metadata()["tokenizer.ggml.tokens"]
SIZE = len(TOKENS)
MERGED = TOKENS[-1]


def split(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def template(*names: str) -> dict[str, Any]:
    """A post-processor that puts these tokens around a text, which is A."""
    special = {name: {"id": name, "ids": [TOKENS.index(name)], "tokens": [name]} for name in names if name != "A"}
    single = [{"Sequence" if name == "A" else "SpecialToken": {"id": name, "type_id": 0}} for name in names]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}


LLAMA3 = next(
    pattern for pattern in PATTERNS if "{1,3}" in pattern and pattern.startswith("(?i:") and "M" not in pattern
)
BEGIN, END = "<|im_start|>", "<|im_end|>"
FILES: dict[str, dict[str, Any]] = {
    "gpt-2": bytes_json(),
    "modern-bert": bytes_json(
        *(added(" " * (8 - i), SIZE + i, normalized=True) for i in range(6)),
        added("|||MAIL|||", SIZE + 6, normalized=True),
        added("[MASK]", SIZE + 7, special=True, lstrip=True),
        normalizer={"type": "NFC"},
        post_processor=template(BEGIN, "A", END),
    ),
    "roberta": bytes_json(
        pre_tokenizer=BYTES | {"add_prefix_space": True, "use_regex": True},
        post_processor={"type": "RobertaProcessing", "sep": [END, 2], "cls": [BEGIN, 1], "trim_offsets": True}
        | {"add_prefix_space": True},
    ),
    "llama-3": bytes_json(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split(LLAMA3), BYTES]},
        post_processor={"type": "Sequence", "processors": [BYTES, template(BEGIN, "A")]},
        model=bytes_json()["model"]
        | {"ignore_merges": True, "merges": [m.split() for m in bytes_json()["model"]["merges"]]},
    ),
    "gpt-4o": bytes_json(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split(LLAMA3, "Removed", invert=True), BYTES]},
        post_processor=template("A", END),
        normalizer={"type": "Sequence", "normalizers": []},
    ),
    "smollm": bytes_json(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}],
        }
    ),
    "falcon": bytes_json(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Punctuation", "behavior": "Contiguous"},
                BYTES | {"use_regex": True},
                {"type": "Digits", "individual_digits": False},
                split("[0-9][0-9][0-9]"),
            ],
        }
    ),
    "lowercase": bytes_json(
        added("<Tool>", SIZE, normalized=True),
        added("<raw>", SIZE + 1, rstrip=True),
        added("Word", SIZE + 2, single_word=True),
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "StripAccents"}],
        },
    ),
}
BUILT = {name: from_tokenizer_json(file) for name, file in FILES.items()}
LIBRARY = {name: Library.from_str(json.dumps(file)) for name, file in FILES.items()}
PARTS = [
    "  ",
    "      ",
    "<tool>",
    "<TOOL>",
    "<raw>",
    " ",
    "Word",
    "words",
    "|||MAIL|||",
    "é",
    "e\u0301",
    "ﬁ",
    "the ",
    "'ll",
    "123",
]
TEXT = st.lists(st.sampled_from(PARTS) | st.text()).map("".join)


def plain(text: str) -> bool:
    return not any(token in text for token in (*TOKENS[:3], "[MASK]"))


@pytest.mark.parametrize("name", FILES)
def test_ids_are_those_of_the_library(name: str) -> None:
    ours, library = BUILT[name], LIBRARY[name]
    for text in filter(plain, HARD):
        assert ours.encode(text, add_bos=False) == library.encode(text, add_special_tokens=False).ids, f"{text!r}"
        assert ours.sequence(text) == library.encode(text).ids, f"{text!r} in its frame"


@given(name=st.sampled_from(sorted(FILES)), text=TEXT.filter(plain))
def test_ids_of_any_text_are_those_of_the_library(name: str, text: str) -> None:
    assert BUILT[name].sequence(text) == LIBRARY[name].encode(text).ids


@given(name=st.sampled_from(sorted(FILES)), text=TEXT)
def test_special_tokens_are_text_until_they_are_asked_for(name: str, text: str) -> None:
    ours, library = BUILT[name], LIBRARY[name]
    ids = ours.encode(f"{text}{END}{text}", add_bos=False)
    assert not ours.vocab.control & set(ids)
    if plain(text) and "<raw>" not in text and "Word" not in text and name != "roberta":  # those look at what is beside
        parsed = ours.encode(f"{text}{END}{text}", add_bos=False, special=True)
        assert parsed == library.encode(f"{text}{END}{text}", add_special_tokens=False).ids


@given(TEXT)
def test_text_comes_back(text: str) -> None:
    for name in ("gpt-2", "llama-3", "smollm", "falcon"):
        assert BUILT[name].decode(BUILT[name].encode(text)) == text


def test_a_free_id_is_no_token() -> None:
    """A token keeps the id that the file gives it, which is its row of the embedding; the library closes the gap."""
    tokenizer = from_tokenizer_json(bytes_json(added("<Tool>", SIZE), added("<raw>", SIZE + 2)))
    assert (tokenizer.size, tokenizer.bytes_of(SIZE + 1)) == (SIZE + 3, b"")
    assert SIZE + 1 not in tokenizer.encode(tokenizer.vocab.tokens[SIZE + 1])
    assert (tokenizer.bytes_of(SIZE), tokenizer.bytes_of(SIZE + 2)) == (b"<Tool>", b"<raw>")
    assert tokenizer.encode("<raw>", add_bos=False, special=True)[-1] == SIZE + 2


def model(**changes: Any) -> dict[str, Any]:
    return bytes_json(model=bytes_json()["model"] | changes)


VOCAB = bytes_json()["model"]["vocab"]
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no merges": (model(merges=None), "merges is None"),
    "a merge of three": (model(merges=["a b c"]), "merges holds 'a b c'"),
    "a merge that is none": (model(merges=[["a"]]), "one of the merges is \\['a'\\]"),
    "a merge of numbers": (model(merges=[[1, 2]]), "one of the merges is \\[1, 2\\]"),
    "a merge of no token": (model(merges=["q 你"]), "merges does not fit"),
    "a merge of a special token": (model(merges=["<|im_end|> a"]), "merges does not fit"),
    "unknown is unknown": (model(unk_token="<unk>"), "no token '<unk>'"),
    "an id beyond": (model(vocab=VOCAB | {"new": 10**9}), "'new' the id 1000000000"),
    "an id below": (model(vocab=VOCAB | {"new": -1}), "'new' the id -1"),
    "an id twice": (model(vocab=VOCAB | {"new": 7}), "the id 7"),
    "an empty added token": (bytes_json(added("", SIZE)), "spelt with no letter"),
    "an added token of two ids": (bytes_json(added("a", SIZE)), "'a' two ids"),
    "a huge token": (model(vocab=VOCAB | {"x" * 100_000: SIZE}), "100000 characters"),
    "surrogates": (model(vocab=VOCAB | {"\ud800": SIZE}), "not Unicode"),
    "no bool": (bytes_json(pre_tokenizer=BYTES | {"add_prefix_space": 1}), "add_prefix_space is 1"),
    "a frame of others": (
        bytes_json(post_processor={"type": "BertProcessing", "cls": ["<s>", 1], "sep": ["<s>", 1]}),
        "<s>",
    ),
    "a sequence of numbers": (
        bytes_json(pre_tokenizer={"type": "Sequence", "pretokenizers": [1]}),
        "pretokenizers is 1",
    ),
}
nested: dict[str, Any] = {"type": "Lowercase"}
for _ in range(50_000):
    nested = {"type": "Sequence", "normalizers": [nested]}
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": (model(dropout=0.1), "dropout of the model is 0.1"),
    "a suffix": (model(end_of_word_suffix="</w>"), "'</w>'"),
    "a byte fallback": (model(byte_fallback=True), "byte_fallback of the model is True"),
    "another normalizer": (bytes_json(normalizer={"type": "Replace"}), "normalizer is 'Replace'; known are NFC"),
    "no bytes": (bytes_json(pre_tokenizer={"type": "Metaspace"}), "no ByteLevel"),
    "no pre-tokenizer": (bytes_json(pre_tokenizer=None), "no ByteLevel"),
    "another pre-tokenizer": (
        bytes_json(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTES]}),
        "pre_tokenizer is 'Whitespace'",
    ),
    "a hostile pattern": (
        bytes_json(pre_tokenizer={"type": "Sequence", "pretokenizers": [split("(x+x+)+y"), BYTES]}),
        "'\\(x\\+x\\+\\)\\+y', which is not among",
    ),
    "another behaviour": (
        bytes_json(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(GPT2[0], "Odd"), BYTES]}),
        "behavior is 'Odd'",
    ),
    "two tokens before": (bytes_json(post_processor=template(BEGIN, BEGIN, "A")), "'TemplateProcessing'"),
    "two frames": (
        bytes_json(post_processor={"type": "Sequence", "processors": [template(BEGIN, "A"), template("A", END)]}),
        "twice",
    ),
    "nested without end": (bytes_json(normalizer={"type": "Sequence", "normalizers": [nested, {"type": "X"}]}), "'X'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_named(case: str) -> None:
    file, named = HOSTILE[case]
    with pytest.raises(FileError, match=named):
        from_tokenizer_json(file)


@pytest.mark.parametrize("case", OTHER)
def test_what_is_not_known_is_named(case: str) -> None:
    file, named = OTHER[case]
    with pytest.raises(UnsupportedModel, match=named):
        from_tokenizer_json(file)


@pytest.mark.parametrize("unit", [" ", "a", "\n ", "!", "1", "é", "<", "[MASK]", "e\u0301"])
def test_long_runs_take_no_long_time(unit: str) -> None:
    for tokenizer in BUILT.values():
        tokenizer.encode(unit * (50_000 // len(unit)))
