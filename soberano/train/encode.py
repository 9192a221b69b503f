"""From an example to tokens, and which of them are learnt: the answers, and the token that ends each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from soberano.core.errors import InputError
from soberano.text.chat import ChatTemplate, encode_chat
from soberano.text.tokenizer import Tokenizer
from soberano.train.data import Example, Examples, Form

ALPACA = "{instruction}\n\n{input}"
"""How the two fields of an alpaca example become one message, where it has an input."""


class Encoded(NamedTuple):
    """The tokens of one text, and which of them are learnt: given all before it."""

    tokens: np.ndarray  # (T,) int32
    learnt: np.ndarray  # (T,) bool; the first never is


def encode_examples(
    found: Examples, tokenizer: Tokenizer, template: ChatTemplate | None, longest: int, *, cut: bool = False
) -> list[Encoded]:
    """Encode every example. Raises InputError, naming the place, for one that is longer than `longest` tokens, unless
    it may be `cut`; for one from which nothing is learnt; and where the template refuses it.
    """
    encoder = _Encoder(tokenizer, template)
    encoded = []
    for example in found.examples:
        try:
            text = encoder.encode(example, found.form)
        except InputError as error:
            raise InputError(f"{example.where}: {error}") from None
        if len(text.tokens) > longest and not cut:
            raise InputError(
                f"{example.where} is {len(text.tokens)} tokens long, and {longest} are the most; train with a larger "
                f"--context, shorten it, or let --cut cut what is too long"
            )
        text = Encoded(text.tokens[:longest], text.learnt[:longest])
        if not text.learnt.any():
            raise InputError(f"{example.where}: there is nothing to learn in it; an answer must not be empty")
        encoded.append(text)
    return encoded


class _Encoder:
    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.tokenizer, self.template = tokenizer, template

    def encode(self, example: Example, form: Form) -> Encoded:
        fields = example.fields
        if form == "text":
            return self._plain("", fields["text"])
        if form == "completion":
            return self._plain(fields["prompt"], fields["completion"])
        if form == "chat":
            return self._chat(fields["messages"])
        asked = fields["instruction"]
        if fields.get("input"):
            asked = ALPACA.format(instruction=asked, input=fields["input"])
        if self.template is None:
            return self._plain(asked, fields["output"])
        answer = {"role": "assistant", "content": fields["output"]}
        return self._chat([{"role": "user", "content": asked}, answer])

    def _plain(self, prompt: str, answer: str) -> Encoded:
        """The prompt, then the answer, which is learnt, and the end of the text."""
        asked = self.tokenizer.encode(prompt)
        said = self.tokenizer.encode(answer, add_bos=False)
        end = [] if self.tokenizer.eos is None else [self.tokenizer.eos]
        return _encoded(asked + said + end, [(len(asked), len(asked) + len(said) + len(end))])

    def _chat(self, messages: Sequence[Mapping[str, Any]]) -> Encoded:
        """A conversation, of which the assistant's messages are learnt.

        A message is what the conversation up to it adds to the conversation before it with the question for an answer.
        """
        if self.template is None:
            raise InputError("the model has no chat template; use the form completion")
        whole = self._tokens(messages, asks=False)
        spans = []
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or message.get("role") != "assistant":
                continue
            before, after = self._tokens(messages[:i], asks=True), self._tokens(messages[: i + 1], asks=False)
            if whole[: len(before)] != before or whole[: len(after)] != after:
                raise InputError(
                    f"the model's template changes what was said before when message {i} follows, so its answer cannot "
                    f"be told apart; make an example of each answer that ends with it"
                )
            spans.append((len(before), self._end(whole, len(before), len(after))))
        if not spans:
            raise InputError("no message is the assistant's")
        return _encoded(whole, spans)

    def _end(self, tokens: Sequence[int], start: int, stop: int) -> int:
        """Where an answer ends: behind the token that ends it, without what the template writes after that."""
        ends = [at for at in range(start, stop) if tokens[at] in self.tokenizer.stop_ids]
        return ends[-1] + 1 if ends else stop

    def _tokens(self, messages: Sequence[Mapping[str, Any]], *, asks: bool) -> list[int]:
        assert self.template is not None
        return encode_chat(self.tokenizer, self.template, messages, add_generation_prompt=asks)


def _encoded(tokens: Sequence[int], spans: Sequence[tuple[int, int]]) -> Encoded:
    learnt = np.zeros(len(tokens), bool)
    for start, stop in spans:
        learnt[start:stop] = True
    learnt[:1] = False
    return Encoded(np.array(tokens, np.int32), learnt)
