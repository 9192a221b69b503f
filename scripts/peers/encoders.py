"""The peers of scripts/evidence/encoder.py, each at its best settings: sentence-transformers, onnxruntime, OpenVINO.

Runs under PEER_PYTHON. A line of JSON on standard input is a command, a line on standard output its answer:
{"ids": texts}, {"embed": texts, "to": file.npy}, {"engines": true}, {"time": engine, "texts": texts}.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

BATCH = 32
Embed = Callable[[list[str]], np.ndarray]


def of_torch(folder: str, dtype: torch.dtype) -> Embed:
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
    return lambda texts: model.encode(texts, batch_size=BATCH, convert_to_tensor=True).float().numpy()


def by_hand(tokenizer: Any, run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Embed:
    """The work around a graph that gives the vectors of tokens: batches sorted by length, the mean, length 1."""

    def embed(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[Any] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            fed = tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="np"
            )
            fed = {name: fed[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
            mask = fed["attention_mask"][..., None].astype(np.float32)
            pooled = (run(fed) * mask).sum(1) / mask.sum(1)
            for i, row in zip(part, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), strict=True):
                found[i] = row
        return np.array(found, np.float32)

    return embed


def export(model: SentenceTransformer, path: Path) -> None:
    names = ["input_ids", "attention_mask", "token_type_ids"]
    one = torch.ones((2, 8), dtype=torch.int64)
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "out"]}

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model[0].auto_model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            return self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    torch.onnx.export(
        Tokens().eval(),
        (one, one, one),
        str(path),
        input_names=names,
        output_names=["out"],
        dynamic_axes=axes,
        dynamo=False,
    )


def engines(folder: str, work: Path) -> dict[str, Embed]:
    plain = SentenceTransformer(folder, device="cpu")
    export(plain, work / "model.onnx")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(work / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    made = {
        f"torch {torch.__version__} f32": of_torch(folder, torch.float32),
        f"torch {torch.__version__} bf16": of_torch(folder, torch.bfloat16),
        f"onnxruntime {onnxruntime.__version__} f32": by_hand(plain.tokenizer, lambda fed: session.run(None, fed)[0]),
    }
    core = openvino.Core()
    for precision in ("f32", "bf16"):
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(core.read_model(work / "model.onnx"), "CPU", hints)
        run = lambda fed, compiled=compiled: compiled(fed)[0]  # noqa: E731
        made[f"openvino {openvino.__version__.split('-')[0]} {precision}"] = by_hand(plain.tokenizer, run)
    return made


def main(folder: str) -> None:
    out = os.fdopen(os.dup(1), "w")  # libraries may print what they like: it goes to standard error
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as work:
        made = engines(folder, Path(work))
        first = SentenceTransformer(folder, device="cpu")
        for line in sys.stdin:
            command = json.loads(line)
            answer: Any = list(made)
            if "ids" in command:
                answer = first.tokenizer(command["ids"], truncation=True, max_length=first.max_seq_length)["input_ids"]
            elif "embed" in command:
                np.save(command["to"], first.encode(command["embed"]))
                answer = f"sentence-transformers {sentence_transformers.__version__}"
            elif "time" in command:
                started = time.perf_counter()
                made[command["time"]](command["texts"])
                answer = time.perf_counter() - started
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
