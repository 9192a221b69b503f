"""Ranking by a model that generates text: it is asked whether a document answers a query, and how likely it says yes.

The words are those of Qwen3-Reranker, for which any model does that has a chat template: a template of its own for this
(tokenizer.chat_template.rerank, with {query} and {document}) comes first. The score is the probability of "yes" when
the model may only say "yes" or "no".
Source: arXiv:2506.05176, and the card of Qwen3-Reranker.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from soberano.core.errors import CapacityError, ContextError, InputError
from soberano.core.types import Array
from soberano.models.encoding import Vectors
from soberano.models.rank import Pairs, probability
from soberano.text.chat import Guard

if TYPE_CHECKING:
    from soberano.models.model import Model

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
TEMPLATE = "tokenizer.chat_template.rerank"


def pairs(model: "Model", query: str, documents: Sequence[str], instruction: str | None = None) -> Pairs:
    """The question about each document, as tokens; a document that does not fit is cut.

    Raises InputError for a model that has no template, ContextError for a query that leaves no room.
    """
    question, most = _question(model, query, instruction), model.context
    found, cut = [], 0
    for document in documents:
        tokens = question(document)
        if len(tokens) > most:
            tokens, cut = _shorter(model, question, document, most), cut + 1
        found.append(tokens)
    return Pairs(found, cut)


def _question(model: "Model", query: str, instruction: str | None) -> Callable[[str], list[int]]:
    template = model.metadata.get(TEMPLATE)
    if isinstance(template, str):
        if instruction is not None:
            raise InputError(f"{model.name} has a template for ranking that takes no instruction; leave it out")
        return lambda document: _filled(model, template, query, document)

    def asked(document: str) -> list[int]:
        content = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
        return model.chat_tokens(messages, extra={"enable_thinking": False})

    return asked


def _filled(model: "Model", template: str, query: str, document: str) -> list[int]:
    """The template's special tokens as tokens, those inside query and document as text."""
    guard = Guard(model.tokenizer.control_texts, [query, document])
    before, _, after = template.partition("{document}")
    before, after = (part.replace("{query}", guard.mark(query)) for part in (before, after))
    ids = list[int]()
    for part in model.tokenizer.partition(before + guard.mark(document) + after, special=True):
        ids += [part] if isinstance(part, int) else model.tokenizer.encode(guard.unmark(part), add_bos=False)
    return ids


def _shorter(model: "Model", question: Callable[[str], list[int]], document: str, most: int) -> list[int]:
    """The question about as much of a document as fits; it is tried, as its last token may join with what follows."""
    words = model.tokenizer.encode(document, add_bos=False)
    while words:
        tokens = question(model.tokenizer.decode(words).rstrip("\ufffd"))
        if len(tokens) <= most:
            return tokens
        del words[max(0, len(words) - (len(tokens) - most)) :]
    raise ContextError(
        f"the question without a document is {len(question(''))} tokens, which leaves no room for one: the context "
        f"holds {most}; shorten the query, or load with a larger context"
    )


class Judging:
    """Questions on their way to scores, one after another. Made by Model.start_ranking; `step` until `done`."""

    def __init__(self, model: "Model", questions: Sequence[Sequence[int]]) -> None:
        size = model.tokenizer.size
        for i, tokens in enumerate(questions):
            if not 0 < len(tokens) <= model.context or not all(0 <= token < size for token in tokens):
                raise InputError(f"question {i} has {len(tokens)} tokens; make them with `pairs`")
        self.prompt_tokens, self.completion_tokens = sum(map(len, questions)), 0
        self.done, self.finish_reason, self.timings = not questions, "stop", dict[str, float]()
        self._model, self._questions, self._epoch = model, questions, model.epoch
        self._answers = [_token(model, word) for word in ("yes", "no")]
        self._at = self._read = 0  # the question, and how many of its tokens the model has read
        self._started = time.perf_counter()
        self._pages = model.pages.take(max(map(len, questions), default=0))  # last: what raises above holds none

    def step(self) -> list[Vectors]:
        """Read a chunk of a question; return its score when it has been read.

        Whatever it raises, the ranking is done. Raises CapacityError when the cache was lost since the last step.
        """
        if self.done:
            return []
        try:
            if self._epoch != self._model.epoch:
                raise CapacityError("the cache was lost when another request's step failed; start again")
            return self._step()
        except BaseException:
            self.done = True
            raise

    def _step(self) -> list[Vectors]:
        model, tokens, place = self._model, self._questions[self._at], self._at
        chunk, count = model.programs.prompt(tokens, self._read, self._table)
        logits = model.forward(chunk, "prompt")
        self._read += count
        if self._read < len(tokens):
            return []
        self._at, self._read = place + 1, 0
        self.done = self._at == len(self._questions)
        self.timings = {"rank_s": time.perf_counter() - self._started}
        yes, no = (float(x) for x in model.home.to_numpy(logits)[0, self._answers])
        return [Vectors([place], np.array([[probability(yes - no)]]))]

    def _table(self, tokens: int) -> Array:
        programs = self._model.programs
        return self._model.home.asarray(programs.table(self._pages, programs.table_width(tokens, self._model.context)))

    def close(self) -> None:
        """Give the cache pages back. Closing twice is fine."""
        pages, self._pages = self._pages, []
        self._model.pages.give_back(pages)
        self.done = True


def _token(model: "Model", word: str) -> int:
    tokens = model.tokenizer.encode(word, add_bos=False)
    if len(tokens) != 1:
        raise InputError(f"{model.name} spells {word!r} in {len(tokens)} tokens, so it cannot be asked to rank")
    return tokens[0]
