"""What clients may ask for: the OpenAI parameters of chats and completions, each honoured or refused by name.

Parsing is pure: JSON in, one `Asked` out, or a RequestError that names the parameter. Nothing is ignored in silence:
a parameter is either read below, listed in checks.LABELS (it says who asks and cannot change an answer), or listed in
NEUTRAL with the values that mean "not used"; any other value of it is refused. Sampling parameters that a client
leaves out keep the defaults of Options.

Beyond OpenAI: `top_k`, `min_p`, `repeat_penalty`, `ignore_eos`; and, as in vLLM, beside include_usage
`stream_options.continuous_usage_stats`, which puts the counts so far into every chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from soberano.models.options import Options
from soberano.server import checks, said
from soberano.server.errors import RequestError
from soberano.server.said import Limits

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_BIASES = 1024

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None, "in-memory", "in_memory"),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
"""Parameter -> the values that ask for nothing we do not do."""

USAGE = ("include_usage", "continuous_usage_stats")
COMMON = ("model", "n", "stream", "stream_options", "stop", "logit_bias", "logprobs", "max_tokens", *checks.LABELS)
SAMPLING: dict[str, Callable[[str, Any], Any]] = {
    "temperature": lambda p, v: checks.real(p, v, 0, 2),
    "top_p": lambda p, v: checks.real(p, v, 0, 1),
    "presence_penalty": lambda p, v: checks.real(p, v, -2, 2),
    "frequency_penalty": lambda p, v: checks.real(p, v, -2, 2),
    "seed": lambda p, v: checks.whole(p, v, -(2**63), 2**63 - 1),
    "top_k": lambda p, v: checks.whole(p, v, 0, 2**31 - 1),
    "min_p": lambda p, v: checks.real(p, v, 0, 1),
    "repeat_penalty": lambda p, v: checks.real(p, v, 0.01, 10),
    "ignore_eos": checks.boolean,
}
TOOLS = (
    "audio",
    "function_call",
    "functions",
    "modalities",
    "moderation",
    "parallel_tool_calls",
    "prediction",
    "tool_choice",
    "tools",
)
CACHE = ("prompt_cache_options", "prompt_cache_retention", "service_tier", "store", "verbosity", "web_search_options")
CHAT = (
    *COMMON,
    *SAMPLING,
    *TOOLS,
    *CACHE,
    "messages",
    "metadata",
    "max_completion_tokens",
    "top_logprobs",
    "reasoning_effort",
    "response_format",
)
COMPLETION = (*COMMON, *SAMPLING, "prompt", "echo", "best_of", "suffix")


@dataclass(frozen=True)
class Asked:
    """One request: prompts times `n` choices, all with the same options (their seeds differ)."""

    model: str | None
    options: Options
    prompts: tuple[str | tuple[int, ...], ...] = ()  # of a completion
    messages: tuple[dict[str, Any], ...] = ()  # of a chat
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage_stats: bool = False
    echo: bool = False

    @property
    def choices(self) -> list[tuple[int, Options]]:
        """(prompt index, options) of every choice, in order. Choice j of a prompt draws with seed + j."""
        seed = self.options.seed
        return [
            (i, self.options if not (j and seed is not None) else replace(self.options, seed=seed + j))
            for i in range(max(1, len(self.prompts)))
            for j in range(self.n)
        ]


def chat(body: Any, limits: Limits) -> Asked:
    """Read the body of /v1/chat/completions. Raises RequestError, or ContextError for what cannot fit."""
    body = _fields(body, CHAT)
    if "messages" not in body:
        raise RequestError("messages is missing; send a list of {role, content}", "messages", code="missing_parameter")
    metadata = checks.mapping("metadata", body.get("metadata", {}))
    for key, value in metadata.items():
        checks.text(f"metadata.{key[:64]}", value)
    budgets = {
        name: _tokens(name, body[name], limits) for name in ("max_completion_tokens", "max_tokens") if name in body
    }
    if len(set(budgets.values())) > 1:
        said_twice = " and ".join(f"{name} is {value}" for name, value in budgets.items())
        raise RequestError(f"{said_twice}, but they mean the same; send one of them", "max_tokens")
    return Asked(
        messages=said.messages(body["messages"], limits),
        options=_options(body, limits, next(iter(budgets.values()), None), _chat_logprobs(body)),
        **_shared(body),
    )


def completion(body: Any, limits: Limits) -> Asked:
    """Read the body of /v1/completions. Raises RequestError, or ContextError for what cannot fit."""
    body = _fields(body, COMPLETION)
    if "prompt" not in body:
        raise RequestError(
            "prompt is missing; send a string or a list of token ids", "prompt", code="missing_parameter"
        )
    shared = _shared(body)
    if checks.whole("best_of", body.get("best_of", shared["n"]), 1, MAX_CHOICES) != shared["n"]:
        raise RequestError(
            f"best_of is {body['best_of']}, but ranking of candidates is not served; leave it out or equal to n",
            "best_of",
        )
    logprobs = checks.whole("logprobs", body["logprobs"], 0, MAX_LOGPROBS) if "logprobs" in body else None
    echo = checks.boolean("echo", body.get("echo", False))
    if echo and logprobs is not None:
        raise RequestError(
            "echo is true together with logprobs, but prompts are not scored; send one of the two", "echo"
        )
    prompts = said.prompts(body["prompt"], limits)
    if len(prompts) * shared["n"] > MAX_CHOICES:
        asked = f"{len(prompts)} prompts with n = {shared['n']}"
        raise RequestError(f"n: {asked} are more than {MAX_CHOICES} answers; send several requests", "n")
    budget = _tokens("max_tokens", body.get("max_tokens", 16), limits)  # 16 is OpenAI's default on this route
    options = _options(body, limits, budget, logprobs)
    return Asked(prompts=prompts, options=options, echo=echo, **shared)


def _fields(body: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The parameters that are set, after the refusal of those that we know but do not serve. null means unset."""
    found = checks.fields(body, names)
    for name, neutral in NEUTRAL.items():
        if name in body and not any(body[name] == value and type(body[name]) is type(value) for value in neutral):
            choices = " or ".join("null" if value is None else repr(value) for value in neutral)
            raise RequestError(
                f"{name} is not served; leave it out, or send {choices}", name, code="unsupported_parameter"
            )
    return found


def _shared(body: dict[str, Any]) -> dict[str, Any]:
    stream = checks.boolean("stream", body.get("stream", False))
    wishes = checks.mapping("stream_options", body.get("stream_options", {}))
    if wishes and not stream:
        raise RequestError(
            "stream_options is set, but stream is not true; set stream, or leave stream_options out", "stream_options"
        )
    checks.known(
        (f"stream_options.{name}" for name in wishes),
        [f"stream_options.{name}" for name in (*USAGE, "include_obfuscation")],
    )
    if checks.boolean("stream_options.include_obfuscation", wishes.get("include_obfuscation") or False):
        param = "stream_options.include_obfuscation"
        raise RequestError(f"{param} is not served; leave it out, or send false", param, code="unsupported_parameter")
    return {
        "model": checks.text("model", body["model"]) if "model" in body else None,
        "n": checks.whole("n", body.get("n", 1), 1, MAX_CHOICES),
        "stream": stream,
        **{name: checks.boolean(f"stream_options.{name}", wishes.get(name) or False) for name in USAGE},
    }


def _options(body: dict[str, Any], limits: Limits, max_tokens: int | None, logprobs: int | None) -> Options:
    values = {name: read(name, body[name]) for name, read in SAMPLING.items() if name in body}
    return Options(
        max_tokens=max_tokens, stop=_stop(body.get("stop")), logprobs=logprobs, logit_bias=_bias(body, limits), **values
    )


def _tokens(name: str, value: Any, limits: Limits) -> int | None:
    return None if value is None else checks.whole(name, value, 1, limits.context)


def _chat_logprobs(body: dict[str, Any]) -> int | None:
    wanted = checks.boolean("logprobs", body.get("logprobs", False))
    top = checks.whole("top_logprobs", body["top_logprobs"], 0, MAX_LOGPROBS) if "top_logprobs" in body else None
    if top is not None and not wanted:
        raise RequestError(f"top_logprobs is {top}, but logprobs is not true; set logprobs too", "top_logprobs")
    return (top or 0) if wanted else None


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise checks.wrong("stop", value, f"a string, or a list of at most {MAX_STOPS}")
    return tuple(one for i, one in enumerate(stops) if checks.text(f"stop[{i}]", one))  # an empty string stops nothing


def _bias(body: dict[str, Any], limits: Limits) -> tuple[tuple[int, float], ...]:
    given = checks.mapping("logit_bias", body.get("logit_bias", {}))
    if len(given) > MAX_BIASES:
        raise RequestError(f"logit_bias has {len(given)} entries, but may have {MAX_BIASES}", "logit_bias")
    read = []
    for key, value in given.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 9 and int(key) < limits.vocabulary):
            raise checks.wrong("logit_bias", key, f"keyed by token ids from 0 to {limits.vocabulary - 1}")
        read.append((int(key), checks.real(f"logit_bias.{key}", value, -100, 100)))
    return tuple(read)
