"""The loss of a batch and its gradient with respect to the adapters: one function, on every backend."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from soberano.backends.base import Home
from soberano.backends.plan import Plan, using
from soberano.core.types import Array
from soberano.models.adapter import Pair, adapt
from soberano.models.architecture import architecture
from soberano.train.adapters import Shape
from soberano.train.loss import next_token_loss
from soberano.train.texts import Texts


class Batch(NamedTuple):
    """Texts packed into rows."""

    tokens: Array  # (B, T) int32
    positions: Array  # (B, T) int32: from the beginning of the text
    segments: Array  # (B, T) int32: which text of the row; below 0: padding
    targets: Array  # (B, T) int32: the next token of the text; below 0: not to be learnt


def batch_loss(name: str, config: Any, plan: Plan, shape: Shape) -> Callable[..., Array]:
    """A function (adapters, weights, batch) -> the summed loss of a batch in nats, of the architecture `name`."""
    module = architecture(name)

    def loss(pairs: Mapping[str, Pair], weights: Any, batch: Batch) -> Array:
        adapted = adapt(weights, pairs, shape.scales(pairs))
        texts = Texts(batch.positions, batch.segments, config.layers)
        x, _ = module.forward(adapted, batch.tokens, texts, config)
        return next_token_loss(module, weights, config, x, batch.targets)

    def under_plan(*args: Any) -> Array:
        with using(plan):
            return loss(*args)

    return under_plan


def loss_only(home: Home, name: str, config: Any, plan: Plan, shape: Shape, *, exact: bool) -> Callable[..., Array]:
    """A function (adapters, weights, batch) -> the summed loss, as `loss_and_grad` computes it."""
    return home.compile(batch_loss(name, config, _role(plan, exact), shape))


def loss_and_grad(
    home: Home, name: str, config: Any, plan: Plan, shape: Shape, *, exact: bool
) -> Callable[..., tuple[Array, Any]]:
    """A function (adapters, weights, batch) -> (summed loss, gradient), compiled where the home compiles.

    `exact` computes in float32, where kernels would round activations to be faster.
    """
    plan = _role(plan, exact)
    run = home.value_and_grad(batch_loss(name, config, plan, shape))

    def under_plan(*args: Any) -> tuple[Array, Any]:
        with using(plan):
            return run(*args)

    return home.compile(under_plan)


def _role(plan: Plan, exact: bool) -> Plan:
    return replace(plan, role="token" if exact else "prompt", exact=exact)
