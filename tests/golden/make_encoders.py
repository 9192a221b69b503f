"""Make tests/golden/encoders/<name>.npz; see tokens.md for the versions.

    PYTHONPATH=. python tests/golden/make_encoders.py NAME --transformers PYTHON --llama-cpp PYTHON

The tiny model is written by our writer, and given to programs that know nothing of us: `vectors` is the mean of each
text's vectors and `tokens` the vectors of every fifth token of the last text, by the oracle that <name>.json names
(transformers in float32, or a plain one in float64, oracle_<name>.py); `llama_cpp` is the mean by llama.cpp.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from soberano.models.load import load_encoder
from tests.tiny_encoders import GOLDEN, TEXTS, Tiny

HERE = Path(__file__).parent


def run(python: str, script: str, model: Path, given: Path, out: Path) -> dict[str, np.ndarray]:
    """What an oracle makes of a model and of the tokens in a file."""
    subprocess.run([python, str(HERE / script), str(model), str(given), str(out)], check=True)
    with np.load(out) as found:
        return {key: found[key] for key in found.files}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--transformers", required=True, metavar="PYTHON")
    parser.add_argument("--llama-cpp", required=True, metavar="PYTHON")
    args = parser.parse_args()
    tiny = Tiny(args.name)
    with tempfile.TemporaryDirectory() as folder:
        gguf, given, out = tiny.write_gguf(Path(folder) / "m.gguf"), Path(folder) / "in.json", Path(folder) / "out.npz"
        with load_encoder(gguf, backend="numpy") as model:
            given.write_text(json.dumps([model.tokens(text) for text in TEXTS]))
        if tiny.oracle == "transformers":
            made = run(args.transformers, "oracle_transformers.py", tiny.write_folder(Path(folder) / "m"), given, out)
        else:
            weights = Path(folder) / "m.npz"
            np.savez(weights, **tiny.weights())
            made = run(args.transformers, f"oracle_{tiny.oracle}.py", weights, given, out)
        theirs = run(args.llama_cpp, "oracle_llama_cpp.py", gguf, given, out)["vectors"]
    made = {"vectors": made["vectors"], "tokens": made["tokens"][::5], "llama_cpp": theirs}
    np.savez_compressed(GOLDEN / f"{args.name}.npz", **{key: value.astype(np.float32) for key, value in made.items()})
    print(f"{args.name}: llama.cpp is off by {np.abs(theirs - made['vectors']).max():.2g} at most")


if __name__ == "__main__":
    main()
