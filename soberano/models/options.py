"""What a caller may ask of a generation, checked once, with the name of the parameter in every refusal."""

import math
from dataclasses import dataclass

from soberano.core.errors import InputError

MAX_LOGPROBS = 20


LONG_CHATS = ("refuse", "slide")
"""What may be done by name with conversations that no longer fit the context: see soberano.models.long_chats."""


@dataclass(frozen=True)
class Options:
    """How to sample and when to stop. Raises InputError for a value that a parameter cannot have.

    temperature 0 takes the best token. top_k 0, top_p 1 and min_p 0 switch a filter off; a penalty of 1 (repeat) or 0
    (the others) does nothing. `seed` None draws a fresh one. `logprobs` asks for the log-probability of each token and
    that many alternatives. `adapter` names one that the model holds ready.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    adapter: str | None = None

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 100)
        _within("top_p", self.top_p, 0, 1)
        _within("min_p", self.min_p, 0, 1)
        _within("repeat_penalty", self.repeat_penalty, 0.01, 100)
        _within("presence_penalty", self.presence_penalty, -100, 100)
        _within("frequency_penalty", self.frequency_penalty, -100, 100)
        _whole("top_k", self.top_k, 0, 2**31 - 1)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 0, 2**31 - 1)
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise InputError(f"stop is {self.stop!r}; give a tuple of strings, none of them empty")
        for token, bias in self.logit_bias:
            _whole("logit_bias token", token, 0, 2**31 - 1)
            _within(f"logit_bias of token {token}", bias, -100, 100, infinite=True)

    @property
    def penalised(self) -> bool:
        """Whether logits are changed before they are filtered."""
        penalties = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0) or bool(self.logit_bias)


def _within(name: str, value: float, low: float, high: float, infinite: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if not number or not (low <= value <= high or (infinite and math.isinf(value))):
        raise InputError(f"{name} is {value!r}; give a number from {low:g} to {high:g}")


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}; give a whole number from {low} to {high}")
