"""oracle_llama_cpp.py FILE.gguf TOKENS.json OUT.npz: the mean vectors of an encoder, by llama.cpp, not normalised."""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

path, given, out = sys.argv[1:]
model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
params = llama_cpp.llama_context_default_params()
params.embeddings, params.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_MEAN
params.n_ctx = params.n_batch = params.n_ubatch = 64
context = llama_cpp.llama_init_from_model(model, params)
width, found = llama_cpp.llama_model_n_embd(model), []
for tokens in json.loads(Path(given).read_text()):
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert llama_cpp.llama_encode(context, batch) == 0
    row = llama_cpp.llama_get_embeddings_seq(context, 0)
    found.append(np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (width,)).copy())
np.savez(out, vectors=np.array(found))
