"""Make tests/golden/rankers/<name>.npz with sentence-transformers and transformers; see tokens.md for the versions.

    PYTHONPATH=. python tests/golden/make_rankers.py NAME --oracle PYTHON

`scores` are what the head makes of QUERY with each of TEXTS; `tokens` those that it was given, one pair after another,
and `lengths` how many each has. For the name llama, `scores` are how likely a tiny llama says yes, by llama.cpp.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from soberano.models.load import load_decoder
from tests import tiny_judge
from tests.tiny_encoders import QUERY, RANKERS, TEXTS, Tiny
from tests.tiny_judge import write_tiny_judge


def cross_encoder(name: str, python: str, temporary: Path) -> None:
    folder, given = Tiny(name, RANKERS).write_folder(temporary / "m"), temporary / "in.json"
    named = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {
        "tokenizer_class": "BertTokenizer",
        "model_input_names": named if name == "bert" else [named[0], named[2]],
        **{f"{token}_token": f"[{token.upper()}]" for token in ("cls", "sep", "unk", "pad", "mask")},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    given.write_text(json.dumps([[QUERY, text] for text in TEXTS]))
    run(python, "oracle_cross_encoder.py", folder, given, name)


def judge(python: str, temporary: Path) -> None:
    path, given = write_tiny_judge(temporary / "m.gguf"), temporary / "in.json"
    with load_decoder(path, backend="numpy") as model:
        answers = [model.tokenizer.encode(word)[0] for word in ("yes", "no")]
        questions = model.pairs(tiny_judge.QUERY, tiny_judge.DOCUMENTS).tokens
    given.write_text(json.dumps({"questions": questions, "answers": answers}))
    run(python, "oracle_yes_no.py", path, given, "llama")


def run(python: str, script: str, model: Path, given: Path, name: str) -> None:
    made = RANKERS / f"{name}.npz"
    subprocess.run([python, str(Path(__file__).with_name(script)), str(model), str(given), str(made)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--oracle", required=True, metavar="PYTHON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if args.name == "llama":
            judge(args.oracle, Path(temporary))
        else:
            cross_encoder(args.name, args.oracle, Path(temporary))


if __name__ == "__main__":
    main()
