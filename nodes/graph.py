"""What the graph that runs says of a node: the file behind a link, and the node of the page that it stands for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from comfy_execution.graph_utils import is_link


def file_behind(hidden: Any, name: str, files: Collection[str]) -> str:
    """Return the file, of `files`, that was chosen on the node behind an input, or the nearest one before it.

    hidden: the host's values of the node that asks. Empty where none of `files` was chosen there.
    """
    graph: Any = hidden.dynprompt
    if graph is None:
        return ""
    seen, waiting = set[str](), [graph.get_node(hidden.unique_id)["inputs"].get(name)]
    while waiting:
        link = waiting.pop(0)
        if not is_link(link) or link[0] in seen or not graph.has_node(link[0]):
            continue
        seen.add(link[0])
        given = list(graph.get_node(link[0])["inputs"].values())
        chosen = [value for value in given if isinstance(value, str) and value in files]
        if chosen:
            return chosen[0]
        waiting += given
    return ""


def shown_node(hidden: Any) -> str | None:
    """Return the node on the page that stands for the one that runs: itself, or the one that expanded to it."""
    graph = hidden.dynprompt
    return hidden.unique_id if graph is None else graph.get_display_node_id(hidden.unique_id)
