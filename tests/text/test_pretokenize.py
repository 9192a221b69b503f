"""Text is cut into words as llama.cpp cuts it."""

import json
from pathlib import Path

import pytest

from soberano.core.errors import UnsupportedModel
from soberano.text.pretokenize import SPLITS, split_named
from soberano.text.tokenizer import from_metadata
from tests.text.strings import CUTS, pair_metadata

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens_pre.json").read_text())


@pytest.mark.parametrize("pre", GOLDEN)
def test_cuts_are_those_of_llama_cpp(pre: str):
    tokenizer = from_metadata(pair_metadata(pre))
    for text, want in zip(CUTS, GOLDEN[pre], strict=True):
        assert tokenizer.encode(text) == want, f"{pre} cuts {text!r} differently"


def test_every_family_has_golden_ids():
    covered = {(SPLITS[pre].patterns, SPLITS[pre].whole_words) for pre in GOLDEN}
    assert {(split.patterns, split.whole_words) for split in SPLITS.values()} == covered


def test_the_golden_ids_tell_families_apart():
    # Families with the same patterns differ in whole_words only, which this vocabulary of pairs does not show.
    different = {SPLITS[pre].patterns: json.dumps(ids) for pre, ids in GOLDEN.items()}
    assert len(set(different.values())) == len(different)


def test_an_unknown_name_is_named_with_the_known_ones():
    with pytest.raises(UnsupportedModel, match=r"'superbpe'.*known are .*llama-bpe.*smollm"):
        split_named("superbpe")
