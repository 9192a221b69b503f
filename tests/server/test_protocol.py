"""Every documented parameter is honoured or refused by name; whatever arrives, nothing but a RequestError comes out."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chat

from soberano.core.errors import ContextError
from soberano.server import protocol
from soberano.server.errors import RequestError

LIMITS = protocol.Limits(context=2048, vocabulary=1000, token_bytes=8)
HELLO = [{"role": "user", "content": "hi"}]


def chat(**body: Any) -> protocol.Asked:
    return protocol.chat({"messages": HELLO, **body}, LIMITS)


def completion(**body: Any) -> protocol.Asked:
    return protocol.completion({"prompt": "hi", **body}, LIMITS)


def test_every_parameter_that_openai_documents_is_known():
    for base, names in (
        (of_chat.CompletionCreateParamsBase, protocol.CHAT),
        (of_completions.CompletionCreateParamsBase, protocol.COMPLETION),
    ):
        assert set(base.__annotations__) <= set(names)


def test_what_is_honoured_reaches_the_options():
    asked = chat(
        temperature=0, top_p=0.5, top_k=7, min_p=0.1, repeat_penalty=1.1, presence_penalty=1, frequency_penalty=-1,
        seed=-5, stop=["a", "b"], max_completion_tokens=9, logprobs=True, top_logprobs=3, logit_bias={"5": -100},
        ignore_eos=True, model="m", n=2, stream=True, user="u",
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        metadata={"a": "b"}, store=False,
    )  # fmt: skip
    o = asked.options
    assert (o.temperature, o.top_p, o.top_k, o.min_p, o.repeat_penalty) == (0, 0.5, 7, 0.1, 1.1)
    assert (o.presence_penalty, o.frequency_penalty, o.seed, o.stop, o.max_tokens) == (1, -1, -5, ("a", "b"), 9)
    assert (o.logprobs, o.logit_bias, o.ignore_eos) == (3, ((5, -100.0),), True)
    assert (asked.model, asked.n, asked.stream) == ("m", 2, True)
    assert asked.include_usage and asked.continuous_usage_stats
    assert [options.seed for _, options in asked.choices] == [-5, -4]


def test_null_means_unset_everywhere():
    assert chat(**dict.fromkeys(set(protocol.CHAT) - {"messages"})) == chat()
    assert completion(**dict.fromkeys(set(protocol.COMPLETION) - {"prompt"})) == completion()


def test_a_completion_has_openais_default_length_and_a_chat_has_none():
    assert completion().options.max_tokens == 16 and chat().options.max_tokens is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_completion_tokens": float("inf")}, "max_completion_tokens"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1000": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"user": 5}, "user"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"store": True}, "store"),
        ({"store": 0}, "store"),
        ({"temprature": 1}, "temprature"),
        ({"messages": []}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour"),
    ],
)
def test_what_is_wrong_in_a_chat_is_named(body: dict, param: str):
    with pytest.raises(RequestError) as refusal:
        chat(**body)
    assert refusal.value.param == param and param in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": ["a"] * 5, "n": 4}, "n"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"messages": HELLO}, "messages"),
    ],
)
def test_what_is_wrong_in_a_completion_is_named(body: dict, param: str):
    with pytest.raises(RequestError) as refusal:
        completion(**body)
    assert refusal.value.param == param and param in str(refusal.value)


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**63, 1e400, -1e400, float("nan"), 1e308])
@pytest.mark.parametrize("name", ["n", "max_tokens", "max_completion_tokens", "top_k", "seed", "temperature", "top_p"])
def test_a_number_of_any_size_is_refused_by_name(name: str, number: float):
    with pytest.raises(RequestError, match=f"^{name} is .{{1,60}}, but must be"):
        chat(**{name: number})
    with pytest.raises(RequestError, match=r"^prompt is .{1,60}, but must be"):
        completion(prompt=[5, number])


def test_what_cannot_fit_is_refused_before_it_is_looked_at():
    for prompt in ([object()] * 2048, [[1], [object()] * 2048], "x" * (2048 * 8), ["a", "é" * (2048 * 4)]):
        with pytest.raises(ContextError, match=r"^prompt: 2048 tokens"):
            completion(prompt=prompt)
    assert completion(prompt=["x" * (2047 * 8)]).prompts and completion(prompt=[1] * 2047).prompts
    part = {"type": "text", "text": "x" * 8}
    for messages in (
        [object()] * 2048,
        [{"role": "user", "content": [part] * 2048}],
        [HELLO[0] | {"content": "x" * 2**14}],
    ):
        with pytest.raises(ContextError, match="2048"):
            chat(messages=messages)
    halves = [{"role": "user", "content": "x" * 2**13}, {"role": "assistant", "content": "x" * 2**13}]
    with pytest.raises(ContextError, match=r"^messages: 2048 tokens or more"):
        chat(messages=halves)


def test_a_wrong_value_of_any_size_is_shown_in_a_moment():
    deep: Any = 5
    for _ in range(500):
        deep = [deep]
    for value in (deep, {"a": deep}, "x" * 4_000_000, [[5]] * 1_000_000):
        began = time.monotonic()
        with pytest.raises(RequestError) as refusal:
            chat(seed=value)
        assert len(str(refusal.value)) < 200 and time.monotonic() - began < 1


def test_a_long_name_is_not_compared_with_ours():
    began = time.monotonic()
    with pytest.raises(RequestError) as refusal:
        chat(**{"temperature" * 400_000: 1})
    assert time.monotonic() - began < 0.2 and len(str(refusal.value)) < 200


def test_a_misspelt_parameter_gets_a_hint():
    with pytest.raises(RequestError, match="did you mean temperature"):
        chat(temprature=1)


def test_prompts_come_in_four_shapes():
    assert completion(prompt="a").prompts == ("a",)
    assert completion(prompt=["a", "b"]).prompts == ("a", "b")
    assert completion(prompt=[1, 2]).prompts == ((1, 2),)
    assert completion(prompt=[[1], [2, 3]]).prompts == ((1,), (2, 3))


def test_messages_are_brought_to_one_shape():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    back = {"role": "assistant", "content": None, "refusal": None, "tool_calls": None}
    asked = chat(messages=[{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}, back])
    assert [(m["role"], m["content"]) for m in asked.messages] == [
        ("system", "be kind"),
        ("user", "ab"),
        ("assistant", ""),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(protocol.CHAT), JSON, max_size=4), st.booleans())
def test_any_json_is_read_or_refused(body: dict, as_chat: bool):
    body = {"messages": HELLO, **body} if as_chat else {"prompt": "hi", **body}
    try:
        (protocol.chat if as_chat else protocol.completion)(body, LIMITS)
    except RequestError as refusal:
        assert str(refusal) and refusal.param


@given(JSON)
def test_any_body_is_read_or_refused(body: Any):
    with pytest.raises(RequestError):
        protocol.chat(body, LIMITS)
