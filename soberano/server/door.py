"""The door: what stands between the listening socket and aiohttp, so that idle strangers do not hold the house.

A connection costs a file and some memory before it has asked for anything. The door lets in so many at a time, tells
the next one to come back, and shows out whoever has sent no whole request head in time. (From then on aiohttp's
keep-alive limit, and `State.patience_s` for bodies and answers, bound every wait for a client.)
"""

import asyncio
import uuid

from aiohttp import web

MOST = 512
"""Connections at a time: engines queue fewer requests, and a process may commonly open 1,024 files."""

_BODY = (
    b'{"error": {"message": "too many connections are open; try again soon", '
    b'"type": "server_error", "param": null, "code": "too_many_connections"}}'
)


def full() -> bytes:
    """The whole answer for one connection too many."""
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Retry-After: 2\r\nServer: soberano\r\nx-request-id: %b\r\nConnection: close\r\n\r\n%b"
    ) % (len(_BODY), uuid.uuid4().hex.encode(), _BODY)


class Door:
    """A factory of protocols for `loop.create_server`. Middleware says `asked` when a request has come."""

    def __init__(self, most: int = MOST, patience_s: float = 30.0) -> None:
        self.most, self.patience_s = most, patience_s
        self.server: web.Server | None = None  # aiohttp's factory, which is made after the application
        self._silent: set[asyncio.BaseProtocol] = set()

    def __call__(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        assert self.server is not None, "a door is opened before it is used"
        if len(self.server.connections) >= self.most:
            return _Full()
        protocol = self.server()
        self._silent.add(protocol)
        asyncio.get_running_loop().call_later(self.patience_s, self._show_out, protocol)
        return protocol

    def asked(self, request: web.Request) -> None:
        """A request has come: its connection is no stranger any more."""
        self._silent.discard(request.protocol)

    def _show_out(self, protocol: web.RequestHandler) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            protocol.force_close()


class _Full(asyncio.Protocol):
    """Answers 503 whatever is asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(full())
        transport.close()
