"""Make tokens_wordpiece.json with two implementations; see tokens.md for the command and the versions."""

import json
import sys
import tempfile
from pathlib import Path

from transformers import BertTokenizer
from transformers.models.bert_japanese.tokenization_bert_japanese import BasicTokenizer, WordpieceTokenizer

from tests.text.strings import HARD
from tests.text.vocabularies import wordpieces

HERE = Path(__file__).parent
SETTINGS = {
    "uncased": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "accents": {"do_lower_case": True, "strip_accents": False},
    "ideographs": {"do_lower_case": False, "tokenize_chinese_chars": False},
}


class Plain:
    """BERT's own algorithm in plain Python, as transformers keeps it for Japanese."""

    def __init__(self, tokens: list[str], settings: dict[str, bool]) -> None:
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.basic = BasicTokenizer(never_split=[], **settings)
        self.pieces = WordpieceTokenizer(self.ids, "[UNK]")

    def encode(self, text: str) -> list[int]:
        return [self.ids[piece] for word in self.basic.tokenize(text) for piece in self.pieces.tokenize(word)]


def rows(tokens: list[str], settings: dict[str, bool]) -> tuple[list[object], int]:
    """[text, ids] of the library, and [text, ids, ids of the plain algorithm] where they differ; how many do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("".join(f"{token}\n" for token in tokens))
        fast = BertTokenizer(vocab=str(path), **settings)
    plain, found, differ = Plain(tokens, settings), [], 0
    for text in HARD:
        ids, other = fast.encode(text, add_special_tokens=False), plain.encode(text)
        differ += ids != other
        found.append([text, ids] if ids == other else [text, ids, other])
    return found, differ


def main(vocab: str) -> None:
    real = Path(vocab).read_text().removesuffix("\n").split("\n")
    made = {}
    for name, settings in SETTINGS.items():
        made[name], differ = rows(wordpieces(), settings)
        print(f"{name}: {differ} of {len(HARD)} texts differ between the two")
    made["minilm"], differ = rows(real, SETTINGS["uncased"])
    print(f"minilm: {differ} of {len(HARD)} texts differ between the two")
    (HERE / "tokens_wordpiece.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
