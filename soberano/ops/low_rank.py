"""Products with matrices of low rank, which are trained beside frozen weights (LoRA), and their gradient.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.types import Array

Pairs = tuple[tuple[Array, Array], ...]
"""For each weight beside which something is trained: a (R, I) and b (O, R)."""


@op
def low_ranks(x: Array, pairs: Pairs, onto: tuple[Array, ...], *, scales: tuple[float, ...]) -> tuple[Array, ...]:
    """Multiply the same x (..., I) by pairs of a (R, I) and b (O, R), and add: onto + scale * (x a^T) b^T for each.

    All float32; onto and results (..., O). Together they are cheaper than one by one: x is read once.

    >>> import numpy as np
    >>> x, pair = np.array([3.0, 4.0], np.float32), (np.ones((1, 2), np.float32), np.ones((1, 1), np.float32))
    >>> low_ranks(x, (pair,), (np.ones(1, np.float32),), scales=(0.5,))
    (array([4.5], dtype=float32),)
    """
    inner = _by_rank(x @ home_of(x).xp.concatenate([a for a, _ in pairs]).T, pairs)
    return tuple(y + (scale * each) @ b.T for y, scale, each, (_, b) in zip(onto, scales, inner, pairs, strict=True))


@op
def low_ranks_back(
    grads: tuple[Array, ...], x: Array, pairs: Pairs, *, scales: tuple[float, ...]
) -> tuple[Array, Pairs]:
    """The gradients of x (..., I) and of the pairs, from those of `low_ranks`' results, (..., O) each, all float32.

    The inner products are computed again: they are cheaper than keeping them.
    """
    xp, rows = home_of(x).xp, x.reshape(-1, x.shape[-1])
    together = xp.concatenate([a for a, _ in pairs])  # (all R, I)
    back = [(scale * grad).reshape(-1, grad.shape[-1]) for scale, grad in zip(scales, grads, strict=True)]
    outer = xp.concatenate([y @ b for y, (_, b) in zip(back, pairs, strict=True)], axis=-1)  # (N, all R)
    slopes_a = _by_rank(rows.T @ outer, pairs)  # (I, R) each
    slopes_b = [y.T @ inner for y, inner in zip(back, _by_rank(rows @ together.T, pairs), strict=True)]
    slopes = tuple((a.T, b) for a, b in zip(slopes_a, slopes_b, strict=True))
    return (outer @ together).reshape(x.shape), slopes


def _by_rank(inner: Array, pairs: Pairs) -> list[Array]:
    """The parts (..., R) of what all `a` together made of x."""
    found, start = [], 0
    for a, _ in pairs:
        found.append(inner[..., start : start + a.shape[0]])
        start += a.shape[0]
    return found
