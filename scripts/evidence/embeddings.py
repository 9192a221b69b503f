"""Embeddings of real text, for measurements: passages of the shared corpora through all-MiniLM-L6-v2.

soberano pull minilm                  once
make evidence TOPIC=embeddings

The result is kept in the cache folder, and made once.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np

from soberano.core.settings import settings
from soberano.models.load import load_encoder
from soberano.registry.store import resolve

DATA = Path(os.environ.get("SOBERANO_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"


def passages(folder: Path = DATA) -> list[str]:
    """Windows of 32 words, 16 words apart, of every text: overlapping, as the chunks of a retrieval index are."""
    texts = [path.read_text() for path in sorted((folder / "chunking").glob("*.md"))]
    texts += re.findall(
        r'<doc id="\d+">(.*?)</doc>', (folder / "cranfield" / "cran.doc.1400.xml").read_text(), re.DOTALL
    )
    words = [text.split() for text in texts]
    return [" ".join(each[at : at + 32]) for each in words for at in range(0, max(1, len(each) - 16), 16)]


def made(label: str, done: int, total: int | None, unit: str) -> None:
    if label == "embed":
        print(f"\r{label} {done} of {total} {unit}", end="", file=sys.stderr, flush=True)


def embeddings() -> np.ndarray:
    """(N, 384) float32 of all passages, rows of length 1; from the cache if they are there."""
    kept = settings().cache_dir() / "evidence" / "minilm-passages.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with load_encoder(resolve("minilm"), exact=True, progress=made) as model:
            np.save(kept, model.embed(passages()))
        print(file=sys.stderr)
    return np.load(kept)


if __name__ == "__main__":
    rows = embeddings()
    texts = passages()
    print(f"{len(rows)} passages; the three nearest of each of these, by cosine:")
    for i in (0, len(rows) // 2, len(rows) - 1):
        print(f"\n  {texts[i][:100]}")
        for other in np.argsort(-(rows @ rows[i]))[1:4]:
            print(f"    {rows[other] @ rows[i]:.3f}  {texts[other][:100]}")
