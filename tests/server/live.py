"""Servers to talk to: one inside a coroutine, one that really listens, and the program as a user starts it."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from soberano.server.app import make_app
from soberano.server.engine import Engine
from soberano.server.wire import Runner

OF_ENGINE = ("name", "max_running", "max_waiting", "deadline_s")


class OnOurConnections(TestServer):
    """A test server whose runner is the one that we serve with."""

    async def _make_runner(self, **_: Any) -> Runner:
        return Runner(self.app)


@asynccontextmanager
async def serving(
    model: Any, *, ready: bool = True, load: Callable[[], Any] | None = None, **more: Any
) -> AsyncIterator[TestClient]:
    """A client of a server in this event loop. `more` goes to Engine and make_app; `ready` waits for the model."""
    engine = Engine(load or (lambda: model), **{name: more.pop(name) for name in OF_ENGINE if name in more})
    server = OnOurConnections(make_app(engine, **{"grace_s": 0.0, "heartbeat_s": 0.05} | more))
    await server.start_server()
    client = TestClient(server)
    engine.start()
    try:
        if ready:
            await asyncio.wrap_future(engine.loaded)
        yield client
    finally:
        await client.close()


@contextmanager
def live(model: Any, **more: Any) -> Iterator[str]:
    """Serve `model` on a free port from a thread, and give the address, such as http://127.0.0.1:40123."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = Engine(lambda: model)
    runner = Runner(make_app(engine, **{"grace_s": 0.0} | more), shutdown_timeout=1.0)

    async def up() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        engine.start()
        await asyncio.wrap_future(engine.loaded)
        return runner.addresses[0][1]

    try:
        yield f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(up(), loop).result(60)}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@contextmanager
def program(*arguments: str) -> Iterator[str]:
    """`soberano serve ARGUMENTS` on a free port, and its address once it is ready. Its progress goes to our stderr."""
    command = [sys.executable, "-m", "soberano", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = re.search(r"http://\S+?:\d+", server.stdout.readline())
            if ready is None:
                raise SystemExit(f"{' '.join(command)} ended with status {server.wait()}")
            yield ready[0]
        finally:
            server.terminate()
            server.communicate(timeout=30)
