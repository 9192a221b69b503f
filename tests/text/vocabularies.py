"""Tokenizers for tests that need no model."""

from typing import Any

from soberano.formats.gguf import Typed
from soberano.text.tokenizer import Tokenizer, from_metadata
from tests.tiny import tokenizer_metadata


def tiny_metadata(**changes: Any) -> dict[str, Any]:
    """The metadata of the tiny model's tokenizer, with keys (under tokenizer.ggml.) changed, or dropped where None."""
    metadata = {k: v.value if isinstance(v, Typed) else v for k, v in tokenizer_metadata().items()}
    for name, value in changes.items():
        metadata[f"tokenizer.ggml.{name}"] = value
    return {k: v for k, v in metadata.items() if v is not None}


def tiny() -> Tokenizer:
    """The tiny model's tokenizer: every byte is a token, 3 control tokens."""
    return from_metadata(tiny_metadata())


def with_tokens(*rows: tuple[str, int], **changes: Any) -> Tokenizer:
    """The tiny tokenizer with more tokens, (spelling, kind) each."""
    metadata = tiny_metadata(**changes)
    metadata["tokenizer.ggml.tokens"] += [spelling for spelling, _ in rows]
    metadata["tokenizer.ggml.token_type"] += [kind for _, kind in rows]
    return from_metadata(metadata)
