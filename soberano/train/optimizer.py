"""How adapters follow their gradients: AdamW with warm-up, a schedule and clipping, by optax.

optax computes on JAX arrays, on whichever device JAX has; where a model runs on NumPy or CuPy, its adapters are small
enough to go there and back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import optax

from soberano.backends import homes
from soberano.backends.tree import map_arrays
from soberano.core.errors import InputError
from soberano.models.adapter import Pair

Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Rates:
    """How fast is learnt: the rate at its height, the share of steps until then, and what comes after."""

    rate: float = 2e-4
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    decay: float = 0.0
    clip: float = 1.0
    b_times: float = 1.0  # LoRA+ (arXiv 2402.12354): how much faster B learns than A


def optimizer(rates: Rates, steps: int) -> Any:
    """An optax optimizer of adapters for a run of `steps` steps. Raises InputError for rates that cannot be."""
    if not 0 < rates.rate < 1 or not 0 <= rates.warmup < 1 or rates.clip <= 0 or rates.b_times <= 0:
        raise InputError(
            f"the rates are {rates}; the rate must be between 0 and 1, the warm-up at least 0 and below 1, the clip "
            f"and b_times above 0"
        )
    adam = {
        part: optax.adamw(_schedule(rates, times * rates.rate, steps), weight_decay=rates.decay)
        for part, times in (("a", 1.0), ("b", rates.b_times))
    }
    labels = lambda pairs: {name: Pair("a", "b") for name in pairs}  # noqa: E731
    return optax.chain(optax.clip_by_global_norm(rates.clip), optax.multi_transform(adam, labels))


def follow(optimizer: Any) -> Callable[..., Any]:
    """A function (adapters, state, summed gradient, learnt tokens) -> (adapters, state, length of the mean gradient).

    Compiled, and all three in one pass over memory.
    """

    def step(pairs: Any, state: Any, gradient: Any, learnt: Any) -> Any:
        mean = map_arrays(lambda grad: grad / learnt, gradient)
        changes, state = optimizer.update(mean, state, pairs)
        length = home.xp.sqrt(sum(home.xp.sum(each * each) for pair in mean.values() for each in pair))
        return optax.apply_updates(pairs, changes), state, length

    home = homes.home("jax")
    return home.compile(step)


def _schedule(rates: Rates, peak: float, steps: int) -> Any:
    first = max(1, round(rates.warmup * steps))
    rest = max(1, steps - first)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[rates.schedule]
    return optax.join_schedules([optax.linear_schedule(peak / first, peak, first), after], [first])
