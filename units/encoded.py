"""Bytes that stand in a text as base64, in every spelling that clients of pictures use: one reader for all edges.

Clients break lines (MIME), leave out the padding, write the letters for addresses, or spell `data:` and `base64` with
capitals; sd-webui-controlnet reads most of that.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse

from ..core.errors import HintError

ADVICE = "send the picture's bytes; paths and addresses are not opened"
SHOWN = 40  # characters of a text that a message repeats
_DATA_URL = re.compile(r"\s*data:(?P<kind>[^,]*),", re.IGNORECASE)  # RFC 2397
_URL_SAFE = str.maketrans("-_", "+/")  # the second alphabet of RFC 4648


def bytes_of(text: object, name: str, advice: str = ADVICE) -> bytes:
    """Return the bytes of base64 text or of a data address, in any of their usual forms; HintError if it is neither.

    name: what messages call it; advice: what they tell to do.
    """
    if not isinstance(text, str) or not text.strip():
        raise HintError(f"{name} is no text, or an empty one: send its bytes as base64 text")
    try:
        return _bytes_of(text)
    except (binascii.Error, ValueError):
        raise HintError(f"{named(text, name)} is no base64 text: {advice}") from None


def named(text: str, name: str) -> str:
    """Return a name, with the start of the text that stands for it."""
    return f"{name}, {text[:SHOWN] + ('...' if len(text) > SHOWN else '')!a},"


def _bytes_of(text: str) -> bytes:
    head = _DATA_URL.match(text)
    body = text if head is None else text[head.end() :]
    if head is not None:
        if not head["kind"].lower().replace(" ", "").endswith(";base64"):
            return urllib.parse.unquote_to_bytes(body)
        body = urllib.parse.unquote(body)
    body = "".join(body.split()).translate(_URL_SAFE).rstrip("=")
    return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
