"""Which file of this folder reads an architecture: the one that has its name.

The contract of such a file, soberano/models/<general.architecture>.py (dashes become underscores):

    Config      a frozen dataclass with Config.from_gguf(Metadata); has layers, kv_heads, head, vocabulary, context
    Weights     a NamedTuple; a field is the tensor <field>.weight, and blk is a Layer; None as default means it may be
    absent
    Layer       a NamedTuple; a field is the tensor blk.<i>.<field>.weight (a name that ends in _bias:
    blk.<i>.<name>.bias)
    shapes      Config -> the shape of every field
    forward     (weights, tokens, Cache, Config, last) -> (logits, Cache)
"""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from soberano.core.errors import UnsupportedModel

_OURS = {"architecture", "cache", "generate", "layers", "model", "options", "step", "weights"}


def known() -> list[str]:
    """The architectures that have a file here."""
    names = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(name for name in names if name not in _OURS and not name.startswith("_"))


def architecture(name: str, path: object = "the model") -> Any:
    """The module of an architecture. Raises UnsupportedModel, naming it, when there is none."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z0-9_]{1,40}", module) or module not in known():
        raise UnsupportedModel(
            f"{path}: the architecture is {name!r}, which is not supported; known are {', '.join(known())}"
        )
    dotted = f"soberano.models.{module}"
    assert find_spec(dotted)
    return import_module(dotted)
