"""What `soberano bench llm` is asked to measure: which model, which parts, how many tokens after how many."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from soberano.core.errors import InputError
from soberano.models.step import CHUNKS

PARTS = ("speed", "memory", "cold-start")


class Case(NamedTuple):
    """A prompt after `depth` tokens of context, and then new tokens."""

    depth: int
    prompt: int
    new: int

    @property
    def prefill(self) -> str:
        """The name of the number for the prompt."""
        return f"prefill {self.prompt}" + (f" after {self.depth}" if self.depth else "")

    @property
    def decode(self) -> str:
        """The name of the number for new tokens. Without a depth they follow the prompt alone."""
        return f"decode {self.new}" + (f" after {self.depth + self.prompt}" if self.depth else "")

    @property
    def tokens(self) -> int:
        """All tokens together."""
        return self.depth + self.prompt + self.new

    def check(self) -> None:
        """Raise InputError where the prompt would not begin at the depth: prompts go through in chunks."""
        if self.depth < 0 or self.depth % CHUNKS[-1]:
            raise InputError(
                f"--depth is {self.depth}; prompts go through in chunks of {CHUNKS[-1]}, so give a multiple of that"
            )


@dataclass(frozen=True)
class Ask:
    """What to measure. Raises InputError for what cannot be measured."""

    path: Path
    backend: str | None = None
    context: int | None = None  # just enough if None
    cache: str | None = None  # how keys and values are kept; None is what the plan prefers
    prompt_tokens: int = 512
    new_tokens: int = 128
    depth: int = 0  # also measure after so many tokens
    repeat: int = 3
    busy: bool = False  # also measure decode while other processes keep all cores busy
    parts: tuple[str, ...] = ()  # of PARTS; speed without a peer, all with one
    against: str | None = None
    peer_python: str | None = None
    peer_binary: str | None = None

    def __post_init__(self) -> None:
        counts = (("prompt-tokens", self.prompt_tokens), ("new-tokens", self.new_tokens), ("repeat", self.repeat))
        for name, value in counts:
            if value < 1:
                raise InputError(f"--{name} is {value}; a measurement needs 1 or more")
        for part in self.parts:
            if part not in PARTS:
                raise InputError(f"--only {part} is no part of the measurement; there are {', '.join(PARTS)}")
        if (self.peer_python or self.peer_binary) and not self.against:
            raise InputError("--peer-python and --peer-binary say where a peer is; --against llama.cpp asks for it")
        need = max(case.tokens for case in self.cases) + 1
        if self.context is not None and self.context < need:
            after = f" after {self.depth}" if self.depth else ""
            raise InputError(
                f"a context of {self.context} does not hold {self.prompt_tokens} prompt tokens and {self.new_tokens} "
                f"new ones{after}; ask for at least {need}"
            )

    @property
    def cases(self) -> list[Case]:
        """The cases of speed: from an empty context, and from the depth."""
        found = [Case(depth, self.prompt_tokens, self.new_tokens) for depth in dict.fromkeys((0, self.depth))]
        for case in found:
            case.check()
        return found

    @property
    def room(self) -> int:
        """The context that both sides get."""
        return self.context or max(case.tokens for case in self.cases) + 64

    def does(self, part: str) -> bool:
        """Whether a part is measured."""
        return part in (self.parts or (PARTS if self.against else PARTS[:1]))
