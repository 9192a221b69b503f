"""The NumPy home: the reference. No kernels; a model here is read, tested and compared against."""

import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array


class NumpyHome(Home):
    """Arrays are numpy.ndarray."""

    name = "numpy"
    xp = np

    def argsort(self, array: Array) -> Array:
        return np.argsort(array, axis=-1, kind="stable")


HOME = NumpyHome()
