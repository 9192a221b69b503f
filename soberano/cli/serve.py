"""`soberano serve MODEL`: the OpenAI-compatible server and its chat page."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from soberano.cli._sampling import add_loading, add_long_chats
from soberano.core.errors import FileError

HELP = "serve a model over the OpenAI protocol, with a chat page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a .gguf file, or the name of a pulled model")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one (default: 8080)")
    parser.add_argument(
        "--demo", action="store_true", help="serve the demo model if none is named, and say what to try"
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="ask clients for the key that stands in this file")
    parser.add_argument("--name", metavar="NAME", help="what clients call the model (default: MODEL, or its stem)")
    parser.add_argument(
        "--head", metavar="FOLDER", help="a head of this encoder: /v1/classify or /v1/rerank answer with it"
    )
    parser.add_argument(
        "--adapter",
        metavar="NAME=FILE",
        action="append",
        default=[],
        type=_named,
        help="a LoRA adapter that clients get as the model NAME, over the same weights; may be given again",
    )
    add_loading(parser)
    add_long_chats(parser)


def run(args: argparse.Namespace) -> int:
    from soberano.registry.store import resolve

    if args.model is None and not args.demo:
        print("soberano: which model? soberano serve MODEL, or --demo for the demo model", file=sys.stderr)
        return 2
    model = args.model or "smollm2"
    path = resolve(model)
    if not 0 <= args.port <= 65535:
        print(f"soberano: --port {args.port} is no port; take one from 0 to 65535", file=sys.stderr)
        return 2
    adapters = dict(args.adapter)
    if len(adapters) < len(args.adapter):
        print("soberano: two adapters have one name; give each --adapter a NAME of its own", file=sys.stderr)
        return 2
    key = _key(args.api_key_file)
    if key is None and args.host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"soberano: listening on {args.host} without --api-key-file: whoever reaches it may use it", file=sys.stderr
        )

    from soberano.cli._terminal import progress
    from soberano.server.app import serve

    with ExitStack() as shown:
        show = shown.enter_context(progress(notes=True))
        serve(
            path,
            args.host,
            args.port,
            demo=args.demo,
            name=args.name or (None if Path(model).expanduser().is_file() else model),
            backend=args.backend,
            context=args.context,
            cache=args.cache,
            adapters=adapters,
            head=args.head,
            api_key=key,
            long_chats=args.long_chats,
            progress=show,
            on_ready=shown.close,  # what is drawn on a terminal makes way for the address
        )
    print("stopped", file=sys.stderr)
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE, as in tuned=adapter/adapter.gguf")
    return name, Path(path)


def _key(path: str | None) -> str | None:
    if path is None:
        return None
    key = Path(path).read_text(encoding="utf-8").strip()
    if not key:
        raise FileError(f"{path} is empty; write the API key into it")
    return key
