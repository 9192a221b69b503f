"""/v1/rerank: documents by how well they answer a query, in the shape of Jina and Cohere.

A document is a string or {"text": string}. One that is longer than the model reads is cut, and usage.truncated says how
many were. Beyond Jina: `instruction`, what makes a document fit, for models that generate text.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from soberano.models.encoder import Encoder
from soberano.models.rank import Pairs, best
from soberano.server import checks
from soberano.server.engine import Loaded
from soberano.server.errors import RequestError

MAX_DOCUMENTS = 2048
NAMES = ("model", "query", "documents", "top_n", "return_documents", "instruction", *checks.LABELS)


@dataclass(frozen=True)
class Asked:
    """One request."""

    model: str | None
    query: str
    documents: tuple[str, ...]
    top: int | None
    return_documents: bool
    instruction: str | None


def read(body: Any, model: Loaded) -> Asked:
    """Read the body. Raises RequestError."""
    body = checks.fields(body, NAMES)
    for name in ("model", "query", "instruction"):
        if name in body:
            checks.text(name, body[name])
    for name, what in (("query", "a string"), ("documents", "a list of strings")):
        if name not in body:
            raise RequestError(f"{name} is missing; send {what}", name, code="missing_parameter")
    if "instruction" in body and isinstance(model, Encoder):
        what = "is a cross-encoder" if model.ranks else "has a head of its own"
        raise RequestError(
            f"instruction is not served: this model {what}; leave it out",
            "instruction",
            code="unsupported_parameter",
        )
    return Asked(
        model=body.get("model"),
        query=body["query"],
        documents=_documents(body["documents"]),
        top=checks.whole("top_n", body["top_n"], 1, 2**31 - 1) if "top_n" in body else None,
        return_documents=checks.boolean("return_documents", body.get("return_documents", False)),
        instruction=body.get("instruction"),
    )


def _documents(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise checks.wrong("documents", value, "a list of at least one document")
    if len(value) > MAX_DOCUMENTS:
        raise RequestError(
            f"documents holds {len(value)}, but one request may hold {MAX_DOCUMENTS}; send several requests",
            "documents",
        )
    found = []
    for i, one in enumerate(value):
        at = f"documents[{i}]"
        if isinstance(one, dict):
            checks.known((f"{at}.{name}" for name in one), [f"{at}.text"])
            one, at = one.get("text"), f"{at}.text"
        found.append(checks.text(at, one))
    return tuple(found)


def pairs(asked: Asked, model: Loaded) -> Pairs:
    """What the model reads. Raises ContextError for a query that leaves no room for documents."""
    return model.pairs(asked.query, asked.documents, asked.instruction)


def body(asked: Asked, scores: np.ndarray, model: str, prompt_tokens: int, cut: int) -> str:
    """The whole answer as JSON, from the scores (N, 1)."""
    results = []
    for each in best(scores[:, 0].tolist(), asked.top):
        result: dict[str, Any] = {"index": each.index, "relevance_score": each.score}
        results.append(result | ({"document": {"text": asked.documents[each.index]}} if asked.return_documents else {}))
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens, "truncated": cut}
    return json.dumps({"object": "list", "model": model, "results": results, "usage": usage})
