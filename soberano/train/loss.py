"""The loss of next tokens, without ever making the logits of all tokens at once.

Logits of a vocabulary are far wider than a model. So the head runs on a few tokens at a time, and the gradient with
respect to its input is taken then and there: what is kept is as wide as the model. Source: Wijmans et al. 2024, arXiv
2411.09009, for the memory; the plain way here is by parts of the tokens.
"""

from typing import Any

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.ops.loss import cross_entropy, with_slope

PART = 256
"""Tokens whose logits exist at once."""


def next_token_loss(module: Any, weights: Any, config: Any, x: Array, targets: Array) -> Array:
    """Sum -log(probability) of the targets, in nats: x (B, T, D) from the last layer, targets (B, T) int32 -> ().

    A target below 0 does not count. B * T must be a multiple of PART, or smaller.
    """
    home = home_of(x)
    rows, wanted = home.constant(x).reshape(-1, x.shape[-1]), targets.reshape(-1)
    part = min(PART, rows.shape[0])

    def cost(x: Array, wanted: Array) -> Array:
        logits = module.logits(weights, x, config)
        used = home.xp.sum(wanted >= 0)
        return cross_entropy(logits, home.xp.where(wanted < 0, -100, wanted)) * used

    slope = home.value_and_grad(cost)

    def step(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, slopes = carry
        value, grad = slope(home.at(parts, i), home.at(answers, i))
        return total + value, home.put(slopes, (home.xp.asarray(i)[None],), grad[None])

    parts, answers = rows.reshape(-1, part, x.shape[-1]), wanted.reshape(-1, part)
    total, slopes = home.loop(parts.shape[0], step, (home.xp.float32(0), home.xp.zeros_like(parts)))
    return with_slope(total, x, slopes.reshape(x.shape))
