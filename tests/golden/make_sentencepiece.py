"""Make tokens_scored.json, and tokens_gemma3.json of a file, with llama.cpp; see tokens.md for the command."""

import sys
import tempfile
from pathlib import Path

import llama_cpp

from soberano.formats.gguf import Typed, write
from tests.golden.make_tokens import Oracle, save, silent
from tests.text.strings import HARD, SCORED, scored_metadata


def rows(path: str | Path) -> dict[str, object]:
    """For each text of HARD: its ids, and those with special tokens parsed where they differ."""
    oracle, found = Oracle(path), []
    for text in HARD:
        plain, special = oracle.encode(text, False), oracle.encode(text, True)
        found.append([plain] if plain == special else [plain, special])
    return {"ends": oracle.ends(), "rows": found}


def main(gemma3: str) -> None:
    llama_cpp.llama_log_set(silent, None)
    save("tokens_gemma3.json", rows(gemma3))
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in SCORED.items():
            metadata = {"general.architecture": "llama", **scored_metadata(**changes)}
            for key, kind in (("token_type", "[i32]"), ("scores", "[f32]")):
                metadata[f"tokenizer.ggml.{key}"] = Typed(kind, metadata[f"tokenizer.ggml.{key}"])
            path = Path(folder) / "vocab.gguf"
            write(path, metadata, {})
            made[name] = rows(path)
    save("tokens_scored.json", made)


if __name__ == "__main__":
    main(sys.argv[1])
