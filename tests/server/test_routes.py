"""Every route as clients see it: the shapes of OpenAI's API, on success and on every kind of error."""

import asyncio
import gzip
import io
import json
import threading
from typing import Any

import pytest

from tests.server.fake import FakeModel
from tests.server.live import serving

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


async def test_a_chat_completion():
    async with serving(FakeModel(text="one two")) as client:
        reply = await client.post("/v1/chat/completions", json={**HELLO, "model": "fake"})
        body = await reply.json()
    assert reply.status == 200 and reply.headers["x-request-id"] and reply.headers["Server"] == "soberano"
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-") and body["model"] == "fake"
    message = {"role": "assistant", "content": "one two ", "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert body["timings"]["decode_tps"] == 50.0


async def test_logprobs_of_a_chat_have_bytes_and_alternatives():
    async with serving(FakeModel(text="one two")) as client:
        reply = await client.post("/v1/chat/completions", json={**HELLO, "logprobs": True, "top_logprobs": 2})
        content = (await reply.json())["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["one ", "two "]
    assert content[0]["bytes"] == list(b"o") and [top["token"] for top in content[0]["top_logprobs"]] == ["o", "p"]


async def test_a_completion_with_echo_several_prompts_and_choices():
    async with serving(FakeModel(text="one two")) as client:
        reply = await client.post(
            "/v1/completions", json={"prompt": ["a", [98, 99]], "n": 2, "echo": True, "best_of": 2}
        )
        body = await reply.json()
    assert body["object"] == "text_completion"
    assert [(c["index"], c["text"]) for c in body["choices"]] == [
        (0, "aone two "),
        (1, "aone two "),
        (2, "bcone two "),
        (3, "bcone two "),
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}


async def test_logprobs_of_a_completion_have_offsets():
    async with serving(FakeModel(text="one two")) as client:
        reply = await client.post("/v1/completions", json={"prompt": "a", "logprobs": 1})
        scores = (await reply.json())["choices"][0]["logprobs"]
    assert scores == {
        "tokens": ["one ", "two "],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"o": -0.5}, {"t": -0.5}],
        "text_offset": [0, 4],
    }


async def test_models():
    async with serving(FakeModel()) as client:
        listed = await (await client.get("/v1/models")).json()
        one = await (await client.get("/v1/models/fake")).json()
    assert listed == {"object": "list", "data": [one]}
    assert one["id"] == "fake" and one["object"] == "model" and one["context_length"] == 512


async def test_health_while_loading_and_when_ready():
    gate, model = threading.Event(), FakeModel()
    async with serving(None, load=lambda: gate.wait(5) and model, ready=False) as client:
        reply = await client.get("/health")
        assert (reply.status, (await reply.json())["status"]) == (503, "loading")
        reply = await client.post("/v1/chat/completions", json=HELLO)
        assert (reply.status, (await reply.json())["error"]["code"]) == (503, "model_loading") and reply.headers[
            "Retry-After"
        ]
        assert (await client.get("/metrics")).status == 200
        gate.set()
        while (reply := await client.get("/health")).status != 200:
            await asyncio.sleep(0.01)
        assert await reply.json() == {
            "status": "ready",
            "running": 0,
            "waiting": 0,
            "model": "fake",
            "backend": "numpy",
        }


async def test_metrics_count_what_was_served():
    async with serving(FakeModel(text="one two three")) as client:
        await client.post("/v1/chat/completions", json={**HELLO, "max_tokens": 2})
        text = await (await client.get("/metrics")).text()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['soberano:prompt_tokens_total{model_name="fake"}'] == "9.0"
    assert lines['soberano:generation_tokens_total{model_name="fake"}'] == "2.0"
    assert lines['soberano:request_success_total{finished_reason="length",model_name="fake"}'] == "1.0"
    assert lines['soberano:num_requests_running{model_name="fake"}'] == "0.0"
    for name in (
        "time_to_first_token",
        "inter_token_latency",
        "e2e_request_latency",
        "request_queue_time",
        "request_decode_time",
    ):
        assert lines[f'soberano:{name}_seconds_count{{model_name="fake"}}'] == "1.0"


async def test_metrics_measure_tokens_and_not_the_pieces_that_they_come_in():
    async with serving(FakeModel(text="one two three four five six", hold=4, delay=0.05)) as client:
        await client.post("/v1/chat/completions", json=HELLO)
        text = await (await client.get("/metrics")).text()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    value = lambda name: float(lines[f'soberano:{name}{{model_name="fake"}}'])  # noqa: E731
    assert value("generation_tokens_total") == 6.0
    assert value("time_to_first_token_seconds_count") == 1.0
    whole = value("e2e_request_latency_seconds_sum")
    assert value("time_to_first_token_seconds_sum") < 0.5 * whole, "two steps of seven, not the five until text comes"
    assert value("inter_token_latency_seconds_count") == 5.0
    assert value("request_prefill_time_seconds_sum") <= value("time_to_first_token_seconds_sum")


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code", "param"),
    [
        ("POST", "/v1/chat/completions", {"data": b"{"}, 400, "invalid_json", None),
        ("POST", "/v1/chat/completions", {"data": b"\xff{}"}, 400, "invalid_json", None),
        ("POST", "/v1/chat/completions", {"data": b"[" * 100_000}, 400, "invalid_json", None),
        ("POST", "/v1/chat/completions", {"json": [1]}, 400, "invalid_value", None),
        ("POST", "/v1/chat/completions", {"json": {}}, 400, "missing_parameter", "messages"),
        ("POST", "/v1/chat/completions", {"json": {**HELLO, "seed": "x"}}, 400, "invalid_value", "seed"),
        ("POST", "/v1/chat/completions", {"json": {**HELLO, "tools": [{}]}}, 400, "unsupported_parameter", "tools"),
        ("POST", "/v1/chat/completions", {"json": {**HELLO, "foo": 1}}, 400, "unknown_parameter", "foo"),
        ("POST", "/v1/chat/completions", {"json": {**HELLO, "model": "gpt"}}, 404, "model_not_found", "model"),
        ("POST", "/v1/completions", {"json": {"prompt": "x" * 600}}, 400, "context_length_exceeded", None),
        (
            "POST",
            "/v1/completions",
            {"json": {"prompt": "x" * 600, "stream": True}},
            400,
            "context_length_exceeded",
            None,
        ),
        ("POST", "/v1/completions", {"data": io.BytesIO(b" " * (5 * 2**20))}, 413, "request_too_large", None),
        (
            "POST",
            "/v1/completions",
            {"data": b"{}", "headers": {"Content-Type": "text/plain"}},
            415,
            "unsupported_media_type",
            None,
        ),
        ("GET", "/v1/models/other", {}, 404, "model_not_found", "model"),
        ("GET", "/v1/nothing", {}, 404, "unknown_route", None),
        ("GET", "/secret.js", {}, 404, "unknown_route", None),
        ("GET", "/../app.py", {}, 404, "unknown_route", None),
        ("DELETE", "/v1/models", {}, 405, "method_not_allowed", None),
        ("GET", "/v1/completions", {}, 405, "method_not_allowed", None),
        ("OPTIONS", "/v1/completions", {}, 405, "method_not_allowed", None),
    ],
)
async def test_errors_have_openais_shape(
    method: str, path: str, sent: dict[str, Any], status: int, code: str, param: str | None
):
    async with serving(FakeModel()) as client:
        reply = await client.request(
            method, path, **({"headers": {"Content-Type": "application/json"}} | sent if "data" in sent else sent)
        )
        error = (await reply.json())["error"]
    assert (reply.status, error["code"], error["param"]) == (status, code, param)
    assert (
        error["message"]
        and error["type"] == "invalid_request_error"
        and set(error) == {"message", "type", "param", "code"}
    )
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert status != 405 or reply.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/v1/nothing", "GET /v1/nothing is not served; the routes here are "),
        ("GET", "/secret.js", "GET /secret.js is not served; the routes here are "),
        ("DELETE", "/v1/models", "DELETE /v1/models is not served: this route takes GET, HEAD; the routes here are "),
    ],
)
async def test_who_misses_a_route_is_told_the_routes(method: str, path: str, says: str):
    async with serving(FakeModel()) as client:
        message = (await (await client.request(method, path)).json())["error"]["message"]
    assert message.startswith(says)
    for route in ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{id}", "GET /health", "GET /"):
        assert route in message.removeprefix(says).split(", ")


async def test_a_model_answers_to_its_id_and_to_the_name_in_its_file():
    async with serving(FakeModel(text="one"), name="mine") as client:
        listed = [card["id"] for card in (await (await client.get("/v1/models")).json())["data"]]
        replies = [await client.post("/v1/chat/completions", json={**HELLO, "model": m}) for m in ("mine", "fake", "x")]
        cards = [(await client.get(f"/v1/models/{m}")).status for m in ("mine", "fake", "x")]
        health = await (await client.get("/health")).json()
        used = (await replies[1].json())["model"]
    assert listed == ["mine"] and used == "mine" and health["model"] == "mine"
    assert [reply.status for reply in replies] == cards == [200, 200, 404]


async def test_a_failure_of_ours_tells_the_client_nothing_but_the_request_id():
    async with serving(FakeModel(break_at=0)) as client:
        reply = await client.post("/v1/chat/completions", json=HELLO, headers={"x-request-id": "abc-1"})
        error = (await reply.json())["error"]
    assert (
        reply.status == 500
        and error["code"] == "internal_error"
        and "abc-1" in error["message"]
        and "fire" not in error["message"]
    )
    assert reply.headers["x-request-id"] == "abc-1"


async def test_a_harmful_request_id_is_replaced():
    async with serving(FakeModel()) as client:
        reply = await client.get("/health", headers={"x-request-id": 'x" [31m'})
    assert len(reply.headers["x-request-id"]) == 32


async def test_a_full_queue_is_429_with_a_time_to_retry():
    async with serving(FakeModel(delay=0.01), max_running=1, max_waiting=1) as client:
        replies = await asyncio.gather(
            *(client.post("/v1/chat/completions", json={**HELLO, "max_tokens": 3}) for _ in range(6))
        )
        statuses = sorted(reply.status for reply in replies)
        refused = next(reply for reply in replies if reply.status == 429)
        assert statuses[:2] == [200, 200] and 429 in statuses and refused.headers["Retry-After"] == "2"
        assert (await refused.json())["error"]["code"] == "queue_full"


async def test_a_model_without_a_template_says_where_to_go():
    model = FakeModel()
    model.chat = None
    async with serving(model) as client:
        reply = await client.post("/v1/chat/completions", json=HELLO)
        assert reply.status == 400 and "/v1/completions" in (await reply.json())["error"]["message"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil",
        "x/health#",
        "",
        "10.0.0.1:80",
    ],
)
async def test_a_foreign_host_is_refused_on_every_route(host: str):
    async with serving(FakeModel()) as client:
        for path in ("/", "/health", "/v1/models", "/nothing"):
            reply = await client.get(path, headers={"Host": host})
            assert reply.status in (400, 421), (path, reply.status)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080"])
async def test_this_machine_is_answered(host: str):
    async with serving(FakeModel()) as client:
        assert (await client.get("/health", headers={"Host": host})).status == 200


async def test_any_host_is_answered_when_the_server_faces_a_network():
    async with serving(FakeModel(), only_loopback=False) as client:
        assert (await client.get("/health", headers={"Host": "models.example"})).status == 200


async def test_an_api_key_guards_everything_but_the_page_and_health():
    async with serving(FakeModel(), api_key="sésame") as client:
        for path in ("/v1/models", "/metrics", "/v1/models/fake", "/nothing"):
            for given in (
                None,
                "Bearer",
                "Bearer wrong",
                "sésame",
                "Basic sésame",
                "Bearer sésame "[:-2],
                "Bearer " + "x" * 4000,
            ):
                reply = await client.get(path, headers={"Authorization": given} if given else {})
                assert reply.status == 401 and reply.headers["WWW-Authenticate"] == "Bearer", (path, given)
        assert (await client.post("/v1/chat/completions", json=HELLO)).status == 401
        assert (await client.get("/v1/models", headers={"Authorization": "Bearer sésame"})).status == 200
        assert (await client.get("/health")).status == 200 and (await client.get("/")).status == 200


async def test_the_page_and_its_files():
    async with serving(FakeModel()) as client:
        page = await client.get("/")
        text = await page.text()
        policy = page.headers["Content-Security-Policy"]
        assert page.content_type == "text/html" and "default-src 'none'" in policy and "unsafe" not in policy
        assert "http" not in text.replace("http-equiv", "") and "<style" not in text and " onclick" not in text
        for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
            file = await client.get(f"/{name}")
            assert file.content_type == kind and file.headers["X-Content-Type-Options"] == "nosniff"
            again = await client.get(f"/{name}", headers={"If-None-Match": file.headers["ETag"]})
            assert again.status == 304 and file.headers["Cache-Control"] == "no-cache"
        assert (await client.head("/")).status == 200


@pytest.mark.parametrize("names", [["app.js", "client.js", "markdown.js", "store.js"]])
async def test_the_page_never_turns_text_into_markup(names: list[str]):
    async with serving(FakeModel()) as client:
        for name in names:
            source = await (await client.get(f"/{name}")).text()
            for sink in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "setHTML",
            ):
                assert sink not in source, f"{name} uses {sink}"


async def test_a_body_that_is_compressed_is_refused():
    async with serving(FakeModel()) as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        reply = await client.post(
            "/v1/completions", data=gzip.compress(json.dumps({"prompt": "x"}).encode()), headers=headers
        )
        assert reply.status in (400, 415)


LONG_CHAT = {
    "messages": [
        {"role": "system", "content": "s" * 10},
        *({"role": role, "content": "x" * 90} for _ in range(3) for role in ("user", "assistant")),
        {"role": "user", "content": "newest"},
    ],
    "max_tokens": 2,
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_conversation_slides_where_the_server_was_told_to(stream: bool):
    model = FakeModel()
    async with serving(model, long_chats="slide") as client:
        reply = await client.post("/v1/chat/completions", json={**LONG_CHAT, "stream": stream})
        assert (reply.status, reply.headers["x-dropped-messages"]) == (200, "2")
        await reply.read()
        prompt = bytes(model.prompts[0]).decode()
        assert prompt.startswith("system: ssssssssss\nuser: x") and prompt.endswith("user: newest\n")
        assert prompt.count("xuser: ") == 0 and prompt.count("\nuser: x") == 2
        short = await client.post("/v1/chat/completions", json=HELLO)
        assert short.status == 200 and "x-dropped-messages" not in short.headers


async def test_a_long_conversation_is_refused_with_the_numbers():
    one = {"role": "user", "content": "x" * 600}
    refused = (
        ("refuse", LONG_CHAT, "but the context holds 512"),
        ("slide", {"messages": [one]}, "the conversation, which is one turn, is 607 tokens, but the context holds 512"),
        ("slide", {"messages": [*LONG_CHAT["messages"], one]}, "what is left of the conversation is 626 tokens"),
        ("slide", {"messages": [{"role": "user", "content": ""}] * 9000}, "send the newest 8192"),
    )
    for policy, body, named in refused:
        async with serving(FakeModel(), long_chats=policy) as client:
            reply = await client.post("/v1/chat/completions", json=body)
            error = (await reply.json())["error"]
            assert reply.status == 400 and named in error["message"]
