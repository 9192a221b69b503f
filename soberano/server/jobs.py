"""One generation, or some texts to embed or to rank, on the way through the engine, and what is told about it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from soberano.models import encoder
from soberano.models.encoding import Encoding, Vectors
from soberano.models.generate import Generation, Piece
from soberano.models.judge import Judging
from soberano.models.options import Options
from soberano.models.relevance import Relevances


@dataclass(frozen=True)
class Admitted:
    """The job has its cache pages and runs from now on."""

    prompt_tokens: int


@dataclass(frozen=True)
class Drawn:
    """A token was drawn, whether or not its text is final by now. Watchers hear of it; clients wait for the text."""


@dataclass(frozen=True)
class Finished:
    """The job is complete."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    timings: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """The job ended without completing."""

    error: Exception


Event = Admitted | Piece | Vectors | Finished | Failed
Listener = Callable[[Event], None]
Prompt = Sequence[int] | Sequence[Sequence[int]]
"""The tokens to continue, or those of each text to embed, or of each pair of texts to score."""


@dataclass(frozen=True)
class Rank:
    """The options of a job that scores pairs: there is nothing to choose."""


Asked = Options | encoder.Options | Rank
"""What a job is to do; its kind says which of the things that a model can."""


@dataclass(eq=False)
class Job:
    """One piece of work on its way through the engine. Times are of time.monotonic."""

    number: int
    prompt: Prompt
    options: Asked
    listener: Listener
    deadline: float
    submitted: float = field(default_factory=time.monotonic)
    generation: Generation | Encoding | Judging | Relevances | None = None
    cancelled: bool = False


Watcher = Callable[[Job, Event | Drawn], None]
