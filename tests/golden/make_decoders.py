"""Make the logits of the decoders' golden files with llama.cpp; see tokens.md for the versions.

    PEER_PYTHON=... PYTHONPATH=. python tests/golden/make_decoders.py [ARCHITECTURE ...]

PEER_PYTHON has llama-cpp-python. A new architecture needs a file decoders/<architecture>.json with its metadata, and
this run.
"""

import base64
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from soberano.bench.peers import Peer
from tests.tiny_decoders import GOLDEN, VOCABULARY, recipe, write_tiny

POSITIONS = [0, 1, 5, 12, 20, 33, 47]

for name in sys.argv[1:] or sorted(path.stem for path in GOLDEN.glob("*.json")):
    told = recipe(name)
    tokens = np.random.default_rng(7).integers(3, VOCABULARY, POSITIONS[-1] + 1).tolist()
    with tempfile.TemporaryDirectory() as folder:
        write_tiny(Path(folder) / "tiny.gguf", name)
        how = {"python": os.environ["PEER_PYTHON"], "flash": False, "exact": True}
        with Peer("llama.cpp", Path(folder) / "tiny.gguf", 1, told["context"], **how) as peer:
            peer.ask(do="logits", tokens=tokens, single=False, out=f"{folder}/logits.npy")
        logits = np.load(f"{folder}/logits.npy")[POSITIONS]
    told |= {
        "made_by": f"llama-cpp-python {peer.info['version']}",
        "tokens": tokens,
        "positions": POSITIONS,
        "logits": base64.b64encode(logits.astype("<f4").tobytes()).decode(),
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{name}: logits of {logits.std():.3f} about {logits.mean():.3f}")
