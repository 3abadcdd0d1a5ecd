"""What stands before gradio: no page reaches the network, no client names an address, nothing too large comes in.

Whatever a client asks, it gets a sentence, and the terminal a line: gradio's own answer to what it does not know is
`Internal Server Error` and a traceback.

gradio itself opens only what was uploaded to it; it would also fetch addresses that a client gives as a file, which
ends here. The policy in the headers makes browsers refuse whatever the page's own libraries would load from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from ...core.wording import print_line
from .endpoints import Endpoints

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
FILE = "gradio.FileData"  # what gradio calls a file in JSON
NO_BODY = ("GET", "HEAD", "OPTIONS")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """An ASGI layer around the whole program.

    A body counts as JSON whatever its client calls it: without a type, and as `application/x+json`, it is read so too.
    """

    def __init__(self, app: Any, largest: int, endpoints: Endpoints, uploads: Path) -> None:
        """largest: bytes of a request that is no upload. endpoints: what may be called. uploads: where files lie."""
        self._app, self._largest, self._endpoints, self._uploads = app, largest, endpoints, uploads

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
            if names_elsewhere(body, self._uploads):
                await _refuse(send, 400, "a request cannot name a file or an address: upload the file first")
                return
            if refusal := self._endpoints.refusal(scope["path"], body):
                await _refuse(send, *refusal)
                return
            receive = _again(body, receive)
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let gradio answer; what it raises becomes a sentence. A stream has told of it before it raises, and ends."""
        begun = _Begun(send)
        try:
            await self._app(scope, receive, begun.send)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            cause = error.__cause__ or error
            sentence = f"{scope['method']} {scope['path']} cannot be answered ({type(cause).__name__}: {cause})"
            print_line(sentence, error=True)
            if begun.yes:
                await send({"type": "http.response.body", "body": b""})
            else:
                await _refuse(send, 500, sentence)


def names_elsewhere(body: bytes, uploads: Path) -> bool:
    """Return whether a body gives as a file an address, or a path that is not below `uploads`, if it is JSON at all."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False  # gradio says what is wrong with it
    return any(
        "://" in path or path.startswith("//") or (is_file and not _lies_in(path, uploads))
        for path, is_file in _paths(content)
    )


def _lies_in(path: str, folder: Path) -> bool:
    try:
        return Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a name that no file can have
        return False


def _paths(content: Any) -> Iterator[tuple[str, bool]]:
    """Yield each path in a body, and whether it says that it is a file's."""
    waiting = [content]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if isinstance(each.get("path"), str):
                meta = each.get("meta")
                yield each["path"], isinstance(meta, dict) and meta.get("_type") == FILE
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


class _Begun:
    """An answer on its way, with our headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.yes = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
            self.yes = True
        await self._send(message)


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
