"""oracle_transformers.py FOLDER TOKENS.json OUT.npz: the vectors of an encoder, by transformers in float32."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

folder, given, out = sys.argv[1:]
model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
assert all(name.startswith("pooler.") for name in report["missing_keys"]), report
found = []
with torch.inference_mode():
    for tokens in json.loads(Path(given).read_text()):
        ids = torch.tensor([tokens])
        found.append(model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy())
np.savez(out, vectors=np.array([each.mean(0) for each in found]), tokens=found[-1])
