"""Conversations that no longer fit the context: refuse them, leave out their oldest turns, or have those summarised.

A turn is a user's message and what was said until the next one. System messages are no part of any turn: they always
stay, and so does the newest turn.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from soberano.core.errors import ContextError, InputError
from soberano.models.options import LONG_CHATS
from soberano.text.chat import checked

if TYPE_CHECKING:
    from soberano.models.model import Model

Message = Mapping[str, Any]
Policy = Literal["refuse", "slide"] | Callable[[list[Message]], Message]
"""What is done; a function gets the messages that are left out, and returns the one that takes their place."""

_SYSTEM = ("system", "developer")
_ROOM = 4
"""Turns are left out until this part of the context, one in so many, is free for the answer."""


class Fitted(NamedTuple):
    """A conversation that fits."""

    tokens: list[int]  # the prompt
    messages: list[Message]  # what it is made of; the conversation may go on from here
    dropped: int  # how many messages were left out


def fit(
    model: "Model", messages: Sequence[Message], policy: Policy = "refuse", *, answer: int | None = None, **extra: Any
) -> Fitted:
    """Make the prompt of a conversation. There is room for one token of answer behind it, at least.

    "slide" and a function leave out whole turns, the oldest first, until there is room for `answer` tokens, or for a
    quarter of the context where that is less or nothing is said. What a function returns may take of that room. `extra`
    goes to Model.chat_tokens. Raises ContextError, with the numbers, for what cannot fit; InputError for messages, or a
    summary, that are none.
    """
    if not callable(policy) and policy not in LONG_CHATS:
        raise InputError(
            f"long_chats is {policy!r}; it must be {' or '.join(LONG_CHATS)}, or a function that summarises"
        )
    if policy == "refuse":
        return Fitted(_prompt(model, messages, "the conversation", _ways_out(model), extra), list(messages), 0)
    turns = _Turns(checked(messages))
    room = max(1, min(model.context // _ROOM, model.context if answer is None else answer))
    count, tokens = _slide(model, turns, model.context - room, extra)
    gone, kept = turns.first(count), turns.without(count)
    if gone and callable(policy):
        summary = checked([policy(list(gone))])
        place = next(i for i, message in enumerate(turns.messages) if message is gone[0])
        kept[place:place] = summary
        tokens = None  # there was no summary in them
    if tokens is None:
        what = "what is left of the conversation" if gone else "the conversation, which is one turn,"
        tokens = _prompt(model, kept, what, "shorten the newest message, or the system message or summary", extra)
    return Fitted(tokens, list(kept), len(gone))


class _Turns:
    """A conversation, and which turn each of its messages is of."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages
        self._turns: list[int | None] = []
        self.newest, begun = 0, False
        for message in messages:
            spoken = message["role"] not in _SYSTEM
            self.newest += begun and message["role"] == "user"
            begun = begun or spoken
            self._turns.append(self.newest if spoken else None)

    def first(self, count: int) -> list[dict[str, Any]]:
        """The messages of the first turns."""
        return [m for m, turn in zip(self.messages, self._turns, strict=True) if turn is not None and turn < count]

    def without(self, count: int) -> list[dict[str, Any]]:
        """All messages but those of the first turns."""
        return [m for m, turn in zip(self.messages, self._turns, strict=True) if turn is None or turn >= count]

    def size(self, count: int) -> int:
        """The bytes of what `without` leaves."""
        return sum(len((message["content"] or "").encode()) for message in self.without(count))


def _slide(model: "Model", turns: _Turns, most: int, extra: Mapping[str, Any]) -> tuple[int, list[int] | None]:
    """How many turns to leave out so that at most `most` tokens are left, and these tokens.

    None instead of them where all turns but the newest are not enough. Few numbers are tried: the more turns are left
    out, the fewer tokens there are, and no token says more bytes than the longest one.
    """
    found: dict[int, list[int]] = {}

    def fits(count: int) -> bool:
        try:
            tokens = model.chat_tokens(turns.without(count), most=most, **extra)
        except ContextError:
            return False
        if len(tokens) <= most:
            found[count] = tokens
        return count in found

    bytes_of_most = most * model.tokenizer.longest
    count = bisect_left(range(turns.newest), True, key=lambda count: turns.size(count) <= bytes_of_most)
    if not fits(count) and count < turns.newest:
        count = bisect_left(range(turns.newest), True, count + 1, key=fits)
        if count == turns.newest:
            fits(count)
    return count, found.get(count)


def _prompt(
    model: "Model", messages: Sequence[Message], what: str, way_out: str, extra: Mapping[str, Any]
) -> list[int]:
    """The prompt of a conversation, or ContextError where it leaves no room for an answer."""
    try:
        tokens = model.chat_tokens(messages, most=model.context, **extra)
        count = f"{len(tokens):,}"
        if len(tokens) < model.context:
            return tokens
    except ContextError:  # given up before the last one
        count = f"more than {model.context:,}"
    raise ContextError(
        f"{what} is {count} tokens, but the context holds {model.context:,}, the answer included; {way_out}"
    )


def _ways_out(model: "Model") -> str:
    trained = model.config.context
    larger = f"load with a larger context (--context, up to {trained:,}), " if trained > model.context else ""
    return f"shorten it, {larger}or let the oldest turns be left out (--long-chats slide)"
