"""The CuPy home: arrays on an NVIDIA GPU. Every op's meaning runs here; kernels come beside the ops as *_cupy.py."""

import cupy
import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array


class CupyHome(Home):
    """Arrays are cupy.ndarray on the current device."""

    name = "cupy"
    xp = cupy

    def to_numpy(self, array: Array) -> np.ndarray:
        return cupy.asnumpy(array)

    def synchronize(self, array: Array) -> None:
        cupy.cuda.get_current_stream().synchronize()

    def platform(self) -> str:
        return "gpu"

    def devices(self) -> list[str]:
        count = cupy.cuda.runtime.getDeviceCount()
        return [cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]


HOME = CupyHome()
