"""What no longer fits is refused with the numbers, left out in whole turns, or summarised; never cut in silence."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import ContextError, InputError
from soberano.models.long_chats import fit

Message = dict[str, Any]


class Letters:
    """A model as far as a conversation sees it: a token a letter, and one more a message."""

    def __init__(self, context: int) -> None:
        self.context, self.config = context, SimpleNamespace(context=2 * context)
        self.tokenizer = SimpleNamespace(longest=1)
        self.asked = 0

    def chat_tokens(self, messages: list[Message], *, most: int, greeting: str = "") -> list[int]:
        self.asked += 1
        text = greeting + "".join(f"{message['role'][0]}{message['content']}" for message in messages)
        if len(text) > 2 * most:
            raise ContextError("given up")
        return [ord(letter) for letter in text]


def said(*words: str) -> list[Message]:
    """Messages by their first letter, s, u or a; the rest is the content."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[word[0]], "content": word[1:]} for word in words]


def words(messages: list[Any]) -> list[str]:
    return [message["role"][0] + message["content"] for message in messages]


TALK = ("ssystem", "uone", "aeins", "utwo", "azwei", "sagain", "uthree", "adrei", "ufour")
WHOLE = sum(map(len, TALK))


@pytest.mark.parametrize("policy", ["refuse", "slide", lambda gone: pytest.fail("nothing has to be summarised")])
def test_what_fits_stays_as_it_is(policy: Any):
    fitted = fit(Letters(100), said(*TALK), policy)
    assert "".join(map(chr, fitted.tokens)) == "".join(TALK)
    assert (words(fitted.messages), fitted.dropped) == (list(TALK), 0)


def test_refused_with_the_numbers_and_the_ways_out():
    with pytest.raises(
        ContextError, match=rf"is {WHOLE} tokens, but the context holds 30, .*--context, up to 60.*slide"
    ):
        fit(Letters(30), said(*TALK))
    with pytest.raises(ContextError, match="is more than 10 tokens"):
        fit(Letters(10), said(*TALK))
    with pytest.raises(ContextError, match=f"is {WHOLE} tokens"):
        fit(Letters(WHOLE), said(*TALK))  # without room for a single token of answer
    assert fit(Letters(WHOLE + 1), said(*TALK)).dropped == 0


def test_the_oldest_turns_are_left_out_and_system_messages_stay():
    fitted = fit(Letters(40), said(*TALK), "slide", answer=1)
    assert (words(fitted.messages), fitted.dropped) == (
        ["ssystem", "utwo", "azwei", "sagain", "uthree", "adrei", "ufour"],
        2,
    )
    fitted = fit(Letters(40), said(*TALK), "slide")  # room for a quarter
    assert (words(fitted.messages), fitted.dropped) == (["ssystem", "sagain", "uthree", "adrei", "ufour"], 4)
    fitted = fit(Letters(24), said(*TALK), "slide", answer=10_000)
    assert (words(fitted.messages), fitted.dropped) == (["ssystem", "sagain", "ufour"], 6)


def test_a_greeting_is_a_turn_of_its_own_and_an_answer_may_be_begun():
    talk = said("ahello there", "uone", "aeins", "utwo", "azw")
    fitted = fit(Letters(20), talk, "slide", answer=1)
    assert words(fitted.messages) == ["uone", "aeins", "utwo", "azw"]
    assert words(fit(Letters(16), talk, "slide", answer=1).messages) == ["utwo", "azw"]


@pytest.mark.parametrize("policy", ["refuse", "slide", lambda gone: {"role": "system", "content": ""}])
def test_the_newest_message_alone_may_be_too_long(policy: Any):
    for talk in (said("u" + "x" * 50), said("ssystem", "uone", "aeins", "u" + "x" * 50), said("s" + "x" * 50, "uone")):
        with pytest.raises(ContextError, match="but the context holds 40, the answer included"):
            fit(Letters(40), talk, policy)


def test_a_tight_fit_is_better_than_none():
    """There is less room than was asked for, but some."""
    fitted = fit(Letters(40), said("uone", "aeins", "u" + "x" * 38), "slide")
    assert (len(fitted.tokens), fitted.dropped) == (39, 2)


TURNS = st.lists(st.tuples(st.text("x", max_size=9), st.text("x", max_size=9)), min_size=1, max_size=12)


@given(turns=TURNS, context=st.integers(1, 120), answer=st.none() | st.integers(1, 60))
def test_no_more_is_left_out_than_must_be(turns: list[tuple[str, str]], context: int, answer: int | None):
    talk = said("sS", *(word for ask, say in turns for word in (f"u{ask}", f"a{say}")))
    size = lambda n: sum(len(word) for word in words([talk[0], *talk[1 + 2 * n :]]))  # noqa: E731  n turns left out
    room = max(1, min(context // 4, answer or context))
    want = next((n for n in range(len(turns)) if size(n) <= context - room), len(turns) - 1)
    if size(want) >= context:
        with pytest.raises(ContextError):
            fit(Letters(context), talk, "slide", answer=answer)
    else:
        fitted = fit(Letters(context), talk, "slide", answer=answer)
        assert (fitted.dropped, words(fitted.messages)) == (2 * want, words([talk[0], *talk[1 + 2 * want :]]))


def test_a_conversation_of_any_length_is_tried_a_few_times():
    model = Letters(1000)
    fitted = fit(model, said(*["uask", "asay"] * 4000), "slide")
    assert 0 < len(fitted.tokens) <= 750
    assert model.asked <= 14


def test_a_summary_takes_the_place_of_what_is_left_out():
    told: list[Any] = []

    def summarise(gone: list[Any]) -> dict[str, str]:
        told.extend(gone)
        return {"role": "user", "content": "sum"}

    fitted = fit(Letters(46), said(*TALK), summarise, answer=8)
    assert words(told) == ["uone", "aeins"]
    assert words(fitted.messages) == ["ssystem", "usum", "utwo", "azwei", "sagain", "uthree", "adrei", "ufour"]
    assert (fitted.dropped, "".join(map(chr, fitted.tokens))) == (2, "".join(words(fitted.messages)))


def test_a_summary_that_is_none_or_does_not_fit():
    with pytest.raises(InputError, match=r"messages\[0\] is 'short'"):
        fit(Letters(40), said(*TALK), lambda gone: "short")  # type: ignore[arg-type, return-value]
    with pytest.raises(ContextError, match=r"left of the conversation is .* tokens, but the context holds 40"):
        fit(Letters(40), said(*TALK), lambda gone: {"role": "user", "content": "x" * 20})


def test_policies_are_named_and_what_the_template_gets_goes_there():
    with pytest.raises(InputError, match="long_chats is 'truncate'; it must be refuse or slide"):
        fit(Letters(40), said("uhi"), "truncate")  # type: ignore[arg-type]
    for policy in ("refuse", "slide"):
        assert fit(Letters(40), said("uhi"), policy, greeting="G").tokens[0] == ord("G")  # type: ignore[arg-type]
