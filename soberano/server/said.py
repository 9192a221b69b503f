"""What is said to the model: prompts and messages, brought from the shapes that clients send to one."""

from typing import Any, NamedTuple

from soberano.server import checks
from soberano.server.errors import RequestError

MAX_PROMPTS = 16
MAX_MESSAGES = 8192
"""Messages of a conversation whose oldest turns may be left out: to read more would hold up everybody else."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
UNUSED = ("refusal", "audio", "tool_calls", "function_call", "annotations")
"""Fields of an assistant message that clients send back as they got them, empty."""


class Limits(NamedTuple):
    """What the model can take: tokens of context, tokens that there are, and the most bytes that one of them says.

    `slides` says that the oldest turns of a conversation may be left out, so that it may be longer than all that.
    """

    context: int
    vocabulary: int
    token_bytes: int
    slides: bool = False


def prompts(value: Any, limits: Limits) -> tuple[str | tuple[int, ...], ...]:
    """Read a string, a list of strings, a list of token ids, or a list of such lists.

    What cannot fit is refused before anything is done with its parts. Raises RequestError or ContextError.
    """
    many = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    if len(many) > MAX_PROMPTS:
        raise RequestError(
            f"prompt holds {len(many)} prompts, but one request may hold {MAX_PROMPTS}; send several requests", "prompt"
        )
    read: list[str | tuple[int, ...]] = []
    for one in many:
        if isinstance(one, list) and one:
            checks.fits("prompt", len(one), "tokens", limits.context)
            read.append(tuple(checks.whole("prompt", token, 0, limits.vocabulary - 1) for token in one))
        elif isinstance(one, str):
            read.append(checks.text("prompt", one))
            _fits("prompt", len(one.encode()), limits)
        else:
            raise checks.wrong("prompt", one, "a string, a list of token ids, or a list of either")
    return tuple(read)


def messages(value: Any, limits: Limits) -> tuple[dict[str, Any], ...]:
    """Read a conversation: text only, roles that chat templates know. Raises RequestError or ContextError."""
    if not isinstance(value, list) or not value:
        raise checks.wrong("messages", value, "a list of at least one message")
    if limits.slides:
        if len(value) > MAX_MESSAGES:
            raise RequestError(f"messages holds {len(value)} messages; send the newest {MAX_MESSAGES}", "messages")
    else:
        checks.fits("messages", len(value), "messages", limits.context)
    read = []
    for i, one in enumerate(value):
        at = f"messages[{i}]"
        one = checks.mapping(at, one)
        checks.known(
            (f"{at}.{name}" for name in one), [f"{at}.{name}" for name in ("role", "content", "name", *UNUSED)]
        )
        if not isinstance(one.get("role"), str) or one["role"] not in ROLES:
            raise checks.wrong(f"{at}.role", one.get("role"), f"one of {', '.join(ROLES)}")
        for name in UNUSED:
            if one.get(name):
                raise RequestError(
                    f"{at}.{name} is not served; leave it out", f"{at}.{name}", code="unsupported_parameter"
                )
        message = {
            "role": ROLES[one["role"]],
            "content": _content(f"{at}.content", one.get("content"), one["role"], limits),
        }
        if one.get("name") is not None:
            message["name"] = checks.text(f"{at}.name", one["name"])  # for templates that print it
        read.append(message)
    if not limits.slides:
        _fits("messages", sum(len(message["content"].encode()) for message in read), limits)
    return tuple(read)


def _fits(param: str, size: int, limits: Limits) -> None:
    """Refuse a text that cannot fit however it is cut, as tokenizing megabytes takes seconds."""
    checks.fits(param, -(-size // limits.token_bytes), f"tokens or more ({size} bytes)", limits.context)


def _content(at: str, value: Any, role: str, limits: Limits) -> str:
    """A string, or text parts, joined as they come. An assistant's content may be null."""
    if value is None and role == "assistant":
        return ""
    if not isinstance(value, list):
        return checks.text(at, value)
    checks.fits(at, len(value), "parts", limits.context)
    joined = []
    for i, part in enumerate(value):
        part = checks.mapping(f"{at}[{i}]", part)
        if part.get("type") != "text":
            raise checks.wrong(
                f"{at}[{i}].type", part.get("type"), "'text': this server reads no images, audio or files"
            )
        joined.append(checks.text(f"{at}[{i}].text", part.get("text")))
    return "".join(joined)
