"""The chat page: static files beside this one, read once, served with an ETag and a policy that bars all else."""

import functools
import hashlib
from importlib.resources import files
from typing import NamedTuple

from aiohttp import web

TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    """A file of the page."""

    content: bytes
    type: str
    etag: str


@functools.cache
def assets() -> dict[str, File]:
    """Every file of the page, by name."""
    found = {}
    for item in files(__name__).iterdir():
        kind = item.name.rpartition(".")[2]
        if kind in TYPES:
            content = item.read_bytes()
            found[item.name] = File(content, TYPES[kind], hashlib.sha256(content).hexdigest()[:32])
    return found


def answer(request: web.Request, name: str) -> web.Response:
    """The file called `name`, or 304 when the client has it. Raises HTTPNotFound."""
    file = assets().get(name)
    if file is None:
        raise web.HTTPNotFound(text=f"no file of the chat page is called {name}")
    if any(tag.value == file.etag for tag in request.if_none_match or ()):
        response = web.Response(status=304, headers=HEADERS)
    else:
        response = web.Response(body=file.content, content_type=file.type, charset="utf-8", headers=HEADERS)
    response.etag = file.etag
    return response
