"""The door, with a real listening socket: so many at a time, and strangers who say nothing are shown out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from soberano.server.app import DOOR, make_app
from soberano.server.door import Door
from soberano.server.engine import Engine
from soberano.server.wire import Runner
from tests.server.fake import FakeModel

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def opened(door: Door) -> AsyncIterator[tuple[int, web.Server]]:
    """A server behind this door: its port, and aiohttp's side of it."""
    engine = Engine(FakeModel)
    app = make_app(engine, grace_s=0.0)
    app._state[DOOR] = door
    runner = Runner(app)
    await runner.setup()
    door.server = runner.server
    engine.start()
    listener = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
    try:
        await asyncio.wrap_future(engine.loaded)
        yield listener.sockets[0].getsockname()[1], runner.server
    finally:
        listener.close()
        await runner.cleanup()


async def call(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return reader, writer


async def test_one_connection_too_many_is_told_so_and_the_next_place_is_given_again():
    async with opened(Door(most=2)) as (port, server):
        guests = [await call(port, GET) for _ in range(2)]
        for reader, _ in guests:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        reader, writer = await call(port, b"")
        reply = await reader.read()
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503") and b"Retry-After" in head and b"Content-Length: %d" % len(body) in head
        assert b"Server: soberano" in head and b"x-request-id: " in head
        assert b'"code": "too_many_connections"' in body and len(server.connections) == 2
        guests[0][1].close()
        while len(server.connections) == 2:
            await asyncio.sleep(0.01)
        reader, guest = await call(port, GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for one in (writer, guest, guests[1][1]):
            one.close()


async def test_who_sends_no_request_in_time_is_shown_out_and_who_did_may_stay():
    async with opened(Door(patience_s=0.3)) as (port, _):
        reader, guest = await call(port, GET)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        for strange in (b"", b"G", GET[:-1]):
            quiet, writer = await call(port, strange)
            assert await asyncio.wait_for(quiet.read(), 5) == b""
            writer.close()
        guest.write(GET)
        assert b"HTTP/1.1 200" in await asyncio.wait_for(reader.readuntil(b"}"), 5)
        guest.close()
