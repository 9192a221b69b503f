"""/v1/classify: what texts are, by a head that was trained on the encoder, in the shape of Jina.

Jina's `labels` are not served: the head knows its labels, and no others. A text that is longer than the context is
refused, unless the client sends `truncate`: true.
"""

import json
from typing import Any

import numpy as np

from soberano.models.classify import classified
from soberano.models.encoder import Encoder
from soberano.models.trained_head import TrainedHead
from soberano.server import checks, embeddings
from soberano.server.errors import RequestError

NAMES = ("input", "model", "truncate", "labels", *checks.LABELS)


def read(body: Any, model: Encoder) -> embeddings.Asked:
    """Read the body: that of embeddings, with less to wish for. Raises RequestError."""
    body = checks.fields(body, NAMES)
    if "labels" in body:
        raise RequestError(
            "labels is not served: the head of this server has its own; leave it out",
            "labels",
            code="unsupported_parameter",
        )
    return embeddings.read(body, model)


def body(head: TrainedHead, vectors: np.ndarray, model: str, prompt_tokens: int) -> str:
    """The whole answer as JSON, from the vectors (N, D); predictions are the likeliest first."""
    data = [
        {
            "object": "classification",
            "index": i,
            "prediction": found.label,
            "score": found.score,
            "predictions": [{"label": label, "score": score} for label, score in found.predictions],
        }
        for i, found in enumerate(classified(head.labels, head.classify(vectors)))
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage})
