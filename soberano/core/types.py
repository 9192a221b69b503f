"""Names for the types that cross every layer.

Axes, everywhere in the code: B batch, T new tokens, S cached tokens, D width, H query heads, K key heads, E head
width, F ffn, V vocabulary, R rank, L layers, P pages; O and I are the output and input axes of a weight.
"""

from typing import Any

Array = Any
"""An array of any home: numpy.ndarray, jax.Array (or a tracer), cupy.ndarray."""

Namespace = Any
"""The module that an array's functions live in: numpy, jax.numpy, cupy."""
