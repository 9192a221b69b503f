"""A llama small enough to make in a moment: random weights, a real byte-level tokenizer, a ChatML template.

The file is a complete GGUF model, in any mix of weight formats, that this project and llama.cpp load alike.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from soberano.formats.gguf import Typed, write
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode

TYPES = {"attn": "Q4_1", "ffn": "Q4_1", "embd": "Q8_0", "norm": "F32"}
"""The formats of a tiny model, by the role of a tensor: attn, ffn, embd (token_embd and output), norm."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Control tokens 0, 1 and 2; 1 begins a text, 2 ends it."""

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TEXT = """
The quick brown fox jumps over the lazy dog while the other dogs are sleeping in the garden. Once upon a time there was
a little girl who lived in a house near the forest, and she was thinking about the stars, the water and the morning.
What is the capital of the country? The answer is that there are three of them, and that nobody knows which one to name.
"""


def write_tiny_llama(
    path: str | os.PathLike[str],
    *,
    types: Mapping[str, str] | Callable[[str], str] | None = None,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int | None = None,
    vocab: int = 384,
    context: int = 256,
    seed: int = 0,
    tied: bool = True,
    tokens: int | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write a llama with random weights whose activations stay near 1 and whose logits spread over a few units.

    `types` names the format of each role (missing roles as in TYPES), or is a function from tensor name to format name.
    Rows are `width` and `ffn` long: k-quants need both to be multiples of 256. `vocab` is at least 259: 3 control and
    256 byte tokens, then merges, then unused ones. Not tied: a tensor output.weight of its own. The tokenizer has
    `tokens` tokens, as many as the embedding unless it is padded or damaged. `more` is metadata that comes last.
    """
    ffn = 2 * width if ffn is None else ffn
    keys = width // heads * kv_heads
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (vocab, width)
    for i in range(layers):
        block = {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (keys, width),
            "attn_v": (keys, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (ffn, width),
            "ffn_up": (ffn, width),
            "ffn_down": (width, ffn),
        }
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in block.items()}
    named = types if callable(types) else lambda name: {**TYPES, **(types or {})}[_role(name)]
    tensors = {}
    for name, shape in shapes.items():
        kind = format_named(named(name))
        tensors[name] = (kind, encode(kind, _weights(rng, name, shape)))
    head = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny Llama",
        "general.size_label": f"{layers}x{width}",
        "general.quantization_version": 2,
        "general.file_type": 0,
        "llama.block_count": layers,
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": width // heads,
        "llama.vocab_size": vocab,
    }
    write(path, head | tokenizer_metadata(vocab if tokens is None else tokens) | dict(more or {}), tensors)


def _role(name: str) -> str:
    if "norm" in name:
        return "norm"
    return next((role for role in ("attn", "ffn") if role in name), "embd")


def _weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if _role(name) == "norm":
        return 1 + noise / 10
    return noise * np.float32((2 if _role(name) == "embd" else 1) / np.sqrt(shape[-1]))


def tokenizer_metadata(vocab: int = 384) -> dict[str, object]:
    """The metadata of a byte-level BPE tokenizer in GPT-2's spelling, with merges learnt from a few sentences."""
    alphabet = byte_spelling()
    tokens = [*SPECIAL, *alphabet]
    if vocab < len(tokens):
        raise ValueError(f"a vocabulary of {vocab} has no room for {len(tokens)} control and byte tokens")
    merges = _learn_merges(vocab - len(tokens), alphabet)
    tokens += [left + right for left, right in merges]
    unused = [f"<|unused_{i}|>" for i in range(vocab - len(tokens))]
    types = [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)) + [5] * len(unused)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens + unused,
        "tokenizer.ggml.token_type": Typed("[i32]", types),
        "tokenizer.ggml.merges": Typed("[str]", [f"{left} {right}" for left, right in merges]),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def byte_spelling() -> list[str]:
    """How GPT-2 writes each byte as a character: itself where it prints, else the next free one from U+0100 on."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in prints]
    return [chr(byte) if byte in prints else chr(0x100 + hidden.index(byte)) for byte in range(256)]


def _learn_merges(count: int, alphabet: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding as it was first described: join the commonest pair, again and again; ties by spelling."""
    words = Counter(tuple(alphabet[byte] for byte in f" {word}".encode()) for word in _TEXT.split())
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({_joined(word, best): times for word, times in words.items()})
    return merges


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)
