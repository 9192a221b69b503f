"""How fast this machine reads memory into our kernels' threads: the roof for a scan."""

import time

import numpy as np

from soberano.backends import native


def read_seconds(data: np.ndarray) -> float:
    """Read an array once by the native kernel with all its threads, and return the time. Raises Unsupported."""
    sums = np.empty(16 * native.threads(), np.float32)
    flat = data.reshape(-1).view(np.float32)
    started = time.perf_counter()
    native.call("soberano_read", flat, sums, flat.size)
    return time.perf_counter() - started
