"""oracle_cross_encoder.py FOLDER PAIRS.json OUT.npz: what sentence-transformers makes of pairs of texts, before any
activation; and the tokens that transformers' tokenizer makes of them."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

folder, given, out = sys.argv[1:]
_, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
model, pairs = CrossEncoder(folder, device="cpu", max_length=64), json.loads(Path(given).read_text())
queries, texts = zip(*pairs, strict=True)  # together: an empty text alone would count as none
ids = model.tokenizer(list(queries), list(texts), truncation="only_second", max_length=64)["input_ids"]
flat, lengths = np.concatenate(ids), [len(each) for each in ids]
scores = model.predict([tuple(pair) for pair in pairs], activation_fn=torch.nn.Identity(), batch_size=1)
np.savez(out, scores=scores.astype(np.float32), tokens=flat.astype(np.int32), lengths=np.array(lengths, np.int32))
