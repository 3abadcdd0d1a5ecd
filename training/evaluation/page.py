"""A page of documentation of which a part is made by a command, and the rest written by people."""

from __future__ import annotations

from pathlib import Path

BEGIN, END = "<!-- made by `controlstack evaluate --page` -->", "<!-- end of the made part -->"


def replace_made(page: Path, text: str) -> None:
    """Put `text` between the page's two marks; a page that does not exist, or has none, gets both at its end."""
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}\n{after.lstrip(chr(10))}", encoding="utf-8")
