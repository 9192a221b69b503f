"""The peer PEFT on PyTorch, in a process and an environment of its own: reads JSON commands, a line each, and answers
likewise.

Run by soberano.bench.peers with a Python that has peft, transformers and gguf; imports nothing of this project.
transformers decodes the GGUF file itself, so the peer trains on the weights that the file means.

    {"do": "open", "path", "threads", "dtype": "float32" or "bfloat16", "rank", "alpha", "adapter": folder or null}
        -> {"version"}; the adapter that a folder holds, or a fresh one beside every linear layer
    {"do": "step", "rows": [[ids]], "rate"}
        -> {"seconds", "loss"}: forward, backward and a step of AdamW, on rows without padding
    {"do": "gradient", "rows", "out"}
        -> {"loss"}; the gradients of the adapters by name in the .npz file `out`
    {"do": "logits", "tokens": [ids], "out"}
        -> float32 (T, V) in the .npy file `out`
    {"do": "compile"}
        -> {}: steps go through torch.compile from here on
    {"do": "memory"}
        -> {"peak_rss_bytes"}
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers


class Peer:
    """A model with adapters, and the optimizer of these."""

    def __init__(
        self, path: str, threads: int, dtype: str, rank: int = 16, alpha: float = 32, adapter: str | None = None
    ) -> None:
        torch.set_num_threads(threads)
        file = Path(path)
        base = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=getattr(torch, dtype)
        )
        base.config.use_cache = False
        if adapter:
            self.model: Any = peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
        else:
            config = peft.LoraConfig(
                r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
            )
            self.model = peft.get_peft_model(base, config)
        self.model.train()
        self.learnt = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self.optimizer = torch.optim.AdamW(self.learnt.values(), weight_decay=0.0)
        self.run = self.model

    def backward(self, rows: list[list[int]]) -> float:
        """The mean loss of the rows; gradients are left in the adapters."""
        tokens = torch.tensor(rows)
        self.optimizer.zero_grad()
        loss = self.run(input_ids=tokens, labels=tokens).loss
        loss.backward()
        return float(loss.detach())

    def step(self, rows: list[list[int]], rate: float) -> dict[str, float]:
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.backward(rows)
        self.optimizer.step()
        return {"seconds": time.perf_counter() - started, "loss": loss}

    def gradient(self, rows: list[list[int]], out: str) -> dict[str, float]:
        loss = self.backward(rows)
        np.savez(out, **{name: each.grad.float().numpy() for name, each in self.learnt.items()})
        return {"loss": loss}

    def logits(self, tokens: list[int], out: str) -> dict[str, float]:
        with torch.no_grad():
            np.save(out, self.model(input_ids=torch.tensor([tokens])).logits[0].float().numpy())
        return {}

    def compile(self) -> dict[str, float]:
        self.run = torch.compile(self.model)
        return {}

    def memory(self) -> dict[str, float]:
        return {"peak_rss_bytes": 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])}


def main() -> None:
    """Serve commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print must not mix with answers
    peer: Any = None
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do == "open":
            peer = Peer(**command)
            answer: Any = {"version": f"{peft.__version__}, torch {torch.__version__}"}
        else:
            answer = getattr(peer, do)(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
