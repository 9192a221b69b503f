"""Read one value of a JSON request: right type, right range, or a RequestError that names the field."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from soberano.core.errors import ContextError
from soberano.server.errors import RequestError

LONGEST_NAME = 64
"""Longer names of fields are no misspelling of any of ours, and comparing them takes seconds."""

LABELS = ("user", "safety_identifier", "prompt_cache_key")
"""Parameters of every route that say who asks, and cannot change an answer."""

KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    type(None): "null",
    int: "a number",
    float: "a number",
}


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict = 3, 4, 4
_short.maxstring = _short.maxlong = _short.maxother = 60


def shown(value: Any) -> str:
    """A value for an error message: at most 60 characters, however large the value is."""
    text = _short.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def wrong(param: str, value: Any, want: str) -> RequestError:
    """The error for a field that holds something else than `want`."""
    return RequestError(f"{param} is {shown(value)}, but must be {want}", param)


def fits(param: str, count: int, what: str, context: int) -> None:
    """Refuse `count` tokens, or what takes at least as many, where the context has no room for them and an answer."""
    if count >= context:
        raise ContextError(
            f"{param}: {count} {what}, but the context holds {context} tokens, the answer included; shorten it"
        )


def mapping(param: str, value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise wrong(param, value, "an object")
    return value


def boolean(param: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise wrong(param, value, "true or false")
    return value


def whole(param: str, value: Any, low: int, high: int) -> int:
    """A whole number of a range. 3.0 is one, as JSON knows no integers; true is none.

    >>> whole("n", 3.0, 1, 16)
    3
    """
    is_whole = value.is_integer() if isinstance(value, float) else isinstance(value, int)  # no infinity, no NaN
    if not is_whole or isinstance(value, bool) or not low <= value <= high:
        raise wrong(param, value, f"a whole number from {low} to {high}")
    return int(value)


def real(param: str, value: Any, low: float, high: float) -> float:
    """A finite number of a range."""
    if (
        not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high
    ):  # NaN fails the range
        raise wrong(param, value, f"a number from {low:g} to {high:g}")
    return float(value)


def text(param: str, value: Any) -> str:
    """A string that UTF-8 can hold: JSON may carry lone surrogates, and no tokenizer can."""
    if not isinstance(value, str):
        raise wrong(param, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong(param, value, "text without lone surrogates") from None
    return value


def fields(body: Any, names: Iterable[str]) -> dict[str, Any]:
    """The parameters of a request that are set; null means unset. Refuses a body, or a name, that is none of ours."""
    if not isinstance(body, dict):
        raise RequestError(f"the body is {KINDS.get(type(body), 'something else')}, but must be a JSON object")
    known(body, names)
    found = {name: value for name, value in body.items() if value is not None}
    for name in LABELS:
        if name in found:
            text(name, found[name])
    return found


def known(given: Iterable[str], names: Iterable[str]) -> None:
    """Refuse the first field that is no parameter at all, with the nearest name that is."""
    names = list(names)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) if len(name) <= LONGEST_NAME else []
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RequestError(
                f"{name[:80]!r} is no parameter of this route{hint}", name[:80], code="unknown_parameter"
            )
