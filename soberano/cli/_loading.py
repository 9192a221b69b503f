"""Load the MODEL of a command line, with progress."""

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from soberano.cli._terminal import progress

if TYPE_CHECKING:
    from soberano.models.model import Model


def load_model(args: argparse.Namespace) -> "Model":
    """The model that MODEL and the flags on how it is run ask for."""
    from soberano.models.load import load_decoder
    from soberano.registry.store import resolve

    path = resolve(args.model)
    with progress() as show, _nothing_to_collect():
        how = {"backend": args.backend, "context": args.context, "cache": args.cache, "adapter": args.adapter}
        return load_decoder(path, **how, progress=show)


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Keep the garbage collector from walking through what is being imported and loaded: it stays until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
