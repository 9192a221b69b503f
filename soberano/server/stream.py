"""Answers on their way out: collected into one body, or streamed as server-sent events while they are made.

A stream is `data: JSON` events and a closing `data: [DONE]`. The JSON is pure ASCII, so that no text of a model can
look like a line end to any parser. Nothing is sent before the first event of the engine, so that early errors have an
honest status; while a request waits longer than the heartbeat, comments keep the connection alive. An error in the
middle is one last event, and the [DONE] that then stays away tells that the answer is not whole.
"""

import asyncio
import json
from typing import Any

from aiohttp import web

from soberano.models.generate import Piece
from soberano.server.answers import Choice, Form, counts, usage
from soberano.server.errors import Cancelled, body_of
from soberano.server.jobs import Failed, Finished
from soberano.server.run import Numbered, Run

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
COMMENT = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"


def frame(data: Any) -> bytes:
    r"""One event.

    >>> frame({"text": "a\n\ndata: [DONE]\u2028"})
    b'data: {"text":"a\\n\\ndata: [DONE]\\u2028"}\n\n'
    """
    return b"data: " + json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n\n"


def gone(request: web.Request) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


async def collect(
    request: web.Request, run: Run, form: Form, choices_a_prompt: int, heartbeat_s: float
) -> dict[str, Any]:
    """Wait for the whole answer. Raises the error of the first choice that failed, or Cancelled."""
    pieces: dict[int, list[Piece]] = {}
    ends: dict[int, Finished] = {}
    async for batch in run.batches(heartbeat_s):
        if gone(request):
            raise Cancelled
        for index, event in batch:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Piece):
                pieces.setdefault(index, []).append(event)
            elif isinstance(event, Finished):
                ends[index] = event
    finished = [ends[index] for index in sorted(ends)]
    choices = [Choice(pieces.get(i, []), end) for i, end in enumerate(finished)]
    return form.body(choices, usage(finished, choices_a_prompt)) | timings(finished)


async def send(
    request: web.Request,
    run: Run,
    form: Form,
    choices_a_prompt: int,
    heartbeat_s: float,
    patience_s: float,
    headers: dict[str, str] | None = None,
    *,
    include_usage: bool,
    continuous_usage_stats: bool,
) -> web.StreamResponse:
    """Stream the answer. Raises what happens before the first byte; what happens later is told in the stream.

    Counts come with the last chunk if `include_usage` asks for them, and those so far with every one if
    `continuous_usage_stats` does too. A client that leaves a piece unread for `patience_s` is taken for gone.
    `headers` are told before the first piece.
    """
    batches = run.batches(heartbeat_s)
    batch = await anext(batches)
    for _, event in batch:
        if isinstance(event, Failed):
            raise event.error
    response = web.StreamResponse(headers=HEADERS | (headers or {}))
    await response.prepare(request)
    writer = _Writer(form, run, choices_a_prompt, include_usage, include_usage and continuous_usage_stats)
    try:
        await _write(response, writer.opening() + writer.encode(batch), patience_s)
        async for batch in batches:
            if gone(request) or writer.failed:
                break
            await _write(response, writer.encode(batch), patience_s)
        if not writer.failed:
            await _write(response, writer.closing(), patience_s)
        await response.write_eof()
    except ConnectionError:
        pass  # the client left; leaving the run cancels its jobs
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


async def _write(response: web.StreamResponse, data: bytes, patience_s: float) -> None:
    async with asyncio.timeout(patience_s):
        await response.write(data)


class _Writer:
    """Turns events into bytes, and counts what the closing chunk needs."""

    def __init__(
        self, form: Form, run: Run, choices_a_prompt: int, include_usage: bool, continuous_usage_stats: bool
    ) -> None:
        self.form, self.run, self.choices_a_prompt = form, run, choices_a_prompt
        self.include_usage, self.continuous = include_usage, continuous_usage_stats
        self.completion_tokens = 0  # so far
        self.ends: dict[int, Finished] = {}
        self.failed = False

    def opening(self) -> bytes:
        return b"".join(self._chunk(first) for i in range(self.run.count) for first in self.form.first(i))

    def encode(self, batch: list[Numbered]) -> bytes:
        if not batch:
            return COMMENT
        sent = []
        for index, event in batch:
            if isinstance(event, Piece):
                self.completion_tokens += len(event.tokens)
                if event.text or event.logprobs:
                    sent.append(self._chunk(self.form.delta(index, event)))
            elif isinstance(event, Finished):
                self.ends[index] = event
                sent.append(self._chunk(self.form.last(index, event.reason)))
            elif isinstance(event, Failed):
                self.failed = True
                return b"".join(sent) + frame(body_of(event.error))
        return b"".join(sent)

    def closing(self) -> bytes:
        if not self.include_usage:
            return DONE
        finished = [self.ends[index] for index in sorted(self.ends)]
        return frame(self.form.chunk([], usage=usage(finished, self.choices_a_prompt), **timings(finished))) + DONE

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        if not self.include_usage:
            return frame(self.form.chunk([choice]))
        if not self.continuous:
            return frame(self.form.chunk([choice], usage=None))
        so_far = counts(self.run.prompt_tokens(self.choices_a_prompt), self.completion_tokens)
        return frame(self.form.chunk([choice], usage=so_far))


def timings(ends: list[Finished]) -> dict[str, Any]:
    """Where the time went, for requests of one choice: an addition to OpenAI's bodies, which its clients pass on."""
    return {"timings": {name: round(value, 6) for name, value in ends[0].timings.items()}} if len(ends) == 1 else {}
