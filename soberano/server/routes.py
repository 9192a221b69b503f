"""The routes. A handler reads, asks the engine, answers; rules live in protocol, answers, stream and errors."""

import asyncio
import json
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from soberano.models.encoder import Encoder
from soberano.models.long_chats import Policy, fit
from soberano.models.model import Model
from soberano.models.options import Options
from soberano.server import checks, classify, embeddings, page, protocol, rerank, stream
from soberano.server.answers import ChatForm, Form, TextForm
from soberano.server.desk import Desk
from soberano.server.engine import Engine, Loaded
from soberano.server.errors import RequestError
from soberano.server.jobs import Rank
from soberano.server.metrics import Metrics
from soberano.server.run import Run


@dataclass(frozen=True)
class State:
    """Everything that handlers use."""

    engine: Engine
    metrics: Metrics
    desk: Desk  # for templates and tokenizing, so that neither blocks the event loop or the device
    heartbeat_s: float = 5.0
    patience_s: float = 60.0  # how long a client may take to send a body, or to take what it is sent
    long_chats: Policy = "refuse"  # what is done with conversations that no longer fit


STATE = web.AppKey("state", State)
routes = web.RouteTableDef()
SHOWN = ("temperature", "top_k", "top_p", "min_p")
"""The defaults that the card of a model tells."""


@routes.post("/v1/chat/completions")
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    state, model = _decoder(request)
    asked = protocol.chat(await _json(request), _limits(model)._replace(slides=state.long_chats == "slide"))
    adapter = _check_model(asked.model, state.engine)
    if model.chat is None:
        raise RequestError(
            f"{state.engine.name} has no chat template; use /v1/completions", "messages", code="no_chat_template"
        )
    scored, name = asked.options.logprobs is not None, adapter or state.engine.name
    form = ChatForm(name, model.tokenizer, logprobs=scored, fingerprint=_fingerprint(model))
    size = sum(len(message["content"]) for message in asked.messages)
    async with Run(state.engine, len(asked.choices)) as run:
        fitted = await state.desk.run(
            size, fit, model, asked.messages, state.long_chats, answer=asked.options.max_tokens
        )
        headers = {"x-dropped-messages": str(fitted.dropped)} if fitted.dropped else None
        return await _answer(request, asked, [fitted.tokens], run, form, headers, adapter)


@routes.post("/v1/completions")
async def completions(request: web.Request) -> web.StreamResponse:
    """Continue a text."""
    state, model = _decoder(request)
    asked = protocol.completion(await _json(request), _limits(model))
    adapter = _check_model(asked.model, state.engine)
    shown = [p if isinstance(p, str) else model.tokenizer.decode(p, special=True) for p in asked.prompts]
    echoes = [shown[i] if asked.echo else "" for i, _ in asked.choices]
    scored = asked.options.logprobs is not None
    name = adapter or state.engine.name
    form = TextForm(name, model.tokenizer, logprobs=scored, fingerprint=_fingerprint(model), echoes=echoes)
    async with Run(state.engine, len(asked.choices)) as run:
        prompts = [await _tokens(state, model, prompt) for prompt in asked.prompts]
        return await _answer(request, asked, prompts, run, form, adapter=adapter)


@routes.post("/v1/embeddings")
async def embed(request: web.Request) -> web.Response:
    """Turn texts into vectors."""
    state, model = _ready(request)
    if not isinstance(model, Encoder):
        raise _other_kind(state.engine, "generates text and embeds none", "/v1/chat/completions or /v1/completions")
    if model.ranks:
        raise _other_kind(state.engine, "ranks documents and embeds none", "/v1/rerank")
    asked = embeddings.read(await _json(request), model)
    _check_model(asked.model, state.engine)
    async with Run(state.engine, 1) as run:
        size = sum(len(text) for text in asked.texts)
        texts = await state.desk.run(size, embeddings.tokens, asked, model)
        run.submit([(texts, asked.options)])
        vectors, prompt_tokens = await embeddings.collect(request, run, len(texts), state.heartbeat_s)
    text = await state.desk.run(size, embeddings.body, asked, vectors, state.engine.name, prompt_tokens)
    return web.json_response(text=text)


@routes.post("/v1/rerank")
async def rank(request: web.Request) -> web.Response:
    """Sort documents by how well they answer a query."""
    state, model = _ready(request)
    if isinstance(model, Encoder) and not model.scores:
        raise _other_kind(state.engine, "embeds texts and has no head to rank with", "/v1/embeddings")
    asked = rerank.read(await _json(request), model)
    _check_model(asked.model, state.engine)
    async with Run(state.engine, 1) as run:
        size = len(asked.query) * len(asked.documents) + sum(map(len, asked.documents))
        pairs = await state.desk.run(size, rerank.pairs, asked, model)
        run.submit([(pairs.tokens, Rank())])
        scores, prompt_tokens = await embeddings.collect(request, run, pairs.documents, state.heartbeat_s)
    text = rerank.body(asked, scores, state.engine.name, prompt_tokens, pairs.cut)
    return web.json_response(text=text)


@routes.post("/v1/classify")
async def say_class(request: web.Request) -> web.Response:
    """Say what texts are, with a trained head."""
    state, model = _ready(request)
    if not isinstance(model, Encoder):
        raise _other_kind(state.engine, "generates text and classifies none", "/v1/chat/completions or /v1/completions")
    head = model.head
    if head is None or head.kind != "classifier":
        route = "/v1/rerank" if model.scores else "/v1/embeddings"
        raise _other_kind(state.engine, "has no head that classifies (soberano serve ENCODER --head FOLDER)", route)
    asked = classify.read(await _json(request), model)
    _check_model(asked.model, state.engine)
    async with Run(state.engine, 1) as run:
        size = sum(len(text) for text in asked.texts)
        texts = await state.desk.run(size, embeddings.tokens, asked, model)
        run.submit([(texts, asked.options)])
        vectors, prompt_tokens = await embeddings.collect(request, run, len(texts), state.heartbeat_s)
    text = await state.desk.run(size, classify.body, head, vectors, state.engine.name, prompt_tokens)
    return web.json_response(text=text)


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """List the model, and each adapter as a model of its own."""
    state, model = _ready(request)
    names = (state.engine.name, *state.engine.adapters)
    return web.json_response({"object": "list", "data": [_card(name, model, state.engine) for name in names]})


@routes.get("/v1/models/{id:.+}")
async def model_card(request: web.Request) -> web.Response:
    """Describe a model."""
    state, model = _ready(request)
    adapter = _check_model(request.match_info["id"], state.engine)
    return web.json_response(_card(adapter or state.engine.name, model, state.engine))


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Say whether requests are served: 200 when they are, 503 while loading, stopping, or after a failed load."""
    engine = request.app[STATE].engine
    told: dict[str, Any] = {"status": engine.state, "running": engine.running, "waiting": engine.waiting}
    if engine.state == "ready":
        told |= {"model": engine.name, "backend": engine.model.plan.backend}
    return web.json_response(told, status=200 if engine.state == "ready" else 503)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Expose the metrics to Prometheus."""
    return web.Response(body=request.app[STATE].metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@routes.get("/")
@routes.get("/{name:[a-z]+[.](?:js|css|svg)}")
async def chat_page(request: web.Request) -> web.Response:
    """Serve the chat page and its files."""
    return page.answer(request, request.match_info.get("name", "index.html"))


OPEN = (health, chat_page)
"""Handlers that need no API key: they hold no answer of a model. All others do."""

ROUTES = ", ".join(
    f"{route.method} {re.sub(r':[^}]*}', '}', route.path)}"
    for route in routes
    if isinstance(route, web.RouteDef) and not route.path.startswith("/{")  # the files of the page
)
"""The routes as a client that missed them is told: GET /health, POST /v1/completions and so on."""


def _ready(request: web.Request) -> tuple[State, Loaded]:
    state = request.app[STATE]
    return state, state.engine.model


def _decoder(request: web.Request) -> tuple[State, Model]:
    state, model = _ready(request)
    if isinstance(model, Encoder):
        does, route = ("ranks documents", "/v1/rerank") if model.ranks else ("embeds texts", "/v1/embeddings")
        raise _other_kind(state.engine, f"{does} and generates none", route)
    return state, model


def _other_kind(engine: Engine, does: str, route: str) -> RequestError:
    return RequestError(f"{engine.name} {does}; use {route}", "model", code="unsupported_model")


def _limits(model: Model) -> protocol.Limits:
    return protocol.Limits(model.context, model.tokenizer.size, model.tokenizer.longest)


async def _json(request: web.Request) -> Any:
    """The JSON body. Its type must be JSON: a page of another origin cannot send that without asking first."""
    if request.content_type != "application/json":
        raise RequestError(
            f"Content-Type is {request.content_type!r}, but must be application/json",
            code="unsupported_media_type",
            status=415,
        )
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise RequestError("the body is compressed; send it as it is", code="unsupported_encoding", status=415)
    try:
        async with asyncio.timeout(request.app[STATE].patience_s):
            raw = await request.read()
    except TimeoutError:
        raise RequestError(
            "the body has not come in time; send it at once", code="request_timeout", status=408
        ) from None
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from None


def _check_model(asked: str | None, engine: Engine) -> str | None:
    """The adapter that is asked for by its name; None for the model itself, which has an id and a name in its file.

    Raises RequestError for any other.
    """
    if asked in engine.adapters:
        return asked
    if asked is not None and asked not in (engine.name, engine.model.name):
        there = ", ".join(map(repr, (engine.name, *engine.adapters)))
        said = f"no model is called {asked[:200]!r}; this server has {there}"
        raise RequestError(said, "model", code="model_not_found", status=404)
    return None


async def _tokens(state: State, model: Model, prompt: str | tuple[int, ...]) -> list[int]:
    """The tokens of a raw prompt, in which special tokens count as such. Raises ContextError for too many."""
    if not isinstance(prompt, str):
        return list(prompt)
    tokens = await state.desk.run(len(prompt), model.tokenizer.encode, prompt, special=True, most=model.context)
    checks.fits("prompt", len(tokens), "tokens", model.context)  # before the next prompt takes its time
    return tokens


async def _answer(
    request: web.Request,
    asked: protocol.Asked,
    prompts: list[Any],
    run: Run,
    form: Form,
    headers: dict[str, str] | None = None,
    adapter: str | None = None,
) -> web.StreamResponse:
    state = request.app[STATE]
    run.submit([(prompts[i], replace(options, adapter=adapter)) for i, options in asked.choices])
    if asked.stream:
        waits = state.heartbeat_s, state.patience_s
        usage = {name: getattr(asked, name) for name in protocol.USAGE}
        return await stream.send(request, run, form, asked.n, *waits, headers, **usage)
    return web.json_response(await stream.collect(request, run, form, asked.n, state.heartbeat_s), headers=headers)


def _fingerprint(model: Model) -> str:
    """What, besides the seed, an answer depends on."""
    return f"soberano-{model.plan.backend}-{model.plan.isa}"


def _card(name: str, model: Loaded, engine: Engine) -> dict[str, Any]:
    """OpenAI's four fields, and what a client of ours may want to know; of an adapter, the model that it is beside."""
    base = {"id": name, "object": "model", "created": 0, "owned_by": "soberano", "context_length": model.context}
    if name != engine.name:
        base["parent"] = engine.name
    if isinstance(model, Encoder):
        labels = {"labels": list(model.head.labels)} if model.head is not None and model.head.labels else {}
        return base if model.ranks else {**base, "dimensions": model.width, **labels}
    sampling = {field.name: field.default for field in fields(Options) if field.name in SHOWN}
    return {**base, "defaults": sampling}
