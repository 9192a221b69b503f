"""Synthetic models: shapes and mixes as the recipe says, weights that a model can run on, tokens of the donor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import soberano
from soberano.backends.homes import home
from soberano.bench import synthetic
from soberano.bench.synthetic import RECIPES, more_bits
from soberano.core.errors import InputError
from soberano.formats import gguf
from tests.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("donor") / "donor.gguf"
    write_tiny_llama(path)
    return path


def test_the_mix_is_that_of_q4_k_m() -> None:
    recipe = RECIPES["llama-1b"]
    kinds = [recipe.kind(recipe, "ffn_down", i) for i in range(recipe.layers)]
    assert kinds == [recipe.kind(recipe, "attn_v", i) for i in range(recipe.layers)] and kinds.count("Q6_K") == 8
    assert {recipe.kind(recipe, field, 0) for field in ("attn_q", "ffn_up", "attn_output")} == {"Q4_K"}
    assert [i for i in range(16) if more_bits(i, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


def test_gemmas_mix_has_its_four_formats() -> None:
    recipe = RECIPES["gemma-mix"]
    fields = ("token_embd", "attn_q", "attn_v", "attn_output", "ffn_down")
    assert {recipe.kind(recipe, f, i) for f in fields for i in range(30)} == {"Q4_K", "Q5_0", "Q6_K", "Q8_0"}


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_small_one_of_each_runs(name: str, donor: Path, tmp_path: Path) -> None:
    small = replace(RECIPES[name], layers=2, width=256, ffn=512, heads=4, kv_heads=2, context=64)
    path = tmp_path / "small.gguf"
    synthetic.write(small, path, str(donor))
    with gguf.read(path) as file:
        raw = file.tensors["blk.0.ffn_down.weight"].format.dequantize(home("numpy"), file.raw("blk.0.ffn_down.weight"))
        assert raw.shape == (256, 512) and raw.std() == pytest.approx(1 / np.sqrt(512), rel=0.1)
    with soberano.load(path, backend="numpy") as model, soberano.load(donor, backend="numpy") as other:
        assert model.tokenizer.encode("Once upon a time") == other.tokenizer.encode("Once upon a time")
        assert "".join(model.generate("Once", max_tokens=3, temperature=0, ignore_eos=True)) is not None


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match="one of llama-1b, gemma-mix"):
        synthetic.main(["llama-70b", "x.gguf"])
