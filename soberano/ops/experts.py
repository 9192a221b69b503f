"""A mixture of experts: a router chooses a few of many gated feed-forward layers for each token, and their results are
added.

    X experts, k of them for a token. `route` turns the logits of a router into ids (..., k) and weights (..., k);
    `experts` computes sum over j of weights[j] * down(act(gate(x)) * up(x)) with the matrices of expert ids[j].

Source: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al. 2024, arXiv 2401.04088.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

from soberano.backends.base import Home
from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.ops.activation import sigmoid
from soberano.ops.feed_forward import Activation, feed_forward, gated_unit
from soberano.ops.linear import linear, linears
from soberano.ops.softmax import softmax
from soberano.ops.topk import top_k
from soberano.quant.tensor import Experts

Score = Literal["softmax", "sigmoid"]

LEAST = 2.0**-14
"""What the sum of weights counts as at least, before they are divided by it."""


class Biases(NamedTuple):
    """What is added to the three products of each expert."""

    gate: Array  # (X, F)
    up: Array  # (X, F)
    down: Array  # (X, D)


@op
def route(
    logits: Array,
    *,
    count: int,
    normalise: bool,
    score: Score = "softmax",
    scale: float = 1.0,
    bias: Array | None = None,
) -> tuple[Array, Array]:
    """Choose the `count` best of X experts: logits (..., X) floating -> ids (..., k) int32, weights (..., k) float32.

    The score of an expert is the softmax, over all of them, or the sigmoid of its logit. The highest logits are chosen,
    or, where there is a `bias` (X,), the highest score + bias; equal ones in the order of their ids, and best first. A
    weight is the score (never the bias), divided by the sum of those chosen if `normalise`, times `scale`. Normalised
    weights of a softmax are the softmax of the chosen logits. NaN is chosen last, and stays NaN in the weights.

    Raises InputError, ShapeError. Source: arXiv 2401.04088 (softmax), arXiv 2412.19437 (sigmoid, bias).

    >>> import numpy as np
    >>> ids, weights = route(np.log(np.array([1.0, 4.0, 2.0, 1.0], np.float32)), count=2, normalise=False)
    >>> ids.tolist(), weights.round(3).tolist()
    ([1, 2], [0.5, 0.25])
    """
    check_route(logits, count, score, bias)
    xp = home_of(logits).xp
    logits = logits.astype(xp.float32)
    scores = softmax(logits) if score == "softmax" else sigmoid(logits)
    order = logits if bias is None else scores + bias
    _, ids = top_k(xp.where(xp.isnan(order), -xp.inf, order), count)
    weights = xp.take_along_axis(scores, ids, axis=-1)
    if normalise:
        weights = weights / xp.maximum(xp.sum(weights, axis=-1, keepdims=True), LEAST)
    return ids, weights * scale


@op
def experts(
    gate: Experts,
    up: Experts,
    down: Experts,
    x: Array,
    ids: Array,
    weights: Array,
    *,
    activation: Activation = "silu",
    biases: Biases | None = None,
) -> Array:
    """Run each token through its experts and add what they say, times the weights: x (..., D) -> (..., D), float32.

    gate and up are (X, F, D), down (X, D, F), of one layer; ids and weights (..., k) as `route` makes them. `biases`
    are added to the products, before the activation and before the weight. Activations are those of feed_forward.
    Only experts that somebody chose are read, one at a time, and what they say takes k times the memory of x. What a
    token gets does not depend on the others. Raises InputError, ShapeError.
    """
    check_experts(gate, up, down, x, ids, weights, biases)
    home, unit, k = home_of(x), gated_unit("experts", activation), ids.shape[-1]
    xp, rows = home.xp, x.reshape(-1, x.shape[-1])
    groups = group_choices(home, ids.reshape(-1), gate.count)

    def expert(e: Any, some: Array) -> Array:
        """Expert e of rows (n, D) -> (n, D)."""
        place = gate.first + e  # one for all three: kernels serve weights of one place
        w = [part.matrices.layer(home, place) for part in (gate, up, down)]
        if biases is None:
            return feed_forward(*w, some, activation=activation)
        g, u = linears((w[0], w[1]), some)
        g, u = g + home.at(biases.gate, e), u + home.at(biases.up, e)
        return linear(w[2], unit(g, u)) + home.at(biases.down, e)

    def one_group(i: Any, said: Array) -> Array:
        e, choices = home.at(groups.expert, i), home.at(groups.choices, i)
        some = rows[xp.minimum(choices // k, rows.shape[0] - 1)]
        filled = (choices[0] < ids.size).astype(xp.int32)
        return home.put(
            said, (choices,), home.switch(filled, [lambda some: xp.zeros_like(some), partial(expert, e)], some)
        )

    said = home.loop(groups.expert.shape[0], one_group, xp.zeros((ids.size, x.shape[-1]), xp.float32))
    said = said.reshape(-1, k, x.shape[-1]) * weights.reshape(-1, k, 1)
    total = said[:, 0]
    for j in range(1, k):  # in this order, however many rows there are
        total = total + said[:, j]
    return total.reshape(x.shape)


class Groups(NamedTuple):
    """Choices in G groups of one expert each: the expert (G,) and the places of R choices (G, R), past the end of all
    choices where a group has fewer.
    """

    expert: Array
    choices: Array


def group_choices(home: Home, ids: Array, count: int) -> Groups:
    """Group the choices (n,) of `count` experts: as many groups as any ids may need, the last ones perhaps empty.

    A group has twice as many places as an expert gets choices on average, so most experts need one: to bring another
    expert to the processor costs more than places that stay empty.
    """
    xp, n = home.xp, ids.shape[0]
    average = -(-n // count)
    places = 1 if average == 1 else 2 * average
    order = home.argsort(ids)
    starts = xp.searchsorted(ids[order], xp.arange(count + 1, dtype=ids.dtype))  # (X + 1,)
    ends = xp.cumsum(-(-(starts[1:] - starts[:-1]) // places))  # (X,) groups of the experts up to each
    group = xp.arange(min(n, n // places + count))
    expert = xp.minimum(xp.searchsorted(ends, group, side="right"), count - 1)
    before = xp.where(expert > 0, ends[expert - 1], 0)
    at = (starts[expert] + (group - before) * places)[:, None] + xp.arange(places)  # (G, R) among the ordered choices
    choices = xp.where(at < starts[expert + 1][:, None], order[xp.minimum(at, n - 1)], n)
    return Groups(expert.astype(xp.int32), choices.astype(xp.int32))


def check_route(logits: Array, count: int, score: str, bias: Array | None) -> None:
    """Raise InputError or ShapeError unless a router can be as told."""
    if score not in ("softmax", "sigmoid"):
        raise InputError(f"route: score is {score!r}; pass 'softmax' or 'sigmoid'")
    if logits.ndim == 0 or not 1 <= count <= logits.shape[-1]:
        raise InputError(
            f"route: count is {count}, but logits {tuple(logits.shape)} are not of that many experts; pass a count "
            f"from 1 to the length of the last axis"
        )
    if bias is not None and tuple(bias.shape) != logits.shape[-1:]:
        raise ShapeError(
            f"route: bias is {tuple(bias.shape)}, but there are {logits.shape[-1]} experts; pass ({logits.shape[-1]},)"
        )


def check_experts(
    gate: Experts, up: Experts, down: Experts, x: Array, ids: Array, weights: Array, biases: Biases | None
) -> None:
    """Raise ShapeError unless all of this belongs together."""
    count, hidden, width = gate.shape
    if up.shape != gate.shape or down.shape != (count, width, hidden) or x.shape[-1] != width:
        raise ShapeError(
            f"experts: gate is {gate.shape}, up {up.shape}, down {down.shape} and x {tuple(x.shape)}; pass gate and up "
            f"(X, F, D), down (X, D, F) and x (..., D)"
        )
    if ids.shape[:-1] != x.shape[:-1] or weights.shape != ids.shape:
        raise ShapeError(
            f"experts: ids are {tuple(ids.shape)} and weights {tuple(weights.shape)}, but x is {tuple(x.shape)}; pass "
            f"both (..., k) for x (..., D)"
        )
    wanted = ((count, hidden), (count, hidden), (count, width))
    if biases is not None and tuple(tuple(each.shape) for each in biases) != wanted:
        raise ShapeError(
            f"experts: biases are {', '.join(str(tuple(each.shape)) for each in biases)}; pass "
            f"{', '.join(map(str, wanted))}"
        )
