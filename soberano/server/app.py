"""The application: routes, middlewares and state put together, and `serve`, which runs it until it is told to stop."""

import asyncio
import errno
import hashlib
import hmac
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from soberano.core.errors import InputError
from soberano.core.printable import printable
from soberano.core.progress import Progress, silent
from soberano.models.encoder import Encoder
from soberano.models.load import load
from soberano.models.long_chats import Policy
from soberano.server.desk import Desk
from soberano.server.door import Door
from soberano.server.engine import Engine, Loaded
from soberano.server.errors import RequestError, Stopping, response_to
from soberano.server.metrics import Metrics
from soberano.server.routes import OPEN, ROUTES, STATE, State, routes
from soberano.server.warm import warm_rest, warm_up
from soberano.server.wire import Runner, name, sign

LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
"""Host headers that a browser sends only when the user typed this machine: anything else is DNS rebinding."""

MAX_BODY = 4 * 2**20
API_KEY = web.AppKey("api_key_digest", bytes)
ONLY_LOOPBACK = web.AppKey("only_loopback", bool)
DOOR = web.AppKey("door", Door)


def make_app(
    engine: Engine,
    *,
    api_key: str | None = None,
    only_loopback: bool = True,
    grace_s: float = 10.0,
    heartbeat_s: float = 5.0,
    patience_s: float = 60.0,
    long_chats: Policy = "refuse",
) -> web.Application:
    """Put the application together around an engine that the caller starts; the application stops it.

    `only_loopback` refuses requests whose Host header names anything but this machine. `grace_s` is the time that
    running answers get at the end. `patience_s` is how long a client may take to send a body, or to take an answer.
    `long_chats` says what is done with conversations that no longer fit: see soberano.models.long_chats.
    """
    rooms = [name_request, deliver, shape_errors, check_host, check_key]
    app = web.Application(middlewares=rooms, client_max_size=MAX_BODY)
    app[STATE] = State(engine, Metrics(engine), Desk(), heartbeat_s, patience_s, long_chats)
    app[DOOR] = Door()
    app[ONLY_LOOPBACK] = only_loopback
    if api_key is not None:
        app[API_KEY] = _digest(api_key)
    app.add_routes(routes)

    async def sign_response(_: web.Request, response: web.StreamResponse) -> None:
        sign(response)

    async def drain(_: web.Application) -> None:
        await asyncio.to_thread(engine.stop, grace_s)

    async def close(_: web.Application) -> None:
        app[STATE].desk.close()

    app.on_response_prepare.append(sign_response)
    app.on_shutdown.append(drain)  # no new connections from here on; streams may still be read
    app.on_cleanup.append(close)
    return app


@web.middleware
async def name_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request its id, and its connection leave to stay."""
    name(request)
    request.app[DOOR].asked(request)
    return await handler(request)


@web.middleware
async def deliver(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send the answer, and hang up on a client that does not take it. A stream has sent most of itself by now."""
    response = await handler(request)
    try:
        async with asyncio.timeout(request.app[STATE].patience_s):
            await response.prepare(request)
            await response.write_eof()
    except ConnectionError:
        pass  # the client has left
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


@web.middleware
async def shape_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in OpenAI's shape."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return response_to(error, _in_our_words(error, f"{request.method} {request.path[:200]}"))
    except Exception as error:
        return response_to(error)


def _in_our_words(error: web.HTTPException, asked: str) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return f"{asked} is not served: this route takes {allowed}; the routes here are {ROUTES}"
    if isinstance(error, web.HTTPNotFound):
        return f"{asked} is not served; the routes here are {ROUTES}"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"the body is longer than the {MAX_BODY:,} bytes that this server reads; send less"
    return f"{asked}: {error.reason}"


@web.middleware
async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse the requests that a foreign page makes by pointing its own name at this machine."""
    host = request.headers.get("Host", "")
    if request.app[ONLY_LOOPBACK] and not LOOPBACK.fullmatch(host):
        raise RequestError(
            f"Host is {host[:200]!r}, but this server answers only as localhost or 127.0.0.1",
            code="wrong_host",
            status=421,
        )
    return await handler(request)


@web.middleware
async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ask for the API key, if there is one, everywhere but at the handlers of OPEN."""
    digest = request.app.get(API_KEY)
    if digest is not None and request.match_info.handler not in OPEN:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if not (kind.lower() == "bearer" and hmac.compare_digest(_digest(given), digest)):
            raise RequestError(
                "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                status=401,
            )
    return await handler(request)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _say(line: str) -> None:
    print(printable(line, lines=False), flush=True)  # whoever reads the address from a pipe waits for it


def serve(
    model: str | Path | Loaded,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    demo: bool = False,
    name: str | None = None,
    backend: str | None = None,
    context: int | None = None,
    sequences: int = 4,
    cache: str | None = None,
    adapters: Mapping[str, Path] | None = None,
    head: str | Path | None = None,
    api_key: str | None = None,
    max_running: int = 16,
    max_waiting: int = 64,
    deadline_s: float = 600.0,
    grace_s: float = 10.0,
    long_chats: Policy = "refuse",
    progress: Progress = silent,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve a model, given as a path or already loaded, until SIGINT or SIGTERM.

    The port is open while the model loads: /health answers 503 then. The cache has room for `sequences` answers of
    the full context; up to `max_running` shorter ones share it. Clients know the model as `name`, else as the stem of
    its path, and may always use the name it has for itself. `on_ready` is called once, before the address is printed:
    when nothing is left to wait for. `demo` adds a line on what to do first. A second signal ends without grace.
    `long_chats` says what is done with conversations that no longer fit: see soberano.models.long_chats. `adapters` are
    LoRA adapters by the name that clients know them by: each is a model of its own, over the weights of this one.
    `head` is the folder of a head that was trained on this encoder.
    Raises InputError when there is no listening at `host` and `port`, and what loading raises.
    """

    def watched(label: str, done: int, total: int | None, unit: str) -> None:
        if engine.state == "stopping":
            raise Stopping("stopped while the model was loading")
        progress(label, done, total, unit)

    taken = name or (_stem(model) if isinstance(model, str | Path) else None)
    engine = Engine(
        _loader(
            model,
            watched,
            adapters or {},
            taken,
            backend=backend,
            context=context,
            sequences=sequences,
            cache=cache,
            head=head,
        ),
        name=taken,
        max_running=max_running,
        max_waiting=max_waiting,
        deadline_s=deadline_s,
        chores=warm_rest,
    )
    only_loopback = bool(LOOPBACK.fullmatch(_in_url(host)))
    app = make_app(engine, api_key=api_key, only_loopback=only_loopback, grace_s=grace_s, long_chats=long_chats)
    try:
        asyncio.run(_serve(app, engine, host, port, demo, on_ready))
    except KeyboardInterrupt:  # where the event loop takes no signal handlers (Windows)
        pass
    finally:
        engine.stop()
        if engine.loaded.done() and not engine.loaded.exception() and isinstance(model, (str, Path)):
            engine.model.close()


def _loader(
    model: str | Path | Loaded, progress: Progress, adapters: Mapping[str, Path], name: str | None, **how: Any
) -> Callable[[], Loaded]:
    def given() -> Loaded:
        if not isinstance(model, str | Path):
            warm_up(model, progress)
            return model
        made = load(model, progress=progress, **how)
        try:
            for adapter, path in adapters.items():
                _add(made, name, adapter, path, progress)
            warm_up(made, progress)
        except BaseException:
            made.close()
            raise
        return made

    return given


def _add(model: Loaded, name: str | None, adapter: str, path: Path, progress: Progress) -> None:
    if isinstance(model, Encoder):
        raise InputError(f"{path} is an adapter, and the model is an encoder, which takes none")
    if adapter in (name, model.name):
        raise InputError(f"an adapter and the model are both called {adapter!r}; give one of them another name")
    model.add_adapter(adapter, path, progress)


def _stem(path: str | Path) -> str:
    return Path(path).stem.encode("utf-8", "replace").decode()  # a name of a file may be no text; what we send must be


async def _serve(
    app: web.Application, engine: Engine, host: str, port: int, demo: bool, on_ready: Callable[[], None]
) -> None:
    runner = Runner(app, shutdown_timeout=5.0)
    await runner.setup()
    listener = None
    try:
        listener = await _listen(app, runner, host, port)
        await _until_told(engine, listener, host, demo, on_ready)
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


async def _listen(app: web.Application, runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    door = app[DOOR]
    door.server = runner.server
    try:
        return await asyncio.get_running_loop().create_server(door, host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no resolver takes
        raise InputError(f"cannot listen on {host} port {port}: {_why_not(error, port)}") from None


def _why_not(error: OSError | UnicodeError, port: int) -> str:
    """Why there is no listening, and the cure. The text of asyncio's error names the address again, as a tuple."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    other = f"choose another with --port, or 0 for any free one; with make: make demo PORT={port % 65535 + 1}"
    if number == errno.EADDRINUSE:
        return f"the address is already in use; {other}"
    if number == errno.EACCES:
        return f"this port is not ours to take; {other}"
    why = os.strerror(number) if number else getattr(error, "strerror", None) or error
    return f"{why}; choose another address with --host"


async def _until_told(
    engine: Engine, listener: asyncio.Server, host: str, demo: bool, on_ready: Callable[[], None]
) -> None:
    """Load the model, say where it is served, and wait for a signal. Raises what loading raises."""
    stop = asyncio.Event()
    _on_signals(stop, engine)
    engine.start()
    loading: asyncio.Future[Loaded] = asyncio.wrap_future(engine.loaded)
    loading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # seen, even if nobody waits for it
    stopping: asyncio.Future[Any] = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return
        loading.result()
        on_ready()
        address = f"http://{_in_url(host)}:{listener.sockets[0].getsockname()[1]}"
        what = _purpose(engine.model)
        _say(f"Serving {engine.name} at {address} ({what}; the OpenAI API is under {address}/v1). Ctrl-C stops.")
        if demo:
            _say(f"Open {address} in a browser and say hello.")
        await stopping
    finally:
        stopping.cancel()


def _purpose(model: Loaded) -> str:
    if isinstance(model, Encoder):
        classes = model.head is not None and model.head.kind == "classifier"
        return "reranking" if model.scores else "classification" if classes else "embeddings"
    return "chat page"


def _on_signals(stop: asyncio.Event, engine: Engine) -> None:
    """The first signal asks for a graceful stop, the second for one without grace."""

    def heard() -> None:
        if stop.is_set():
            engine.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            asyncio.get_running_loop().add_signal_handler(number, heard)
        except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
            return


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
