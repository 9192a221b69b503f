"""Options refuse what they cannot mean, by name."""

import math
from typing import Any

import pytest

from soberano.core.errors import InputError
from soberano.models.options import Options


@pytest.mark.parametrize(
    "name,value",
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", "hot"), ("temperature", True),
        ("top_p", 1.5), ("min_p", -1), ("repeat_penalty", 0), ("presence_penalty", 1e9), ("top_k", -1), ("top_k", 1.5),
        ("max_tokens", -1), ("seed", 2**64), ("logprobs", 21), ("stop", "word"), ("stop", ("",)),
        ("logit_bias", ((1, math.nan),)), ("logit_bias", ((-1, 0.0),)),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Options(**{name: value})


def test_what_is_right_is_taken() -> None:
    Options(
        temperature=0, top_k=0, top_p=1, min_p=0, seed=-1, stop=("a", "b"), logit_bias=((3, -math.inf),), logprobs=0
    )
    assert (
        not Options().penalised and Options(repeat_penalty=1.1).penalised and Options(logit_bias=((1, 1.0),)).penalised
    )
