"""Make bert_tiny.npz with sentence-transformers from tests/tiny_bert.py; see tokens.md for the versions."""

import tempfile
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from tests.tiny_bert import write_folder

TEXTS = ["", "the", "Hello world", "the quick brown fox", "naïve café!" * 3, "x" * 200, "a b c d e f g h " * 20]

made = {}
for pooling in ("mean_tokens", "cls_token"):
    for normalize in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            model = SentenceTransformer(
                str(write_folder(Path(folder), pooling=pooling, normalize=normalize)), device="cpu"
            )
            made[f"{pooling}_{normalize}"] = model.encode(TEXTS)
np.savez(Path(__file__).with_name("bert_tiny.npz"), texts=np.array(TEXTS), **made)
