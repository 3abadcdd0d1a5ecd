"""Text on a node, on the page that asked for the run."""

from __future__ import annotations

from typing import Any

from server import PromptServer


def tell(node: str | None, text: str) -> None:
    """Show text on a node, to the client whose prompt runs now: a number of a node means another one elsewhere."""
    server: Any = getattr(PromptServer, "instance", None)
    client = getattr(server, "client_id", None)
    if node is not None and client is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node, client)
