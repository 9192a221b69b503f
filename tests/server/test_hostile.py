"""What no well-behaved client sends: raw bytes, because clients refuse to send them."""

import asyncio
import gzip
import io
import json
import re
import socket
import time

import pytest

from tests.server.fake import FakeModel, FakeTokenizer
from tests.server.live import serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"prompt": "hi", "max_tokens": 1}'


async def raw(sent: bytes, seconds: float = 5.0) -> tuple[bytes, FakeModel]:
    """What comes back for these bytes on a connection of their own, and the model behind the server."""
    model = FakeModel()
    async with serving(model) as client:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        try:
            writer.write(sent)
            await asyncio.wait_for(writer.drain(), seconds)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), seconds)
            length = re.search(rb"Content-Length: (\d+)", head)
            return head + (
                await asyncio.wait_for(reader.readexactly(int(length[1])), seconds) if length else b""
            ), model
        except (ConnectionError, asyncio.IncompleteReadError):
            return b"", model  # the server hung up while we were still talking
        finally:
            writer.close()


async def test_the_harness_sends_a_good_request_well():
    reply, model = await raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert reply.startswith(b"HTTP/1.1 200") and len(model.generations) == 1


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Host: evil.example\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + BODY + b"\r\n0\r\n\r\n",
        HEAD + b"Content-Length: +33\r\n\r\n" + BODY,
        HEAD + b"X: " + b"x" * 200_000 + b"\r\n\r\n",
        HEAD + b"X : y\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        HEAD + b"X: y\x00\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET http://evil.example/health HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
    ],
    ids=[
        "two hosts", "two lengths", "length and chunks", "negative chunk", "signed length", "long header",
        "space before colon", "nul in header", "no host", "old and no host", "absolute form", "tls",
    ],
)  # fmt: skip
async def test_malformed_requests_reach_no_model(sent: bytes):
    reply, model = await raw(sent)
    status = int(reply.split(b" ", 2)[1]) if reply else 400
    assert 400 <= status < 500 and model.generations == []


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 400, "bad_http"),
        (HEAD + b"X: y\r\n" * 1000 + b"\r\n", 400, "bad_http"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad_http"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "bad_http"),
        (HEAD + b"Content-Length: +33\r\n\r\n" + BODY, 400, "bad_http"),
        (HEAD + b"Expect: banana\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY, 417, "expectation_failed"),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nExpect: banana\r\n\r\n", 417, "expectation_failed"),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "unknown_route"),
        (b"BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad_http"),
        (b"PROPFIND /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "method_not_allowed"),
    ],
    ids=["header", "headers", "line", "tls", "length", "expect", "expect nowhere", "route", "no method", "method"],
)
async def test_whatever_is_refused_is_refused_in_openais_shape(
    sent: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
):
    reply, model = await raw(sent)
    head, _, body = reply.partition(b"\r\n\r\n")
    named = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
    assert int(head.split(b" ")[1]) == status and model.generations == []
    assert named["Server"] == "soberano" and named["x-request-id"] and "aiohttp" not in head.decode()
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert error["message"] and set(error) == {"message", "type", "param", "code"} and len(error["message"]) < 400
    assert not caplog.records, "what a stranger sends fills no log"


async def test_a_body_may_wait_until_it_is_asked_for():
    async with serving(FakeModel()) as client:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(BODY)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_endless_trailers_are_cut_off():
    trailers = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(5000))
    sent = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n" + trailers + b"\r\n"
    reply, model = await raw(sent)
    assert not reply.startswith(b"HTTP/1.1 200") and model.generations == []


async def test_a_zip_bomb_is_refused_quickly():
    bomb = gzip.compress(b" " * 50_000_000)
    began = time.monotonic()
    reply, model = await raw(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
    assert (not reply or reply.split(b" ")[1] in (b"400", b"413", b"415")) and model.generations == []
    assert time.monotonic() - began < 3


async def test_a_number_that_no_float_holds_is_refused():
    body = b'{"prompt": "hi", "seed": ' + b"9" * 400 + b"}"
    reply, model = await raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert reply.startswith(b"HTTP/1.1 400") and b'"seed"' in reply and model.generations == []


async def test_a_body_that_never_ends_is_given_up():
    async with serving(FakeModel(), patience_s=0.1) as client:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
        reply = await asyncio.wait_for(reader.read(4096), 5)
        writer.close()
    assert reply.startswith(b"HTTP/1.1 408") and b"request_timeout" in reply


@pytest.mark.parametrize("stream", [b"false", b"true"])
async def test_a_client_that_does_not_read_is_hung_up_on(stream: bytes):
    model = FakeModel(text="one " * 50, pages=20, context=1_000_000)
    body = b'{"prompt": "%b", "echo": true, "n": 16, "stream": %b}' % (b"x" * 700_000, stream)
    async with serving(model, patience_s=0.3) as client:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((client.host, client.port))
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(deaf, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connections = client.server.runner.server
        for _ in range(1500):
            if model.generations and not connections.connections:
                break
            await asyncio.sleep(0.01)
        assert model.generations and not connections.connections
        deaf.close()


async def test_a_long_text_costs_no_tokenizing(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(
        FakeTokenizer, "encode", lambda self, text, **how: asked.append(len(text)) or list(text.encode())
    )
    async with serving(FakeModel()) as client:
        body = io.BytesIO(b'{"prompt": "%b"}' % (b"x" * 4_000_000))
        reply = await client.post("/v1/completions", data=body, headers={"Content-Type": "application/json"})
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "context_length_exceeded")
        assert asked == []
    monkeypatch.setattr(FakeTokenizer, "longest", 6)
    async with serving(FakeModel()) as client:
        reply = await client.post("/v1/completions", json={"prompt": ["x" * 600] * 16})
        assert (await reply.json())["error"]["code"] == "context_length_exceeded"
        assert asked == [600], "after the first prompt that does not fit, the others are left alone"


async def test_a_number_of_a_million_digits_is_refused_quickly():
    body = b'{"prompt": "hi", "seed": ' + b"9" * 1_000_000 + b"}"
    reply, model = await raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert reply.startswith(b"HTTP/1.1 400") and model.generations == []
