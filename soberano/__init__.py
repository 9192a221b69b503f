"""Soberano: run, serve, fine-tune and govern AI models on machines you own.

    import soberano

    model = soberano.load("model.gguf")
    for piece in model.generate("Once upon a time"):
        print(piece, end="", flush=True)

Importing this package loads nothing heavy: each name below is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soberano.core import errors as errors
    from soberano.models.encoder import Encoder as Encoder
    from soberano.models.load import load as load
    from soberano.models.model import Model as Model
    from soberano.models.options import Options as Options

__version__ = "0.1.0"

_LAZY = {
    "load": ("soberano.models.load", "load"),
    "Encoder": ("soberano.models.encoder", "Encoder"),
    "Model": ("soberano.models.model", "Model"),
    "Options": ("soberano.models.options", "Options"),
    "errors": ("soberano.core.errors", None),
}

__all__ = ["Encoder", "Model", "Options", "__version__", "errors", "load"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _LAZY[name]
    found = import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
