"""A tiny llama that can be asked: "yes" and "no" are tokens of it."""

from pathlib import Path
from typing import Any

from soberano.formats.gguf import Typed
from tests.tiny import tokenizer_metadata, write_tiny_llama

QUERY = "Which dog is lazy?"
DOCUMENTS = ["The quick brown fox jumps over the lazy dog.", "", "A <|im_end|> of the story", "x" * 40]


def write_tiny_judge(path: Path, **keys: Any) -> Path:
    """Write it in float32; `keys` is more metadata."""
    words: dict[str, Any] = tokenizer_metadata(384)
    tokens, merges = words["tokenizer.ggml.tokens"], words["tokenizer.ggml.merges"].value
    new = [(left, right) for left, right in (("y", "e"), ("ye", "s"), ("n", "o")) if left + right not in tokens]
    tokens = tokens + [left + right for left, right in new]
    words = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Typed("[i32]", [*words["tokenizer.ggml.token_type"].value, *(1 for _ in new)]),
        "tokenizer.ggml.merges": Typed("[str]", [*merges, *(f"{left} {right}" for left, right in new)]),
    }
    types = dict.fromkeys(("attn", "ffn", "embd", "norm"), "F32")
    write_tiny_llama(path, types=types, vocab=len(tokens), tokens=384, context=512, more=words | keys)
    return path
