"""Texts to vectors: `model = soberano.load("minilm")`, then `model.embed(["one text", "another"])`.

Texts of nearly one length go through the model together; which ones they are changes no vector. An encoder with a head,
a cross-encoder, ranks documents instead: `model.rerank("query", ["one document", "another"])`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from soberano.backends.choose import choose
from soberano.backends.homes import home
from soberano.backends.plan import Plan, using
from soberano.core.errors import ContextError, InputError, UnsupportedModel
from soberano.core.memory import free_memory
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings
from soberano.core.types import Array
from soberano.models import rank
from soberano.models.architecture import architecture
from soberano.models.batches import USUAL, Batch, batches, check_memory
from soberano.models.classify import Classified, classified
from soberano.models.encoding import Encoding
from soberano.models.head import NAMES, head_pooling
from soberano.models.keys import read_config
from soberano.models.layers import Metadata, ModelFile
from soberano.models.relevance import Relevances
from soberano.models.sentence import Sentence
from soberano.models.trained_head import TrainedHead
from soberano.models.weights import find_weights, load_weights, weight_bytes
from soberano.ops.distance import unit
from soberano.ops.pool import POOLINGS, Pooling, pool
from soberano.text.tokenizer import Tokenizer

compiled: Counter[tuple[Any, ...]] = Counter()
"""How often each program was traced: tests assert that traffic adds nothing."""


class Key(NamedTuple):
    """What a program is compiled for, besides the shapes."""

    architecture: str
    config: Any
    plan: Plan
    pooling: Pooling
    ranks: bool = False  # whether the head scores what the pooling made


@dataclass(frozen=True)
class Options:
    """What a caller may ask of an encoder. Raises InputError for a value that a parameter cannot have.

    `batch` texts go through the model together. `dimensions` keeps that many numbers of each vector, for models that
    were trained so. `normalize` makes every vector 1 long, `pooling` is mean, cls or last: None is what the model's
    files say.
    """

    batch: int = USUAL
    dimensions: int | None = None
    normalize: bool | None = None
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        if type(self.batch) is not int or self.batch < 1:
            raise InputError(f"batch is {self.batch!r:.40}; give a number of texts, 1 or more")
        if self.dimensions is not None and (type(self.dimensions) is not int or self.dimensions < 1):
            raise InputError(f"dimensions is {self.dimensions!r:.40}; give a whole number, 1 or more")
        if self.pooling is not None and (self.pooling == "none" or self.pooling not in POOLINGS):
            raise InputError(
                f"pooling is {self.pooling!r:.40}, which makes no vector of a text; give mean, cls or last"
            )


def _encode(key: Key, weights: Any, tokens: Array, lengths: Array, *types: Array) -> Array:
    compiled[key.architecture, key.plan.backend, key.plan.role, key.pooling, key.ranks, tuple(tokens.shape)] += 1
    with using(key.plan):
        x = architecture(key.architecture).encode(weights, tokens, lengths, key.config, *types)
        x = pool(x, lengths, how=key.pooling)
        return weights.head.score(x, key.config.eps) if key.ranks else x


class Encoder:
    """An encoder that is loaded and ready. One thread at a time may use it."""

    def __init__(
        self,
        file: ModelFile,
        name: str,
        kind: str,
        tokenizer: Tokenizer,
        sentence: Sentence,
        *,
        keys: Mapping[str, str | tuple[str, ...]] | None,
        backend: str | None,
        context: int | None,
        exact: bool,
        head: TrainedHead | None = None,
        progress: Progress,
    ) -> None:
        """`kind` is the architecture, `keys` what the file calls its keys: see soberano.models.layers.Metadata."""
        self.module = architecture(kind, file.path)
        meta = Metadata(file, kind, keys)
        self.config = read_config(self.module, meta)
        found = find_weights(file, self.module, self.config)
        self.ranks = found.head is not None
        if sentence.ranks and not self.ranks:
            raise UnsupportedModel(
                f"{file.path} says that it ranks, but has no head that is known here ({NAMES['out']} of {kind!r})"
            )
        if head is not None:
            if self.ranks:
                raise InputError(
                    f"{file.path} is a cross-encoder with a head of its own; a trained one takes none of it"
                )
            head.check(file.path, sentence, self.config.width, progress)
        self.path, self.name, self.tokenizer, self.sentence, self.head = file.path, name, tokenizer, sentence, head
        if tokenizer.size > self.config.vocabulary:
            raise InputError(
                f"{file.path}: the tokenizer has {tokenizer.size} tokens and the model knows {self.config.vocabulary}; "
                f"they do not belong together"
            )
        self.context = _context(min(sentence.longest or self.config.context, self.config.context), context)
        count = sum(int(np.prod(t.shape)) for t in file.tensors.values())
        plan = choose(backend, weights=count, progress=progress)
        self.plan = replace(plan, role="token" if exact else "prompt")
        if plan.platform == "cpu":
            need = weight_bytes(found, plan.weights)
            check_memory(need, self.context, self.config.width, self.config.ffn, free_memory())
        self.home = home(plan.home)
        self.home.persist(settings().cache_dir() / "programs")
        self.weights = load_weights(file, self.module, found, self.plan, self.home, progress)
        pooling = head_pooling(meta, self.module.Head) if self.ranks else sentence.pooling
        self._key = Key(kind, self.config, self.plan, pooling, self.ranks)
        self._encode = self.home.compile(_encode, static=(0,))

    @property
    def scores(self) -> bool:
        """Whether documents can be ranked: by a head in its file, or by a trained one."""
        return self.ranks or (self.head is not None and self.head.kind == "relevance")

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return self.config.width

    def tokens(self, text: str, *, cut: bool = True) -> list[int]:
        """What the model reads of a text: its special tokens, and as much of the text as fits, or all unless `cut`."""
        return self.tokenizer.sequence(self.sentence.prompt + text, self.context if cut else None)

    def cut(self, tokens: list[int]) -> list[int]:
        """What `tokens` made of a text without a cut -> as much of it as the model reads."""
        return self.tokenizer.cut(tokens, self.context)

    def embed(self, texts: str | Sequence[str], *, progress: Progress = silent, **options: Any) -> np.ndarray:
        """Turn texts into vectors -> (N, width) float32; of one text (width,).

        A text that is longer than the context is cut. Options are the fields of Options. Raises InputError.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        wrong = next((text for text in given if not isinstance(text, str)), None)
        if wrong is not None:
            raise InputError(f"a text is {wrong!r:.60}, and must be a string; decode it first")
        asked = Options(**options)
        encoding = self.start([self.tokens(text) for text in given], asked)
        vectors = np.zeros((len(given), asked.dimensions or self.width), np.float32)
        while not encoding.done:
            for part in encoding.step():
                vectors[part.places] = part.rows
            progress("embed", encoding.texts_done, len(given), "texts")
        return vectors[0] if isinstance(texts, str) else vectors

    def token_vectors(self, text: str) -> np.ndarray:
        """The vectors of the tokens of one text, special ones included -> (T, width) float32, without pooling."""
        tokens = self.tokens(text)
        (batch,) = batches([tokens], 1, pads=self.pads)
        return self.run(batch, "none")[0, : len(tokens)]

    def start(self, texts: Sequence[Sequence[int]], options: Options | None = None) -> Encoding:
        """Begin to embed texts, each given as the tokens that the model reads. Raises InputError."""
        asked = options or Options()
        pooling = asked.pooling or self.sentence.pooling
        if self.ranks:
            raise InputError(f"{self.name} ranks documents and has no vector of a text; ask it to rerank")
        if pooling == "none":
            raise InputError(f"{self.name} has the pooling none: it has no vector of a text; ask for mean, cls or last")
        if asked.dimensions is not None and asked.dimensions > self.width:
            raise InputError(
                f"dimensions is {asked.dimensions}, but the vectors of this model have {self.width}; ask for fewer"
            )
        normalize = self.sentence.normalize if asked.normalize is None else asked.normalize

        def run(batch: Batch) -> np.ndarray:
            vectors = self.run(batch, pooling)[: len(batch.texts), : asked.dimensions]
            return unit(vectors) if normalize else vectors

        return self._encoding(texts, asked.batch, run)

    def pairs(self, query: str, documents: Sequence[str], instruction: str | None = None) -> rank.Pairs:
        """What the model reads of a query with each document: see soberano.models.rank.Ranker."""
        if not self.scores:
            raise InputError(f"{self.name} embeds texts and has no head to rank with; compare its vectors instead")
        if instruction is not None:
            what = "is a cross-encoder, which" if self.ranks else "ranks with a trained head, which"
            raise InputError(f"{self.name} {what} takes no instruction; leave it out")
        if not self.ranks:
            return self._apart(query, documents)
        whole = [self.tokenizer.pair(query, document, self.context) for document in documents]
        return rank.Pairs([tokens for tokens, _ in whole], sum(cut for _, cut in whole))

    def _apart(self, query: str, documents: Sequence[str]) -> rank.Pairs:
        """A query and documents, each by itself. Raises ContextError for a query that is cut."""
        whole = [self.tokens(text, cut=False) for text in (query, *documents)]
        if len(whole[0]) > self.context:
            raise ContextError(
                f"the query is {len(whole[0])} tokens, and the model reads {self.context} of a text; shorten it"
            )
        cut = sum(len(tokens) > self.context for tokens in whole[1:])
        return rank.Pairs([self.cut(tokens) for tokens in whole], cut, apart=True)

    def classify(self, texts: Sequence[str], *, progress: Progress = silent) -> list[Classified]:
        """Say what each text is, with the trained head. Raises InputError where there is none that classifies."""
        if isinstance(texts, str):
            raise InputError(f"texts is the string {texts!r:.60}; give a list of strings")
        if self.head is None or self.head.kind != "classifier":
            raise InputError(
                f"{self.name} has no head that classifies; load it with one: head=FOLDER, or --head FOLDER"
            )
        vectors = self.embed(texts, progress=progress)
        return classified(self.head.labels, self.head.classify(vectors)) if len(vectors) else []

    def start_ranking(self, pairs: Sequence[Sequence[int]]) -> Encoding | Relevances:
        """Begin to score pairs, each given as the tokens that the model reads. Raises InputError.

        With a trained head, the first is the query, and each other one a document.
        """
        if self.head is not None and self.head.kind == "relevance":
            return Relevances(self.start(pairs), self.head)
        probabilities = np.vectorize(rank.probability, otypes=[np.float64])
        return self._encoding(pairs, USUAL, lambda batch: probabilities(self.run(batch)[: len(batch.texts)]))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top: int | None = None,
        instruction: str | None = None,
        progress: Progress = silent,
    ) -> list[rank.Ranked]:
        """Score documents against a query, best first: see soberano.models.rank."""
        return rank.rerank(self, query, documents, top=top, instruction=instruction, progress=progress)

    def _encoding(self, texts: Sequence[Sequence[int]], batch: int, run: Callable[[Batch], np.ndarray]) -> Encoding:
        size = self.config.vocabulary
        for i, tokens in enumerate(texts):
            bad = next((token for token in tokens if not 0 <= token < size), None)
            if bad is not None:
                raise InputError(f"text {i} holds token {bad}, but ids go from 0 to {size - 1}")
            if not 0 < len(tokens) <= self.context:
                raise InputError(f"text {i} has {len(tokens)} tokens; the model reads 1 to {self.context}")
        return Encoding(texts, batches(texts, batch, pads=self.pads), run)

    def run(self, batch: Batch, pooling: Pooling | None = None) -> np.ndarray:
        """One batch through the model -> (B, width) float32; (B, T, width) for the pooling none.

        Without a pooling, what the model is for: of a cross-encoder, the scores (B, 1).
        """
        send, more = self.home.asarray, list[np.ndarray]()
        key = self._key if pooling is None else self._key._replace(pooling=pooling, ranks=False)
        if key.ranks and getattr(self.config, "types", 1) > 1:
            more = [rank.types(batch.tokens, self.tokenizer.eos)]
        return self.home.to_numpy(self._encode(key, self.weights, *map(send, (batch.tokens, batch.lengths, *more))))

    @property
    def pads(self) -> bool:
        """Whether shapes cost a compilation, so that batches are padded to few of them."""
        return self.home.compiles

    def close(self) -> None:
        """Let go of the weights."""
        self.weights = None

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _context(most: int, wanted: int | None) -> int:
    if wanted is None:
        return most
    if not 2 <= wanted <= most:
        raise InputError(f"context is {wanted}, but the model reads 2 to {most} tokens of a text; ask for that")
    return wanted
