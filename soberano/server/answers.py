"""What clients get back: the OpenAI bodies of an answer and of the chunks of a stream, for chats and for completions.

A `Form` builds both. It is made per request, and remembers what the completion shape needs: offsets of tokens in text.
"""

import time
import uuid
from typing import Any, NamedTuple

from soberano.models.generate import Piece, TokenLogprob
from soberano.server.jobs import Finished
from soberano.text.tokenizer import Tokenizer

Json = dict[str, Any]
UNLIKELY = -9999.0  # OpenAI's word for a probability of zero: JSON has no infinity


class Choice(NamedTuple):
    """One finished choice."""

    pieces: list[Piece]
    end: Finished


class Form:
    """What chats and completions share. A subclass sets the names and the shape of a choice."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, model: str, tokenizer: Tokenizer, *, logprobs: bool, fingerprint: str) -> None:
        self.tokenizer, self.logprobs = tokenizer, logprobs
        self.head = {
            "id": f"{self.prefix}{uuid.uuid4().hex}",
            "object": self.kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def body(self, choices: list[Choice], usage: Json) -> Json:
        """The answer to a request that does not stream."""
        made = []
        for index, choice in enumerate(choices):
            text = "".join(piece.text for piece in choice.pieces)
            tokens = [token for piece in choice.pieces for token in piece.logprobs]
            made.append({"index": index, **self.whole(index, text, tokens), "finish_reason": choice.end.reason})
        return {**self.head, "choices": made, "usage": usage}

    def chunk(self, choices: list[Json], **more: Any) -> Json:
        """One chunk of a stream."""
        return {**self.head, "object": self.chunk_kind, "choices": choices, **more}

    def first(self, index: int) -> list[Json]:
        """The choices of the chunk that opens a choice, if there is one."""
        raise NotImplementedError

    def delta(self, index: int, piece: Piece) -> Json:
        """The choice of a chunk that carries a piece."""
        raise NotImplementedError

    def last(self, index: int, reason: str) -> Json:
        """The choice of the chunk that ends a choice."""
        raise NotImplementedError

    def whole(self, index: int, text: str, tokens: list[TokenLogprob]) -> Json:
        """The parts of a complete choice that differ between the forms."""
        raise NotImplementedError


class ChatForm(Form):
    """chat.completion and its chunks."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def first(self, index: int) -> list[Json]:
        return [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ]

    def delta(self, index: int, piece: Piece) -> Json:
        return {
            "index": index,
            "delta": {"content": piece.text},
            "logprobs": self._scores(piece.logprobs),
            "finish_reason": None,
        }

    def last(self, index: int, reason: str) -> Json:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def whole(self, index: int, text: str, tokens: list[TokenLogprob]) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": self._scores(tokens)}

    def _scores(self, tokens: Any) -> Json | None:
        if not self.logprobs:
            return None
        return {
            "content": [
                {**self._score(t.token, t.text, t.logprob), "top_logprobs": [self._score(*top) for top in t.top]}
                for t in tokens
            ],
            "refusal": None,
        }

    def _score(self, token: int, text: str, logprob: float) -> Json:
        return {"token": text, "bytes": list(self.tokenizer.bytes_of(token)), "logprob": max(float(logprob), UNLIKELY)}


class TextForm(Form):
    """text_completion, whose chunks look like the answer. `echoes` are the prompts that the client wants back."""

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def __init__(self, *args: Any, echoes: list[str], **more: Any) -> None:
        super().__init__(*args, **more)
        self.echoes = echoes
        self.offsets = [len(echo) for echo in echoes]

    def first(self, index: int) -> list[Json]:
        return [self._choice(index, self.echoes[index], None)] if self.echoes[index] else []

    def delta(self, index: int, piece: Piece) -> Json:
        return self._choice(index, piece.text, self._scores(index, piece.logprobs))

    def last(self, index: int, reason: str) -> Json:
        return {**self._choice(index, "", None), "finish_reason": reason}

    def whole(self, index: int, text: str, tokens: list[TokenLogprob]) -> Json:
        return {"text": self.echoes[index] + text, "logprobs": self._scores(index, tokens)}

    def _choice(self, index: int, text: str, scores: Json | None) -> Json:
        return {"index": index, "text": text, "logprobs": scores, "finish_reason": None}

    def _scores(self, index: int, tokens: Any) -> Json | None:
        if not self.logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(token.text)
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [max(float(t.logprob), UNLIKELY) for t in tokens],
            "top_logprobs": [{text: max(float(logprob), UNLIKELY) for _, text, logprob in t.top} for t in tokens],
            "text_offset": offsets,
        }


def usage(ends: list[Finished], choices_a_prompt: int) -> Json:
    """Token counts of a request. A prompt counts once, however many choices it has."""
    return counts(
        sum(end.prompt_tokens for end in ends[::choices_a_prompt]), sum(end.completion_tokens for end in ends)
    )


def counts(prompt: int, completion: int) -> Json:
    """The three numbers of an OpenAI usage."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
