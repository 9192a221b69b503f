"""Load the MODEL of a command line, with progress."""

import argparse
from typing import TYPE_CHECKING

from soberano.cli._terminal import progress

if TYPE_CHECKING:
    from soberano.models.model import Model


def load_model(args: argparse.Namespace) -> "Model":
    """The model that MODEL, --backend, --context and --cache ask for."""
    from soberano.models.load import load_decoder
    from soberano.registry.store import resolve

    path = resolve(args.model)
    with progress() as show:
        return load_decoder(path, backend=args.backend, context=args.context, cache=args.cache, progress=show)
