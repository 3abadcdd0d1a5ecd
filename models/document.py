"""The table of families in README.md, made from the registry, so that it names what is there and nothing else.

`python -m controlstack.models.document` renews it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .family import Family
from .kinds.fileless import Fileless

HEAD = ("| family | base models | runs | described in |", "|---|---|---|---|")
FOLDER = "docs/families"  # of one page for each family, or for a few that come from one paper
Described = Family[Any, Any] | Fileless


def page_of(family: Described) -> str:
    """Return the path of the page about a family, from the root of the repository."""
    return f"{FOLDER}/{family.page or family.id}.md" if isinstance(family, Family) else f"{FOLDER}/{family.page}.md"


def table(families: Sequence[Described]) -> str:
    """Return the families as a table in Markdown."""
    rows = (f"| [{each.title}]({page_of(each)}) | {each.bases} | {each.hosts} | {each.paper} |" for each in families)
    return "\n".join((*HEAD, *rows))


def renew(page: Path, families: Sequence[Described]) -> None:
    """Put the table of families in the place of the one that a page has."""
    before, _, rest = page.read_text(encoding="utf-8").partition(HEAD[0])
    after = rest[rest.index("\n\n") :]
    page.write_text(before + table(families) + after, encoding="utf-8")


if __name__ == "__main__":
    from .kinds.fileless import KINDS
    from .registry import REGISTRY

    renew(Path(__file__).resolve().parent.parent / "README.md", (*REGISTRY, *KINDS))
