"""Conversations to prompts: a model's own chat template, rendered where it can do no harm, and encoded so that what
users write stays text.

A template is a jinja2 program that comes with the model (`tokenizer.chat_template`); it runs in a limited process, see
soberano.text.chat_process. The conventions are those of Hugging Face's `apply_chat_template`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from soberano.core.errors import FileError, InputError
from soberano.text.chat_process import Limits, Renderer
from soberano.text.special import Spellings
from soberano.text.tokenizer import Tokenizer

LONGEST_TEMPLATE = 1 << 20
"""Characters of the longest template that we believe; real ones stay below 50,000."""

_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OURS = ("messages", "tools", "add_generation_prompt")
# Code points that Unicode promises never to give to a character: text that uses them is not text.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]

Message = Mapping[str, Any]


class ChatTemplate:
    """A chat template and the values that it always gets, such as bos_token. No process before the first render."""

    def __init__(self, source: str, tokens: Mapping[str, str], *, limits: Limits | None = None) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise FileError(
                f"tokenizer.chat_template has {len(source)} characters; more than {LONGEST_TEMPLATE} is not believed"
            )
        self.source = source
        self.tokens = dict(tokens)
        self._renderer = Renderer(limits)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a conversation. `extra` are values for the template alone, such as enable_thinking.

        Raises InputError naming the place for malformed messages, with the template's own words where it refuses them,
        and for renderings that exceed their limits; FileError for a template that is malformed or not harmless.
        """
        return self._render(checked(messages), add_generation_prompt, tools, extra)

    def _render(self, messages: Any, add_generation_prompt: bool, tools: Any, extra: Mapping[str, Any] | None) -> str:
        for name in extra or {}:
            if name in _OURS or name in self.tokens:
                raise InputError(
                    f"extra value {name!r} is not free: the template gets it from elsewhere; rename or drop it"
                )
        ours = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        return self._renderer.render(self.source, {**self.tokens, **(extra or {}), **ours})

    def close(self) -> None:
        """End the worker process. The template can be used again afterwards."""
        self._renderer.close()


def checked(messages: Any) -> list[dict[str, Any]]:
    """Check a conversation and make every content a string. Raises InputError naming the place.

    >>> checked([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    [{'role': 'user', 'content': 'Hi'}]
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError(f"messages is {_shown(messages)}; it must be a list of at least one message")
    return [_checked(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _checked(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is {_shown(message)}; it must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InputError(f"{where}.role is {_shown(role)}; it must be a word such as system, user or assistant")
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise InputError(f"{where}.content is missing; it must be a string or a list of text parts")
    return {**message, "content": None if content is None else _text(content, f"{where}.content")}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InputError(f"{where} is {_shown(content)}; it must be a string or a list of text parts")
    texts = []
    for i, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise InputError(
                f'{where}[{i}] is {_shown(part)}; it must be {{"type": "text", "text": "…"}}, as only text is read'
            )
        texts.append(text)
    return "".join(texts)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    extra: Mapping[str, Any] | None = None,
    most: int | None = None,
) -> list[int]:
    """Render a conversation and encode it: the template's special tokens as tokens, what users wrote as text.

    Whatever `messages`, `tools` and `extra` contain, no control token comes of it, as long as the template copies,
    trims, joins or JSON-encodes it. (A template that changes letters, or that builds a token around a word, as in
    '<|' + role + '|>', means what it says.) A bos token is added where the file asks for one and the template has none.
    Raises what `ChatTemplate.render` raises, and ContextError where `Tokenizer.encode` does for `most`.
    """
    written = [checked(messages), tools, extra]
    guard = Guard(tokenizer.control_texts, written)
    marked, marked_tools, marked_extra = guard.mark_all(written)
    rendered = template._render(marked, add_generation_prompt, marked_tools, marked_extra)
    ids: list[int] = []
    for part in tokenizer.partition(rendered, special=True):
        ids += [part] if isinstance(part, int) else tokenizer.encode(guard.unmark(part), add_bos=False, most=most)
    if tokenizer.add_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids.insert(0, tokenizer.bos)
    return ids


class Guard:
    """Marks in users' strings that keep spellings of control tokens from being read as such, and take no other room.

    The mark is a noncharacter that occurs nowhere in the strings. It goes behind the first character of each spelling,
    so it is inside the spelling and a template may trim around it; a spelling of one character is replaced by another
    noncharacter. Spellings could also form where two strings meet, so a string that ends in the beginning of a
    spelling, or begins with the end of one, is marked there.
    """

    def __init__(self, spellings: Iterable[str], values: Any) -> None:
        known = sorted(spellings, key=len, reverse=True)
        self._long = [s for s in known if len(s) > 1]
        self._whole = Spellings(self._long)
        self._firsts = {s[0] for s in self._long}
        self._lasts = {s[-1] for s in self._long}
        self._reach = len(self._long[0]) - 1 if self._long else 0
        texts: list[str] = []
        _each(values, texts.append)
        written, spelt = "\n".join(texts), "\n".join(known)
        free = [c for c in _NONCHARACTERS if c not in written and c not in spelt]
        single = [s for s in known if len(s) == 1 and s in written]
        if len(free) <= len(single):
            raise InputError("the messages contain noncharacters (U+FDD0 to U+FDEF), which are no text; remove them")
        self._mark = free[0]
        self._swap = str.maketrans(dict(zip(single, free[1:], strict=False)))
        self._back = {ord(new): old for old, new in zip(single, free[1:], strict=False)} | {ord(self._mark): None}

    def mark(self, text: str, *, ends: bool = True) -> str:
        """Mark one string; without `ends`, only the spellings that it holds whole."""
        places = {at + 1 for at, _ in self._whole.every(text)}
        if ends:
            places |= self._at_ends(text)
        pieces = []
        for start, end in zip([0, *sorted(places)], [*sorted(places), len(text)], strict=True):
            pieces.append(text[start:end])
        return self._mark.join(pieces).translate(self._swap)

    def _at_ends(self, text: str) -> set[int]:
        # A template may trim the string first, so its ends are those of the trimmed one.
        places = set()
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        for at in range(max(start, end - self._reach), end):
            if text[at] in self._firsts and any(s.startswith(text[at:end]) for s in self._long):
                places.add(at + 1)
        for at in range(start, min(end, start + self._reach)):
            if text[at] in self._lasts and any(s.endswith(text[start : at + 1]) for s in self._long):
                places.add(start)
        return places

    def unmark(self, text: str) -> str:
        """The text without marks."""
        return text.translate(self._back)

    def mark_all(self, value: Any, key: str = "") -> Any:
        """Mark every string inside a JSON value. Roles and names of fields keep their ends: templates build on them."""
        if isinstance(value, str):
            return self.mark(value, ends=key != "role")
        if isinstance(value, Mapping):
            return {
                self.mark(name, ends=False) if isinstance(name, str) else name: self.mark_all(item, name)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.mark_all(item) for item in value]
        return value


def _each(value: Any, visit: Callable[[str], None]) -> None:
    """Visit every string in a JSON value."""
    if isinstance(value, str):
        visit(value)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _each(name, visit)
            _each(item, visit)
    elif isinstance(value, list | tuple):
        for item in value:
            _each(item, visit)
