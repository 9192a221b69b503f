"""No key of a model is dropped in silence: it is understood, it changes nothing, or the file is refused by its name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.bench.score import logits
from soberano.core.errors import UnsupportedModel
from tests.tiny import write_tiny_llama

PROMPT = list(range(3, 35))


def answer(path: Path, **keys: Any) -> np.ndarray:
    """The logits of a tiny model whose file says `keys` as well; two underscores stand for a dot."""
    write_tiny_llama(path / "m.gguf", more={f"llama.{key.replace('__', '.')}": value for key, value in keys.items()})
    with soberano.load(path / "m.gguf", backend="numpy") as model:
        return np.concatenate(list(logits(model, PROMPT)))


def test_a_factor_is_linear_unless_the_type_says_otherwise(tmp_path: Path):
    plain = answer(tmp_path)
    linear = answer(tmp_path, rope__scaling__type="linear", rope__scaling__factor=8.0)
    assert np.abs(linear - plain).max() > 0.1
    np.testing.assert_array_equal(answer(tmp_path, rope__scaling__factor=8.0), linear)
    np.testing.assert_array_equal(answer(tmp_path, rope__scale_linear=8.0), linear)
    np.testing.assert_array_equal(answer(tmp_path, rope__scaling__factor=8.0, rope__scale_linear=2.0), linear)
    np.testing.assert_array_equal(answer(tmp_path, rope__scaling__type="none", rope__scaling__factor=8.0), plain)


@pytest.mark.parametrize(
    "key, value",
    [
        ("attention__causal", False),
        ("logit_scale", 0.1),
        ("attention__clamp_kqv", 0.1),
        ("attention__scale", 0.5),
        ("attention__sliding_window", 16),
        ("expert_shared_count", 1),
        ("expert_used_count", [0, 2]),
        ("use_parallel_residual", True),
        ("attn_logit_softcapping", float("nan")),
        ("a_key_of_tomorrow", 0),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, key: str, value: Any):
    with pytest.raises(
        UnsupportedModel, match=rf"the key llama\.{key.replace('__', '.')} \(here .*\) means nothing to"
    ):
        answer(tmp_path, **{key: value})


def test_what_changes_nothing_is_taken(tmp_path: Path):
    neutral = answer(
        tmp_path,
        attention__causal=True,
        attention__clamp_kqv=0.0,
        logit_scale=1.0,
        expert_count=0,
        expert_used_count=[0, 0],
        use_parallel_residual=False,
        tensor_data_layout="Meta AI original pth",
        rope__scaling__original_context_length=64,
    )
    np.testing.assert_array_equal(neutral, answer(tmp_path))
