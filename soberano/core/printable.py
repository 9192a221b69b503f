"""Text from files, models and clients, made harmless for a terminal and for a log."""

import unicodedata


def printable(text: str, *, lines: bool = True) -> str:
    """`text` without control and direction characters: what a file or a model says must not drive the terminal.

    Line ends and tabs stay, unless `lines` is false: then the answer is sure to be one line.

    >>> ascii(printable("a\\x1b[2Jb"))
    "'a\\\\ufffd[2Jb'"
    """
    keep = "\n\t" if lines else ""
    return "".join(c if c in keep or _harmless(c) else "\ufffd" for c in text)


def _harmless(character: str) -> bool:
    joins_emoji_or_letters = character in "\u200c\u200d"
    return joins_emoji_or_letters or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
