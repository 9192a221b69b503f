"""`soberano run MODEL PROMPT`: continue a text, or answer it with --chat."""

import argparse
import json
import sys
from typing import Any

from soberano.cli._sampling import add_model, add_sampling, options_from

HELP = "continue a text, or answer it with --chat; the text streams to standard output"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="the text; - reads it from standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a user's message instead of raw text")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: the system message")
    parser.add_argument("--json", action="store_true", help="print text, tokens, finish reason and timings as JSON")
    add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    from soberano.cli._loading import load_model
    from soberano.core.errors import InputError
    from soberano.core.printable import printable

    options = options_from(args)
    if args.system is not None and not args.chat:
        raise InputError("--system needs --chat: a raw continuation has no system message")
    try:
        text = sys.stdin.read() if args.prompt == "-" else args.prompt
        text.encode()  # an argument that is no text arrives with lone surrogates
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"the prompt is not {error.encoding} text; convert it first") from None
    model = load_model(args)
    try:
        prompt: str | list[int] = text
        if args.chat:
            system = [{"role": "system", "content": args.system}] if args.system is not None else []
            prompt = model.chat_tokens([*system, {"role": "user", "content": text}])
        generation = model.start(prompt, options)
        pieces = []
        interrupted = False
        clean = printable if sys.stdout.isatty() else str
        try:
            for piece in generation:
                pieces.append(piece)
                if not args.json:
                    sys.stdout.write(clean(piece.text))
                    sys.stdout.flush()
        except KeyboardInterrupt:  # what has been said stands, with its numbers
            interrupted = True
        finally:
            generation.close()
        if args.json:
            print(json.dumps(_answer(model, generation, pieces, options), ensure_ascii=sys.stdout.isatty()))
        else:
            print()
            if sys.stderr.isatty():
                print(stats(generation), file=sys.stderr)
        return 130 if interrupted else 0
    finally:
        model.close()


def _answer(model: Any, generation: Any, pieces: list[Any], options: Any) -> dict[str, Any]:
    answer = {
        "text": "".join(piece.text for piece in pieces),
        "tokens": [token for piece in pieces for token in piece.tokens],
        "prompt_tokens": generation.prompt_tokens,
        "finish_reason": generation.finish_reason,
        "timings": generation.timings,
        "model": model.name,
        "backend": model.plan.backend,
    }
    if options.logprobs is not None:
        answer["logprobs"] = [
            {"token": t.token, "text": t.text, "logprob": t.logprob, "top": [list(other) for other in t.top]}
            for piece in pieces
            for t in piece.logprobs
        ]
    return answer


def stats(generation: Any) -> str:
    """One line on how fast a generation was."""
    from soberano.core.units import seconds_text

    timings = generation.timings
    said = [f"{generation.completion_tokens} tokens"]
    if timings.get("decode_tps"):
        said.append(f"{timings['decode_tps']:.0f} tokens/s")
    if timings.get("prefill_tps"):
        said.append(f"prompt of {generation.prompt_tokens} at {timings['prefill_tps']:.0f} tokens/s")
    if timings.get("first_token_s") is not None:
        said.append(f"first token after {seconds_text(timings['first_token_s'])}")
    return f"[{', '.join(said)}]"
