"""What an evaluation drew its pictures with: one that goes on draws the others alike, or is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ....core.errors import HintError
from ....core.files import read_json
from ...results.files import write_text
from .options import Asked

FILE = "drawn.json"  # beside the folder of the pictures
DRAWING = ("base", "control", "weight", "data", "hints", "picture_column", "caption_column", "resolution", "steps",
           "guidance", "scheduler", "seed")  # fmt: skip


def keep_settings(asked: Asked, drawn: Path) -> None:
    """Write what pictures are drawn with. HintError where some that are there were drawn otherwise."""
    path = asked.out / FILE
    told = {name: str(getattr(asked, name)) for name in DRAWING}
    if path.is_file() and drawn.is_dir() and any(drawn.iterdir()):
        before = read_json(path, "record of drawn pictures")
        known = before if isinstance(before, Mapping) else {}
        if changed := [name for name, value in told.items() if known.get(name) != value]:
            raise HintError(
                f"the pictures in '{drawn}' were drawn with other settings ({', '.join(changed)}): give them as at its "
                "start, or name another folder as --out"
            )
    write_text(path, json.dumps(told, indent=1))
