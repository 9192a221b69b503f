"""oracle_yes_no.py FILE.gguf IN.json OUT.npz: how likely a model says yes rather than no, by llama.cpp.

IN holds the questions, as lists of tokens, and the tokens of yes and no.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

path, given, out = sys.argv[1:]
asked = json.loads(Path(given).read_text())
model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
params = llama_cpp.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 512
params.flash_attn_type, params.type_k, params.type_v = 0, 0, 0  # keys and values in float32
found = []
for tokens in asked["questions"]:
    context = llama_cpp.llama_init_from_model(model, params)
    ids = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch only points to it
    batch = llama_cpp.llama_batch_get_one(ids, len(tokens))
    assert llama_cpp.llama_decode(context, batch) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    row = llama_cpp.llama_get_logits_ith(context, -1)
    logits = np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (size,)).astype(np.float64)
    yes, no = np.exp(logits[asked["answers"]] - logits.max())
    found.append(yes / (yes + no))
    llama_cpp.llama_free(context)
np.savez(out, scores=np.array(found))
