"""What stands before gradio: no page reaches the network, no client names an address, nothing too large comes in.

gradio itself opens only what was uploaded to it; it would also fetch addresses that a client gives as a file, which
ends here. The policy in the headers makes browsers refuse whatever the page's own libraries would load from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
MEGA = 1 << 20
UPLOAD = b"multipart/form-data"  # the one kind of body that is no JSON; how large it may be, gradio looks at
NO_BODY = ("GET", "HEAD", "OPTIONS")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """An ASGI layer around the whole program.

    A body counts as JSON whatever its client calls it: without a type, and as `application/x+json`, it is read so too.
    """

    def __init__(self, app: Any, largest: int) -> None:
        """largest: bytes of a request that is no upload."""
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] not in NO_BODY and kind != UPLOAD:
            body = await _body(receive, self._largest)
            if body is None:
                await _refuse(send, 413, f"the request is larger than {self._largest // MEGA} MB")
                return
            if names_elsewhere(body):
                await _refuse(send, 400, "a request cannot name a file or an address: upload the file first")
                return
            receive = _again(body, receive)
        await self._app(scope, receive, _with_headers(send))


def names_elsewhere(body: bytes) -> bool:
    """Return whether a body gives an address as a file's path, if it is JSON at all."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False  # gradio says what is wrong with it
    return any("://" in path or path.startswith("//") for path in _paths(content))


def _paths(content: Any) -> Iterator[str]:
    waiting = [content]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if isinstance(each.get("path"), str):
                yield each["path"]
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


async def _body(receive: Receive, largest: int) -> bytes | None:
    """Return the whole body; None if it is too large."""
    body = bytearray()  # it grows in place: to add bytes to bytes would copy all of a large body for each of its parts
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > largest:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, and then what comes."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return give


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return sent


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
