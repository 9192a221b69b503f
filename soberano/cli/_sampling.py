"""The flags of a generation: one for every field of Options but one, and the way from the flags to the Options."""

import argparse
from dataclasses import Field, fields
from typing import Any

from soberano.core.errors import InputError
from soberano.models.options import LONG_CHATS, Options

FLAGS: dict[str, tuple[tuple[str, ...], type | None, str]] = {
    "max_tokens": (
        ("-n", "--max-tokens"),
        int,
        "stop after N tokens; without it, at the end of the answer or the context",
    ),
    "temperature": (("--temperature",), float, "0 always takes the likeliest token, higher is more varied"),
    "top_k": (("--top-k",), int, "keep the K likeliest tokens; 0 keeps all"),
    "top_p": (("--top-p",), float, "keep the likeliest tokens that together reach this probability; 1 keeps all"),
    "min_p": (("--min-p",), float, "drop tokens less likely than this share of the likeliest; 0 drops none"),
    "repeat_penalty": (("--repeat-penalty",), float, "divide the logits of tokens that were used; 1 does nothing"),
    "presence_penalty": (("--presence-penalty",), float, "subtract this from tokens that were used"),
    "frequency_penalty": (("--frequency-penalty",), float, "subtract this for each time that a token was used"),
    "seed": (("--seed",), int, "same seed, same answer"),
    "stop": (("--stop",), str, "stop before this text; may be given again"),
    "logprobs": (
        ("--logprobs",),
        int,
        "ask for the log-probability of each token, and of N alternatives; JSON shows them",
    ),
    "logit_bias": (("--logit-bias",), str, "add BIAS to the logit of a token id; may be given again"),
    "ignore_eos": (("--ignore-eos",), None, "go on after the end-of-text token"),
}


METAVARS = {"stop": "TEXT", "logit_bias": "TOKEN=BIAS"}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the sampling flags. Those that are not given leave no trace in the arguments."""
    group = parser.add_argument_group("sampling")
    for field in _of_flags():
        flags, kind, text = FLAGS[field.name]
        if kind is None:
            group.add_argument(*flags, dest=field.name, action="store_true", default=argparse.SUPPRESS, help=text)
            continue
        default = f" (default {field.default})" if isinstance(field.default, int | float) else ""
        action = "append" if field.default == () else "store"
        group.add_argument(
            *flags,
            dest=field.name,
            type=kind,
            action=action,
            default=argparse.SUPPRESS,
            metavar=METAVARS.get(field.name, "N" if kind is int else "X"),
            help=text + default,
        )


def options_from(args: argparse.Namespace, **defaults: object) -> Options:
    """The Options that the flags ask for. Raises InputError naming the parameter."""
    given = {f.name: getattr(args, f.name) for f in _of_flags() if hasattr(args, f.name)}
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    if "logit_bias" in given:
        given["logit_bias"] = tuple(_bias(text) for text in given["logit_bias"])
    return Options(**{**defaults, **given})


def _of_flags() -> list[Field[Any]]:
    """All fields but the adapter: a command loads one with the model, and calls it by no name."""
    return [field for field in fields(Options) if field.name != "adapter"]


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise InputError(f"--logit-bias {text!r} does not read as TOKEN=BIAS, for example 42=-5.5") from None


def add_model(parser: argparse.ArgumentParser, what: str = "a .gguf file, or the name of a pulled model") -> None:
    """Add MODEL and how it is run."""
    parser.add_argument("model", metavar="MODEL", help=what)
    add_loading(parser)
    parser.add_argument("--adapter", metavar="FILE", help="a LoRA adapter of the model, as a .gguf file")


def add_long_chats(parser: argparse.ArgumentParser) -> None:
    """Add the flag on conversations that no longer fit."""
    text = "what to do when a conversation no longer fits the context: refuse it, or slide: leave out the oldest turns"
    parser.add_argument("--long-chats", choices=LONG_CHATS, default="refuse", help=f"{text} (default: refuse)")


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add the flags on how a model is run."""
    text = "auto, cpu, cuda, xla, numpy or an installed one (default: SOBERANO_BACKEND, else auto)"
    parser.add_argument("--backend", metavar="NAME", help=text)
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens of prompt and answer together (default: the model's, at most 4096)",
    )
    parser.add_argument(
        "--cache",
        metavar="TYPE",
        help="what keys and values are kept as: f16, bf16, or q8_0 in half the memory (default: f16)",
    )
