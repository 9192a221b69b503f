"""The errors of serving, beside those of soberano.core.errors, and what clients see of both.

From an exception to an HTTP status and an OpenAI error body it is one table, read from the top, first match wins.

The body is `{"error": {"message", "type", "param", "code"}}` for every answer that is no success, those of unknown
routes and wrong methods too. A message of ours is shown as it is; of anything unexpected the client learns only the
request id.
"""

import logging
from contextvars import ContextVar
from typing import Any, NamedTuple

from aiohttp import web

from soberano.core.errors import CapacityError, ContextError, InputError

log = logging.getLogger("soberano.server")
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this task answers."""


class RequestError(InputError):
    """A request that cannot be served as it stands. `param` names the field at fault."""

    def __init__(
        self, message: str, param: str | None = None, *, code: str = "invalid_value", status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class QueueFull(CapacityError):
    """Too many requests wait already."""


class NotReady(CapacityError):
    """The model is still loading."""


class Stopping(CapacityError):
    """The server is going down and takes no more work."""


class DeadlineError(CapacityError):
    """A request took longer than the server lets one take."""


class Cancelled(Exception):
    """A request whose client has left. Nobody reads this one."""


class Answer(NamedTuple):
    """What an error looks like on the wire."""

    status: int
    type: str
    code: str
    retry_after: int | None = None


TABLE: list[tuple[type[Exception], Answer]] = [
    (ContextError, Answer(400, "invalid_request_error", "context_length_exceeded")),
    (InputError, Answer(400, "invalid_request_error", "invalid_value")),
    (QueueFull, Answer(429, "rate_limit_error", "queue_full", retry_after=2)),
    (NotReady, Answer(503, "server_error", "model_loading", retry_after=2)),
    (Stopping, Answer(503, "server_error", "server_stopping", retry_after=5)),
    (DeadlineError, Answer(504, "server_error", "deadline_exceeded")),
    (CapacityError, Answer(503, "server_error", "out_of_capacity", retry_after=2)),
    (web.HTTPNotFound, Answer(404, "invalid_request_error", "unknown_route")),
    (web.HTTPMethodNotAllowed, Answer(405, "invalid_request_error", "method_not_allowed")),
    (web.HTTPRequestEntityTooLarge, Answer(413, "invalid_request_error", "request_too_large")),
    (web.HTTPExpectationFailed, Answer(417, "invalid_request_error", "expectation_failed")),
]
"""Anything else is a 500 whose cause goes to the log."""

INTERNAL = Answer(500, "server_error", "internal_error")


def answer_to(error: BaseException) -> Answer:
    """The row of the table for this error."""
    if isinstance(error, RequestError):
        kind = "authentication_error" if error.status == 401 else "invalid_request_error"
        return Answer(error.status, kind, error.code)
    for kind_of_error, answer in TABLE:
        if isinstance(error, kind_of_error):
            return answer
    if isinstance(error, web.HTTPException):
        return Answer(error.status, "invalid_request_error" if error.status < 500 else "server_error", "http_error")
    return INTERNAL


def body_of(error: BaseException, message: str = "") -> dict[str, Any]:
    """The OpenAI error body, with the error's message unless another is given. Logs what is our fault."""
    answer = answer_to(error)
    message = message or str(error)
    if answer is INTERNAL:
        log.error("request %s failed", REQUEST_ID.get(), exc_info=error)
        message = f"the server failed on this request; its log says why, under request id {REQUEST_ID.get()}"
    return {
        "error": {"message": message, "type": answer.type, "param": getattr(error, "param", None), "code": answer.code}
    }


def response_to(error: BaseException, message: str = "") -> web.Response:
    """The whole HTTP answer: status, body, and the headers that tell a client what to do next."""
    answer = answer_to(error)
    headers = {"Retry-After": str(answer.retry_after)} if answer.retry_after else {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(body_of(error, message), status=answer.status, headers=headers)
