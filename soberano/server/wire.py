"""Below the application: the protocol of a connection, so that what aiohttp refuses by itself is refused in our words.

A head that is no HTTP or too long, or an `Expect` that nobody serves, reaches no middleware. It gets what every answer
has: the OpenAI error body, our Server header, and an x-request-id.
"""

import asyncio
import re
import uuid
from typing import Any

from aiohttp import web

from soberano.server.errors import REQUEST_ID, RequestError, log, response_to

KEEPALIVE_S = 75.0
"""How long a connection may rest between two requests."""


def name(request: web.BaseRequest) -> None:
    """Give a request its id: the client's x-request-id where it is harmless, else a new one."""
    given = request.headers.get("x-request-id", "")
    REQUEST_ID.set(given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else uuid.uuid4().hex)


def sign(response: web.StreamResponse) -> None:
    """Write on an answer whose it is, and to which request."""
    response.headers["x-request-id"] = REQUEST_ID.get()
    response.headers["Server"] = "soberano"


class Protocol(web.RequestHandler):
    """One connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request. Raises ConnectionError, which ends the connection, behind a half-sent answer."""
        if request.writer.output_size > 0:
            raise ConnectionError("an error in the middle of an answer")
        name(request)
        error = exc or RuntimeError(message or "aiohttp gives no reason")
        if status < 500:
            log.debug("request %s is malformed", REQUEST_ID.get(), exc_info=exc)
            why = (message or str(error)).partition("\n")[0][:200]
            error = RequestError(f"this is no HTTP request that is served here: {why}", code="bad_http", status=status)
        response = response_to(error)
        sign(response)
        response.force_close()
        return response


class Server(web.Server):
    """aiohttp's factory of connections, for ours."""

    def __init__(self, inner: web.Server) -> None:
        super().__init__(self._handle, request_factory=inner.request_factory, handler_cancellation=True)
        self._inner = inner.request_handler

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        # access_log None means no log, but is typed otherwise.
        more: dict[str, Any] = {"keepalive_timeout": KEEPALIVE_S, "access_log": None}
        return Protocol(self, loop=asyncio.get_running_loop(), **more)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._inner(request)
        except web.HTTPExpectationFailed as error:  # said before any middleware is asked
            name(request)
            expected = request.headers.get("Expect", "")[:60]
            return response_to(error, f"Expect is {expected!r}, but only 100-continue is served; leave it out")


class Runner(web.AppRunner):
    """aiohttp's runner of an application, on our connections."""

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server())
