"""Conversations render as Hugging Face's templates do, and nothing that a user writes becomes a control token."""

from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import FileError, InputError
from soberano.formats import gguf
from soberano.text.chat import LONGEST_TEMPLATE, ChatTemplate, Guard, checked, encode_chat
from soberano.text.tokenizer import Tokenizer, from_metadata
from tests.smollm2 import smollm2_path
from tests.text.vocabularies import tiny, with_tokens
from tests.tiny import TEMPLATE

TINY = tiny()
ODD = with_tokens(("aa", 3), ("<|a", 3), ("a|>", 3), ("€", 3), ("[INST]", 3), ("  ", 4), ("<tool>", 4))
TOKENIZERS = st.sampled_from([TINY, ODD])

# Strings made of special tokens, their parts, and anything else: the worst that a user could write.
PARTS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<|im_",
    "end|>",
    "<",
    "|>",
    ">",
    "<|",
    "im_end",
    "aa",
    "a",
    "<|a",
    "a|>",
]
PARTS += ["€", "$", "[INST]", "[", "]", "  ", " ", "\n", "\t", "<tool>", "Hello", "\ufdd0", "\ufdd1", "é", "😀"]
WRITTEN = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=8).map("".join)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": WRITTEN}),
    min_size=1,
    max_size=4,
)


def kept(source: str) -> Iterator[ChatTemplate]:
    template = ChatTemplate(source, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    yield template
    template.close()


@pytest.fixture(scope="module")
def chatml() -> Iterator[ChatTemplate]:
    yield from kept(TEMPLATE)


@pytest.fixture(scope="module")
def copying() -> Iterator[ChatTemplate]:
    """A template without tokens of its own: copies, trims, joins and encodes what it gets."""
    yield from kept(
        "{% for m in messages %}{{ m.content }}{{ m.name or '' }}{{ m.content | trim }}{% endfor %}"
        "{{ messages | map(attribute='content') | join }}"
        "{% if tools %}{{ tools | tojson }}{{ tools | tojson(indent=2) }}{% endif %}{{ note }}"
    )


def reference(source: str, **values: Any) -> str:
    """jinja2 set up as the documentation of Hugging Face's chat templates says, in this process."""
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    return env.from_string(source).render(**values)


def test_chatml(chatml: ChatTemplate):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    want = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert chatml.render(messages) == want + "<|im_start|>assistant\n"
    assert chatml.render(messages, add_generation_prompt=False) == want


@pytest.mark.model
def test_the_template_of_the_real_model():
    with gguf.read(smollm2_path()) as file:
        source, tokenizer = file.metadata["tokenizer.chat_template"], from_metadata(file.metadata)
    template = ChatTemplate(source, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    messages = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Hello"}]
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    want = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(messages) == want == reference(source, messages=messages, add_generation_prompt=True)
    ids = encode_chat(tokenizer, template, messages)
    assert tokenizer.decode(ids, special=True) == want
    assert ids.count(2) == 3  # the user's own <|im_end|> is text
    template.close()


SAME = [
    "{% for m in messages %}\n  {% if m.role == 'user' %}\nU: {{ m.content }}\n  {% endif %}\n{% endfor %}\n",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m['content'] }}{% endfor %}",
    "{%- for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{- m.content -}}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% macro up(m) %}[{{ m.role | upper }}]{% endmacro %}{% for m in messages %}{{ up(m) }}{% endfor %}",
    "{{ bos_token }}{{ messages[-1]['content'].strip().split(' ')[0] }}{{ messages | length }}{{ eos_token }}",
    "{{ messages[1:] | map(attribute='role') | list | join(', ') }}{{ 'x' if tools is none else 'y' }}",
    "{% if messages[0].content is string and messages is not mapping %}ok{% endif %}{{ nothing | default('d') }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0] | dictsort | first | first }}",
    "a\n    {%- if add_generation_prompt %}\n\n    b\n    {%- endif %}\n",
    "{{ 'a < b & c' }}{{ \"it's\" | e }}{{ ('word ' * 30) | wordwrap(20) }}",
]


@pytest.mark.parametrize("source", SAME)
def test_templates_render_as_in_jinja2(source: str):
    messages = [{"role": "system", "content": "S <b>"}, {"role": "user", "content": " Hi there "}]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate(source, tokens)
    want = reference(source, messages=messages, tools=None, add_generation_prompt=True, **tokens)
    assert template.render(messages) == want
    template.close()


def test_what_hugging_face_adds():
    source = (
        "{{ messages[0].extra | tojson }} {{ messages[0].extra | tojson(indent=1) }} {{ strftime_now('%Y') | length }} "
        "{% generation %}said{% endgeneration %}"
    )
    template = ChatTemplate(source, {})
    message = {"role": "user", "content": "", "extra": {"b": "<é'>", "a": [1, None, True]}}
    want = '{"b": "<é\'>", "a": [1, null, true]} {\n "b": "<é\'>",\n "a": [\n  1,\n  null,\n  true\n ]\n} 4 said'
    assert template.render([message]) == want
    template.close()


WRONG = [
    ([], r"messages is \[\]"),
    ("hi", "messages is 'hi'"),
    (None, "messages is None"),
    (["hi"], r"messages\[0\] is 'hi'"),
    ([{"content": "x"}], r"messages\[0\]\.role is None"),
    ([{"role": 1, "content": "x"}], r"messages\[0\]\.role is 1"),
    ([{"role": "<|im_end|>", "content": "x"}], r"messages\[0\]\.role"),
    ([{"role": "user\n", "content": "x"}], r"messages\[0\]\.role"),
    ([{"role": "user", "content": "x"}, {"role": "user"}], r"messages\[1\]\.content is missing"),
    ([{"role": "user", "content": 5}], r"messages\[0\]\.content is 5"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\]\.content\[0\]"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}], r"messages\[0\]\.content\[1\]"),
    ([{"role": "user", "content": ["a"]}], r"messages\[0\]\.content\[0\] is 'a'"),
]


@pytest.mark.parametrize(("messages", "named"), WRONG)
def test_malformed_messages_are_named_by_their_place(messages: Any, named: str):
    with pytest.raises(InputError, match=named):
        checked(messages)


def test_parts_are_joined_and_other_fields_kept():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert checked([{"role": "user", "content": parts, "name": "n"}, calls]) == [
        {"role": "user", "content": "ab", "name": "n"},
        calls,
    ]


def test_extra_values_reach_the_template_and_replace_nothing(chatml: ChatTemplate):
    template = ChatTemplate("{{ mood }}", {"bos_token": "<s>"})
    assert template.render([{"role": "user", "content": ""}], extra={"mood": "calm"}) == "calm"
    template.close()
    for name in ("messages", "tools", "add_generation_prompt", "bos_token"):
        with pytest.raises(InputError, match=name):
            chatml.render([{"role": "user", "content": ""}], extra={name: "x"})


def test_a_template_of_any_length_is_not_believed():
    with pytest.raises(FileError, match=r"tokenizer\.chat_template"):
        ChatTemplate("x" * (LONGEST_TEMPLATE + 1), {})


@given(tokenizer=TOKENIZERS, messages=MESSAGES)
def test_a_conversation_is_its_turns(chatml: ChatTemplate, tokenizer: Tokenizer, messages: list[dict[str, str]]):
    begin, end = (tokenizer.vocab.ids[text] for text in ("<|im_start|>", "<|im_end|>"))
    want = []
    for message in messages:
        want += [begin, *tokenizer.encode(f"{message['role']}\n{message['content']}"), end, *tokenizer.encode("\n")]
    want += [begin, *tokenizer.encode("assistant\n")]
    assert encode_chat(tokenizer, chatml, messages) == want


@given(
    tokenizer=TOKENIZERS,
    messages=MESSAGES,
    name=WRITTEN,
    tools=st.dictionaries(WRITTEN, WRITTEN | st.lists(WRITTEN)),
    note=WRITTEN,
)
def test_nothing_written_becomes_a_control_token(
    copying: ChatTemplate,
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    name: str,
    tools: dict[str, Any],
    note: str,
):
    messages[0]["name"] = name
    given: dict[str, Any] = {"tools": [tools], "extra": {"note": note}}
    # The template has no special tokens of its own, so all that it renders is text.
    assert encode_chat(tokenizer, copying, messages, **given) == tokenizer.encode(copying.render(messages, **given))


@given(st.lists(WRITTEN, min_size=1, max_size=5))
def test_marks_come_and_go(texts: list[str]):
    guard = Guard(ODD.control_texts, texts)
    marked = [guard.mark(text) for text in texts]
    assert [guard.unmark(text) for text in marked] == texts
    together = "".join(marked)
    assert not any(spelling in together for spelling in ODD.control_texts)
    assert [guard.unmark(text.strip()) for text in marked] == [text.strip() for text in texts]


def test_texts_without_special_tokens_are_not_marked():
    guard = Guard(TINY.control_texts, ["a"])
    for text in ["", "Hello <b>world</b>!", "if a < b: return a | b", "user", "im_end"]:
        assert guard.mark(text) == text


def test_no_noncharacter_left():
    every = "".join(map(chr, range(0xFDD0, 0xFDF0)))
    with pytest.raises(InputError, match="noncharacters"):
        Guard(TINY.control_texts, [every])


def test_a_template_may_build_a_token_around_a_role():
    template = ChatTemplate("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}", {})
    tokenizer = with_tokens(("<|user|>", 3))
    ids = encode_chat(tokenizer, template, [{"role": "user", "content": "<|user|>"}])
    assert ids == [tokenizer.size - 1, *tokenizer.encode("<|user|>")]
    template.close()


def test_bos_is_added_once():
    wishing = with_tokens(add_bos_token=True)
    message = [{"role": "user", "content": "a"}]
    for source in ("{{ messages[0].content }}", "{{ bos_token }}{{ messages[0].content }}"):
        template = ChatTemplate(source, {"bos_token": "<|im_start|>"})
        assert encode_chat(wishing, template, message) == wishing.encode("a", add_bos=True)
        template.close()
