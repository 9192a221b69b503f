"""The peer llama.cpp, in a process and an environment of its own: reads JSON commands, a line each, and answers
likewise.

Run by soberano.bench.peers with a Python that has llama-cpp-python; imports nothing of this project. Calls llama.cpp's
own C functions, without the Python sampling of that package, so that what is timed is what llama-bench times.

    {"do": "open", "path", "threads", "context", "flash", "mapped"}
        -> {"system": "CPU : SSE3 = 1 ...", "load_s", "version"}
    {"do": "time", "tokens": [ids], "depth": d, "prompt": p, "new": n, "flash"}
        -> {"prefill_s", "decode_s"}: of p tokens after d, then of n single ones
    {"do": "logits", "tokens", "single", "out"}
        -> float32 (T, V) in the .npy file `out`; `single` feeds one token at a time
    {"do": "greedy", "prompt": [ids], "new": n}
        -> {"tokens"}: llama.cpp's own greedy continuation
    {"do": "memory"}
        -> {"private_bytes", "peak_rss_bytes"}

Called as `peer_llama_cpp.py first MODEL PROMPT THREADS CONTEXT flash|plain` it prints the first token, and ends.
"""

import ctypes
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

    def __init__(
        self,
        path: str,
        threads: int,
        context: int,
        flash: bool = True,
        mapped: bool = True,
        exact: bool = False,
        adapter: str | None = None,
    ) -> None:
        llama_cpp.llama_log_set(_quiet, None)
        started = time.perf_counter()
        options = llama_cpp.llama_model_default_params()
        options.use_mmap = mapped
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.adapter = llama_cpp.llama_adapter_lora_init(self.model, adapter.encode()) if adapter else None
        if adapter and not self.adapter:
            raise RuntimeError(f"llama.cpp cannot load {adapter}")
        self.threads, self.length, self.exact, self.contexts = threads, context, exact, dict[bool, Any]()
        self.use(flash)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.load_s = time.perf_counter() - started

    def use(self, flash: bool) -> None:
        """Make the context with or without flash attention the one that counts, empty."""
        if flash not in self.contexts:
            settings = llama_cpp.llama_context_default_params()
            settings.n_ctx, settings.n_batch, settings.n_ubatch = self.length, 512, 512
            settings.n_threads = settings.n_threads_batch = self.threads
            settings.flash_attn_type = int(flash)
            if self.exact:
                settings.type_k = settings.type_v = 0  # GGML_TYPE_F32
            self.contexts[flash] = llama_cpp.llama_init_from_model(self.model, settings)
            if self.adapter:
                one, scale = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self.adapter), (ctypes.c_float * 1)(1.0)
                llama_cpp.llama_set_adapters_lora(self.contexts[flash], one, 1, scale)
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

    def read(self, tokens: list[int]) -> None:
        """Feed tokens in batches, as prompts are."""
        for at in range(0, len(tokens), 512):
            self.decode(tokens[at : at + 512])

    def time(self, tokens: list[int], depth: int, prompt: int, new: int, flash: bool) -> dict[str, float]:
        self.use(flash)
        self.read(tokens[:depth])
        started = time.perf_counter()
        self.read(tokens[depth : depth + prompt])
        self.last()
        middle = time.perf_counter()
        for i in range(new):
            self.decode([tokens[i % len(tokens)]])
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
            tokens.append(int(np.argmax(self.last())))
            self.decode(tokens[-1:])
        return {"tokens": tokens}


def memory() -> dict[str, int]:
    """Bytes of this process alone now, and resident at most. Not getrusage: it starts from what the parent had."""
    private = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "Private_" in line]
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    return {"private_bytes": 1024 * sum(int(words[1]) for words in private), "peak_rss_bytes": 1024 * int(peak)}


def first(path: str, prompt: str, threads: str, context: str, flash: str) -> bytes:
    """The text of the likeliest token after a prompt."""
    peer = Peer(path, int(threads), int(context), flash == "flash")
    text, room = prompt.encode(), len(prompt.encode()) + 8
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(peer.vocabulary, text, len(text), ids, room, True, True)
    peer.read(list(ids[:count]))
    piece = ctypes.create_string_buffer(256)
    token = int(np.argmax(peer.last()))
    return piece.raw[: llama_cpp.llama_token_to_piece(peer.vocabulary, token, piece, len(piece), 0, True)]


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


def main() -> None:
    """Serve commands until the input ends, or print one token."""
    if sys.argv[1:2] == ["first"]:
        sys.stdout.buffer.write(first(*sys.argv[2:]))
        return
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
            answer = memory()
        else:
            answer = getattr(peer, do)(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
