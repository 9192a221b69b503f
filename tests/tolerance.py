"""How close is equal: the one table of the project, by dtype. No test writes its own tolerance without a comment.

An expected value comes from float64. The error that is allowed is

    unit(dtype) * sqrt(summed) * max(|expected|, size)

where `summed` is how many terms are added up to make one output, and `size` how large these terms are (1: inputs of
the order of one). Rounding errors of a sum add up like a random walk, hence the root.
"""

from typing import Any

import numpy as np

UNITS = {
    "float64": 2.0**-48,  # each a few times the spacing of the dtype at 1, for a handful of roundings in a row
    "float32": 2.0**-21,
    "float16": 2.0**-9,
    "bfloat16": 2.0**-6,
}
GRADIENT = 8.0
"""A gradient passes through an op twice, forwards and back, in more terms: it may be this many times further off."""


def assert_close(
    actual: Any, expected: Any, dtype: Any = "float32", *, summed: int = 1, size: float = 1.0, what: str = ""
) -> None:
    """Compare an array, brought to NumPy, with a float64 oracle. Infinities and NaN must be where they should.

    `what` names op and case for the message, which tells the worst place, both values and the share that is close.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    label = f"{what or 'values'} ({np.dtype(dtype).name})"
    assert actual.shape == expected.shape, f"{label}: shape {actual.shape} instead of {expected.shape}"
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(actual == expected, 0.0, np.abs(actual - expected))
    error = np.where(np.isnan(actual) & np.isnan(expected), 0.0, np.where(np.isnan(error), np.inf, error))
    finite = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    allowed = UNITS[np.dtype(dtype).name] * np.sqrt(summed) * np.maximum(finite, size)
    if (error <= allowed).all():
        return
    worst = np.unravel_index(np.argmax(error / allowed), error.shape)
    raise AssertionError(
        f"{label}: {np.mean(error <= allowed):.2%} of {error.size} within tolerance (summed {summed}); worst at "
        f"{tuple(int(i) for i in worst)}: {actual[worst]:.9g} instead of {expected[worst]:.9g}, "
        f"off by {error[worst]:.3g} where {allowed[worst]:.3g} is allowed"
    )


def assert_gradient(gradient: Any, function: Any, at: np.ndarray, *, summed: int = 1, what: str = "") -> None:
    """Compare a gradient with central differences of a float64 oracle `function(array) -> number` at `at`."""
    at, step = at.astype(np.float64), 1e-5
    slopes = np.empty(at.shape)
    for place in np.ndindex(at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[place] += step
        behind[place] -= step
        slopes[place] = (function(ahead) - function(behind)) / (2 * step)
    size = GRADIENT * max(1.0, float(np.abs(slopes).max(initial=0)))
    assert_close(gradient, slopes, "float32", summed=summed, size=size, what=f"gradient of {what}")
