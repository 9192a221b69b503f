"""The peer llama.cpp, in a process and an environment of its own: reads JSON commands, a line each, and answers
likewise.

Run by soberano.bench.peers with a Python that has llama-cpp-python; imports nothing of this project. Calls llama.cpp's
own C functions, without the Python sampling of that package, so that what is timed is what llama-bench times.

    {"do": "open", "path", "threads", "context"}    -> {"system": "CPU : SSE3 = 1 ..."}
    {"do": "time", "prompt": [ids], "new": n}        -> {"prefill_s", "decode_s"}: the prompt in one batch, then n
    single tokens {"do": "logits", "tokens", "single", "out"}      -> float32 (T, V) in the .npy file `out`; `single`
    feeds one token at a time {"do": "greedy", "prompt": [ids], "new": n}      -> {"tokens"}: llama.cpp's own greedy
    continuation {"do": "memory"}                                  -> {"peak_rss_bytes"}
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


class Peer:
    """A loaded model, with a context for each way to attend: flash attention suits prompts, and slows single tokens."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        llama_cpp.llama_log_set(_quiet, None)
        started = time.perf_counter()
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), options)
        self.threads, self.length, self.contexts = threads, context, dict[bool, Any]()
        self.use(flash=True)
        self.size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.load_s = time.perf_counter() - started

    def use(self, flash: bool) -> None:
        """Make the context with or without flash attention the one that counts, empty."""
        if flash not in self.contexts:
            settings = llama_cpp.llama_context_default_params()
            settings.n_ctx, settings.n_batch, settings.n_ubatch = self.length, 512, 512
            settings.n_threads = settings.n_threads_batch = self.threads
            settings.flash_attn_type = int(flash)
            self.contexts[flash] = llama_cpp.llama_init_from_model(self.model, settings)
        self.context = self.contexts[flash]
        self.forget()

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")

    def last(self) -> np.ndarray:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (self.size,))

    def time(self, prompt: list[int], new: int, flash: bool) -> dict[str, float]:
        self.use(flash)
        started = time.perf_counter()
        for at in range(0, len(prompt), 512):
            self.decode(prompt[at : at + 512])
        self.last()
        middle = time.perf_counter()
        for i in range(new):
            self.decode([prompt[i % len(prompt)]])
            self.last()
        return {"prefill_s": middle - started, "decode_s": time.perf_counter() - middle}

    def logits(self, tokens: list[int], single: bool, out: str) -> dict[str, float]:
        self.forget()
        rows = np.empty((len(tokens), self.size), np.float32)
        step = 1 if single else 512
        for at in range(0, len(tokens), step):
            part = tokens[at : at + step]
            batch = llama_cpp.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, at + i, 1, True
                batch.seq_id[i][0] = 0
            if llama_cpp.llama_decode(self.context, batch):
                raise RuntimeError("llama_decode failed")
            for i in range(len(part)):
                rows[at + i] = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), (self.size,))
            llama_cpp.llama_batch_free(batch)
        np.save(out, rows)
        return {}

    def greedy(self, prompt: list[int], new: int) -> dict[str, list[int]]:
        self.forget()
        self.decode(prompt)
        tokens = []
        for _ in range(new):
            tokens.append(int(self.last().argmax()))
            self.decode(tokens[-1:])
        return {"tokens": tokens}


def peak_memory() -> int:
    """Bytes that were resident at most. Not getrusage: it starts from what the parent process had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


def main() -> None:
    """Serve commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints must not mix with answers
    peer: Any = None
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do == "open":
            peer = Peer(**command)
            system = llama_cpp.llama_print_system_info().decode()
            answer: Any = {"system": system, "load_s": peer.load_s, "version": llama_cpp.__version__}
        elif do == "memory":
            answer = {"peak_rss_bytes": peak_memory()}
        else:
            answer = getattr(peer, do)(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
