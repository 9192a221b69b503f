"""Run what clients will ask for before they do, so that nobody waits while a program is compiled.

What a short chat needs comes before the server says its address. The rest follows when the engine has nothing else to
do, a little at a time: a program that is compiled later, for the first client who needs it, holds up every answer.
"""

import time
from collections.abc import Iterator
from contextlib import suppress

from soberano.core.errors import SoberanoError
from soberano.core.progress import Progress
from soberano.models.encoder import Encoder
from soberano.models.model import Model
from soberano.models.options import Options
from soberano.models.step import CHUNKS

BRIEF_S = 0.5
"""A chunk that takes longer holds up other answers whether or not it is compiled: running it beforehand gains little,
and who comes first would have to wait for it."""


def warm_up(model: Model | Encoder, progress: Progress) -> None:
    """Run what a short chat runs, or embed a sentence, or rank one.

    A prompt of 80 tokens is a chunk of 64 and one of 16: the template of many a model takes more than 16 by itself.
    """
    if isinstance(model, Encoder):
        sentence = "A sentence as people search for."
        if model.ranks:
            model.rerank(sentence, [sentence], progress=progress)
        else:
            model.embed(sentence, progress=progress)
        return
    asked = [(80, Options(max_tokens=2, ignore_eos=True)), (1, Options(max_tokens=2, temperature=0, ignore_eos=True))]
    asked += [(80, Options(max_tokens=2, ignore_eos=True, adapter=name)) for name in model.adapters]
    for done, (tokens, options) in enumerate(asked):
        for _ in _steps(model, tokens, options):
            progress("warm up", done, len(asked), "answers")
        progress("warm up", done + 1, len(asked), "answers")
    if model.chat is not None:
        with suppress(SoberanoError):  # a template that fails is told to who chats; completions need none
            model.chat_tokens([{"role": "user", "content": "hi"}])  # starts the process that renders it


def warm_rest(model: Model | Encoder) -> Iterator[None]:
    """Run penalties and long prompts, a program or two after each `next`; nothing is held in between."""
    if isinstance(model, Encoder) or not model.programs.pads:
        return
    for temperature in (0.8, 0.0):
        for tokens in (1, 2):  # drawn from a prompt, drawn from a token
            options = Options(max_tokens=tokens, temperature=temperature, presence_penalty=1.0, ignore_eos=True)
            _answer(model, 1, options)
            yield
    one = Options(max_tokens=1, ignore_eos=True)
    began = time.perf_counter()
    _answer(model, CHUNKS[1], one)
    seconds = (time.perf_counter() - began) / CHUNKS[1]  # for a token
    for size in CHUNKS[2:]:
        if size < model.context - 1 and seconds * size < BRIEF_S:
            _answer(model, size, one)
            yield


def _answer(model: Model, tokens: int, options: Options) -> None:
    for _ in _steps(model, tokens, options):
        pass


def _steps(model: Model, tokens: int, options: Options) -> Iterator[None]:
    """Answer a prompt of so many tokens, or as many as the context holds; yields before each step."""
    generation = model.start([0] * max(1, min(tokens, model.context - 2)), options)
    try:
        while not generation.done:
            yield
            generation.step()
    finally:
        generation.close()
