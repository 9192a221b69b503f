"""/v1/embeddings: what clients may ask of an encoder, and what they get back, in OpenAI's shape.

Token ids are taken as they are: they are what the model reads, its special tokens included. A text that is longer than
the context is refused, as OpenAI refuses it, unless the client sends `truncate`: true (beyond OpenAI).
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web

from soberano.core.errors import ContextError
from soberano.models.encoder import Encoder, Options
from soberano.models.encoding import Vectors
from soberano.server import checks
from soberano.server.errors import Cancelled, RequestError
from soberano.server.jobs import Failed, Finished
from soberano.server.run import Run
from soberano.server.stream import gone

MAX_TEXTS = 2048
FORMATS = ("float", "base64")
NAMES = ("input", "model", "encoding_format", "dimensions", "truncate", *checks.LABELS)


@dataclass(frozen=True)
class Asked:
    """One request."""

    model: str | None
    texts: tuple[str | tuple[int, ...], ...]
    options: Options
    base64: bool
    truncate: bool


def read(body: Any, model: Encoder) -> Asked:
    """Read the body. Raises RequestError, or ContextError for token ids that cannot fit."""
    body = checks.fields(body, NAMES)
    if "input" not in body:
        raise RequestError("input is missing; send a string or a list of strings", "input", code="missing_parameter")
    shape = body.get("encoding_format", FORMATS[0])
    if shape not in FORMATS:
        raise checks.wrong("encoding_format", shape, " or ".join(map(repr, FORMATS)))
    dimensions = checks.whole("dimensions", body["dimensions"], 1, model.width) if "dimensions" in body else None
    return Asked(
        model=checks.text("model", body["model"]) if "model" in body else None,
        texts=_texts(body["input"], model),
        options=Options(dimensions=dimensions),
        base64=shape == "base64",
        truncate=checks.boolean("truncate", body.get("truncate", False)),
    )


def _texts(value: Any, model: Encoder) -> tuple[str | tuple[int, ...], ...]:
    many = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    if len(many) > MAX_TEXTS:
        raise RequestError(
            f"input holds {len(many)} texts, but one request may hold {MAX_TEXTS}; send several requests", "input"
        )
    found: list[str | tuple[int, ...]] = []
    for i, one in enumerate(many):
        at = f"input[{i}]" if many is value else "input"
        if isinstance(one, str):
            found.append(checks.text(at, one))
        elif isinstance(one, list) and one:
            _fits(at, len(one), model)
            found.append(tuple(checks.whole(at, token, 0, model.config.vocabulary - 1) for token in one))
        else:
            raise checks.wrong(at, one, "a string, a list of token ids, or a list of either")
    return tuple(found)


def tokens(asked: Asked, model: Encoder) -> list[Sequence[int]]:
    """What the model reads of each text. Raises ContextError for one that would have to be cut."""
    found: list[Sequence[int]] = []
    for i, text in enumerate(asked.texts):
        if isinstance(text, str):
            whole = model.tokens(text, cut=asked.truncate)
            _fits(f"input[{i}]", len(whole), model)
            found.append(whole)
        else:
            found.append(text)
    return found


def _fits(param: str, count: int, model: Encoder) -> None:
    if count > model.context:
        raise ContextError(
            f"{param}: {count} tokens, but the model reads {model.context} of a text; send less, or truncate: true"
        )


async def collect(request: web.Request, run: Run, count: int, heartbeat_s: float) -> tuple[np.ndarray, int]:
    """Wait for the vectors (count, dimensions), and the number of tokens read. Raises what failed, or Cancelled."""
    rows: list[np.ndarray | None] = [None] * count
    prompt_tokens = 0
    async for batch in run.batches(heartbeat_s):
        if gone(request):
            raise Cancelled
        for _, event in batch:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Vectors):
                for place, row in zip(event.places, event.rows, strict=True):
                    rows[place] = row
            elif isinstance(event, Finished):
                prompt_tokens = event.prompt_tokens
    return np.stack([row for row in rows if row is not None]), prompt_tokens


def body(asked: Asked, vectors: np.ndarray, model: str, prompt_tokens: int) -> str:
    """The whole answer as JSON. base64 holds little-endian float32."""
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if asked.base64 else row.tolist(),
        }
        for i, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage})
