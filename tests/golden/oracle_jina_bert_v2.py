"""oracle_jina_bert_v2.py WEIGHTS.npz TOKENS.json OUT.npz: the vectors of a Jina Embeddings 2, plainly and in float64.

Written after the model's description (arXiv:2310.19923), with the names of GGUF. transformers has no such model.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

EPS = 1e-5
w = {name: value.astype(np.float64) for name, value in np.load(sys.argv[1]).items()}


def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]


def affine(x, name):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def gelu(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x, at, heads):
    q, k, v = (affine(x, f"{at}.attn_{each}") for each in "qkv")
    if f"{at}.attn_q_norm.weight" in w:
        q, k = norm(q, f"{at}.attn_q_norm"), norm(k, f"{at}.attn_k_norm")
    size, seen = q.shape[1] // heads, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        for i in range(len(x)):
            for j in range(len(x)):
                scores[i, j] -= abs(i - j) * 2 ** (-8 * (h + 1) / heads)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    return affine(np.concatenate(seen, -1), f"{at}.attn_output")


def gated(x, at):
    if f"{at}.ffn_gate.weight" in w:
        gate, up = affine(x, f"{at}.ffn_gate"), affine(x, f"{at}.ffn_up")
    else:
        gate, up = np.split(affine(x, f"{at}.ffn_up"), 2, -1)
    return affine(gelu(gate) * up, f"{at}.ffn_down")


def encode(tokens):
    x = norm(w["token_embd.weight"][tokens] + w["token_types.weight"][0], "token_embd_norm")
    for i in range(4):
        at = f"blk.{i}"
        h = norm(x + attention(x, at, 4 if f"{at}.attn_q_norm.weight" in w else 2), f"{at}.attn_output_norm")
        if f"{at}.attn_norm_2.weight" in w:
            h = norm(x + h, f"{at}.attn_norm_2")
        x = norm(h + gated(h, at), f"{at}.layer_output_norm")
    return x


found = [encode(tokens) for tokens in json.loads(Path(sys.argv[2]).read_text())]
np.savez(sys.argv[3], vectors=np.array([each.mean(0) for each in found]), tokens=found[-1])
