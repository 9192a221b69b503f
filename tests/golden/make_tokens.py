"""Make tokens_smollm2.json and tokens_pre.json with llama.cpp; see tokens.md for the command and the versions."""

import json
import sys
import tempfile
from pathlib import Path

import llama_cpp

from soberano.formats.gguf import Typed, write
from tests.text.strings import CUTS, HARD, pair_metadata

HERE = Path(__file__).parent
FAMILIES = """
    default gpt-2 smollm llama-bpe dbrx glm4 qwen2 qwen35 ufakzeka seed-coder minicpm5 tekken gpt-4o falcon
    deepseek-coder deepseek-v3 bloom viking
""".split()  # noqa: SIM905  a table of names


@llama_cpp.llama_log_callback
def silent(*_: object) -> None:
    """llama.cpp logs tokens that are no UTF-8, which llama_cpp's own logger cannot print."""


class Oracle:
    """llama.cpp's tokenizer for one file."""

    def __init__(self, path: str | Path) -> None:
        settings = llama_cpp.llama_model_default_params()
        settings.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        room = (llama_cpp.llama_token * (3 * len(data) + 8))()  # a space has three bytes there
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), room, len(room), False, special)
        return list(room[:count])

    def ends(self) -> list[int]:
        count = llama_cpp.llama_vocab_n_tokens(self.vocab)
        return [i for i in range(count) if llama_cpp.llama_vocab_is_eog(self.vocab, i)]


def save(name: str, value: object) -> None:
    (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


def main(model: str) -> None:
    llama_cpp.llama_log_set(silent, None)
    oracle = Oracle(model)
    rows = [[text, oracle.encode(text, False), oracle.encode(text, True)] for text in HARD]
    save("tokens_smollm2.json", {"ends": oracle.ends(), "rows": rows})
    cuts = {}
    with tempfile.TemporaryDirectory() as folder:
        for pre in FAMILIES:
            path = Path(folder) / "vocab.gguf"
            metadata = pair_metadata(pre)
            kinds = Typed("[i32]", metadata["tokenizer.ggml.token_type"])
            write(path, {"general.architecture": "llama", **metadata, "tokenizer.ggml.token_type": kinds}, {})
            small = Oracle(path)
            cuts[pre] = [small.encode(text, False) for text in CUTS]
    save("tokens_pre.json", cuts)


if __name__ == "__main__":
    main(sys.argv[1])
