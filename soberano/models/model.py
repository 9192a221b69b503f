"""The whole API on a card: `model = soberano.load("smollm2")`, then `model.generate("Once upon a time")`."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soberano.backends.choose import choose, tiles_expected
from soberano.backends.homes import home
from soberano.backends.plan import Role, using
from soberano.backends.tree import map_arrays
from soberano.core.errors import FileError, InputError, UnsupportedModel
from soberano.core.hashing import sha256
from soberano.core.memory import free_memory
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings
from soberano.core.types import Array
from soberano.formats import gguf
from soberano.models import judge, rank
from soberano.models.adapter import adapt, read_adapter, refuse_wrong_base
from soberano.models.architecture import architecture, name_of_file
from soberano.models.cache import Pages, Room, cache_dtype
from soberano.models.generate import Generation
from soberano.models.keys import read_config
from soberano.models.layers import Metadata
from soberano.models.long_chats import Fitted, Policy, fit
from soberano.models.options import Options
from soberano.models.step import Chunk, Draw, Programs
from soberano.models.weights import begin_tiles, find_weights, load_weights, weight_bytes
from soberano.text import tokenizer as tokenizers
from soberano.text.chat import ChatTemplate, encode_chat

log = logging.getLogger("soberano.models")


class Model:
    """A model that is loaded and ready. One thread at a time may start and step its generations."""

    def __init__(
        self,
        path: Path,
        file: gguf.GGUF,
        backend: str | None,
        context: int | None,
        sequences: int,
        cache: str | None,
        adapter: Path | None,
        progress: Progress,
    ) -> None:
        refuse_parts(file)
        self.architecture = said = file.field("general.architecture", str)
        self.module_name = name_of_file(said, file.metadata, path)
        self.module, meta = architecture(self.module_name), Metadata(file, said, wanted=context)
        self.config = read_config(self.module, meta)
        found = find_weights(file, self.module, self.config)
        self.metadata: Mapping[str, Any] = file.metadata
        self._base_hash: str | None = None
        self.path, self.name = path, str(file.metadata.get("general.name") or path.stem)
        self.tokenizer = tokenizers.from_metadata(file.metadata)
        _refuse_more_tokens(path, self.tokenizer.size, self.config.vocabulary)
        self.chat = _template(file, self.tokenizer)
        self.context = _context(self.config.context, meta.length)
        beside = read_adapter(adapter, said, self.module, self.config) if adapter else None
        if beside and adapter:
            refuse_wrong_base(beside, path, adapter, lambda: self.base_hash(progress))
        count = sum(math.prod(t.shape) for t in file.tensors.values())
        free = free_memory()
        early = weight_bytes(found, "tiles") < free and tiles_expected(backend, progress)
        begun = begin_tiles(file, self.module, found, progress) if early else None
        try:
            self.plan = choose(backend, weights=count, progress=progress)
            self.home = home(self.plan.home)
            self.home.persist(settings().cache_dir() / "programs")
            self.programs, c = Programs(self.module_name, self.config, self.plan, self.tokenizer.size), self.config
            dtype = self.programs.cache_dtype if cache is None else cache_dtype(cache, c.head)
            self._room = Room(c.layers, c.kv_heads, c.head, dtype, self.context, sequences)
            if self.plan.platform == "cpu":  # a refusal need not wait for the weights
                size = weight_bytes(found, self.plan.weights)
                log.info("%s", self._room.plan(size, free))
                self._room.check(size, free)
            self.weights = load_weights(file, self.module, found, self.plan, self.home, progress, begun)
            self._base = self.weights
            if beside:
                self.weights = adapt(self._base, map_arrays(self.home.asarray, beside.pairs), beside.scales)
            self.adapters: dict[str, Any] = {}  # the weights with each adapter beside them: those of the base, shared
        finally:
            if begun:
                begun.packing.stop()
        self.pages = Pages(self._room.pages)
        self.epoch = 0  # counts the caches: what a generation wrote is gone when it changes
        self._k, self._v = self._new_cache()

    @property
    def cache_dtype(self) -> Any:
        """The dtype of keys and values."""
        return self._room.dtype

    def base_hash(self, progress: Progress = silent) -> str:
        """The SHA-256 of the model's file, read once."""
        if self._base_hash is None:
            self._base_hash = sha256(self.path, progress)
        return self._base_hash

    def add_adapter(self, name: str, path: Path, progress: Progress = silent) -> None:
        """Hold a LoRA adapter ready: Options(adapter=name) answers with it, and others as before.

        The weights of the base are shared, so an adapter takes its own size. Its first answers compile programs, unless
        one of the same shape did. Raises InputError for a name that is taken, and what reading an adapter raises.
        """
        if name in self.adapters:
            raise InputError(f"two adapters are called {name!r}; give one of them another name")
        beside = read_adapter(path, self.architecture, self.module, self.config)
        refuse_wrong_base(beside, self.path, path, lambda: self.base_hash(progress))
        self.adapters[name] = adapt(self._base, map_arrays(self.home.asarray, beside.pairs), beside.scales)

    def _weights(self, adapter: str | None) -> Any:
        if adapter is None:
            return self.weights
        if adapter not in self.adapters:
            raise InputError(f"no adapter is called {adapter!r}; there are: {', '.join(self.adapters) or 'none'}")
        return self.adapters[adapter]

    def forward(self, chunk: Chunk, role: Role, *, every: bool = False, adapter: str | None = None) -> Array:
        """Run one chunk -> logits (B, V) of token `last` of each row, or (B, T, V) with `every`. Grows the cache.

        A step that raises has left the cache as it was, but for the places of its own tokens; unless it had consumed
        it already: then the cache is lost, `epoch` counts on, and the next step has an empty one.
        """
        weights = self._weights(adapter)
        (logits,) = self._step(lambda k, v: self.programs.forward(weights, k, v, chunk, role, every))
        return logits

    def decode(
        self, token: Array, position: Array, table: Array, draw: Draw, *, sampled: bool, adapter: str | None = None
    ) -> tuple[Any, ...]:
        """Run the last token (B,) of each row and draw the next one, at `position` (B,). Grows the cache.

        Returns (logits (B, V), token, position + 1, penalties). A step that raises does to the cache what it does in
        `forward`.
        """
        weights = self._weights(adapter)
        return self._step(lambda k, v: self.programs.decode(weights, k, v, token, position, table, draw, sampled))

    def _step(self, run: Callable[[Array, Array], tuple[Any, ...]]) -> tuple[Any, ...]:
        if self._k is None:
            self._k, self._v = self._new_cache()
        try:
            *results, self._k, self._v = run(self._k, self._v)
        except BaseException:
            if not (self.home.intact(self._k) and self.home.intact(self._v)):
                self._k = self._v = None
                self.epoch += 1
            raise
        return tuple(results)

    def _new_cache(self) -> tuple[Array, Array]:
        with using(self.plan):
            return self._room.make(self.home)

    def start(self, prompt: str | Sequence[int], options: Options | None = None) -> Generation:
        """Begin an answer to a text or to token ids.

        In a text, special tokens count as such: it is a raw prompt, and yours. Raises ContextError when it is too long,
        InputError for a bad token, CapacityError when the cache has no room beside what runs already.
        """
        tokens = self.tokenizer.encode(prompt, special=True) if isinstance(prompt, str) else list(prompt)
        options = options or Options()
        self._weights(options.adapter)  # raises before there is a generation
        return Generation(self, tokens, options)

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Iterator[str]:
        """Continue a prompt, yielding text as it is made. Options are the fields of soberano.Options."""
        for piece in self.start(prompt, Options(**options)):
            if piece.text:
                yield piece.text

    def pairs(self, query: str, documents: Sequence[str], instruction: str | None = None) -> rank.Pairs:
        """The question that the model is asked about each document: see soberano.models.judge."""
        return judge.pairs(self, query, documents, instruction)

    def start_ranking(self, pairs: Sequence[Sequence[int]]) -> judge.Judging:
        """Begin to score documents. Raises InputError, and CapacityError as `start` does."""
        return judge.Judging(self, pairs)

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

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]], **extra: Any) -> list[int]:
        """The prompt for a conversation, by the model's own template; special tokens inside a message stay text."""
        if self.chat is None:
            raise InputError(f"{self.name} has no chat template, so it cannot chat; give it a plain prompt")
        return encode_chat(self.tokenizer, self.chat, messages, **extra)

    def fit_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        long_chats: Policy = "refuse",
        *,
        answer: int | None = None,
        **extra: Any,
    ) -> Fitted:
        """The prompt for a conversation that may be too long for the context: see soberano.models.long_chats."""
        return fit(self, messages, long_chats, answer=answer, **extra)

    def wait(self) -> None:
        """Wait until every step that was begun is computed: a home may work ahead of its caller."""
        if self._k is not None:
            self.home.synchronize(self._k)

    def close(self) -> None:
        """Let go of the weights, the cache and the template's worker."""
        if self.chat is not None:
            self.chat.close()
        self.weights = self._base = self._k = self._v = None
        self.adapters = {}

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_parts(file: gguf.GGUF) -> None:
    """Raise UnsupportedModel for a file that is one part of a split model."""
    parts = file.metadata.get("split.count", 1)
    if parts != 1:
        raise UnsupportedModel(
            f"{file.path} is one part of a split model (split.count is {parts!r:.20}), and parts cannot be loaded yet; "
            f"join them with llama.cpp's `llama-gguf-split --merge`"
        )


def _refuse_more_tokens(path: Path, tokens: int, embedded: int) -> None:
    """Fewer are fine, as embeddings are often padded: the programs leave out the logits of what is no token."""
    if tokens > embedded:
        raise FileError(
            f"{path}: the tokenizer has {tokens} tokens (tokenizer.ggml.tokens), but the embedding (token_embd.weight) "
            f"has only {embedded}; the two are not of one model: get the file again or convert it again"
        )


def _context(trained: int, wanted: int) -> int:
    if not 0 < wanted <= trained:
        raise InputError(f"context is {wanted}, but the model was trained for {trained} tokens; ask for 1 to {trained}")
    return wanted


def _template(file: gguf.GGUF, tokenizer: tokenizers.Tokenizer) -> ChatTemplate | None:
    source = file.metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        return None
    named = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos}
    return ChatTemplate(source, {key: tokenizer.text_of(i) for key, i in named.items() if i is not None})
