"""Presets: a unit's settings, without pictures, as a file each in a folder of the host's data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....core.errors import FileError, UnitError
from ....core.files import read_json, replacing
from ....units.webui.fields import parse_unit
from ..request.arguments import from_page_unit
from .choices import display

VERSION = 1
SUFFIX = ".json"
_NAME = re.compile(r"\w[\w ()+.-]{0,62}[\w)+]|\w")  # what every file system takes, and no path
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows


class Presets:
    """The presets of a folder; it is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted((path.stem for path in self._folder.glob(f"*{SUFFIX}")), key=str.lower)

    def save(self, name: str, values: Mapping[str, Any]) -> str:
        """Write the page's values of a unit, over a preset of that name if there is one; UnitError for bad values.

        The file appears complete or not at all.
        """
        path = self._path(name)
        unit = display(parse_unit(from_page_unit({**values, "enabled": True})))
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "unit": unit}, file, indent=2, ensure_ascii=False)
        return path.stem

    def load(self, name: str) -> dict[str, Any]:
        """Return a preset's fields, as `parse_unit` takes them; UnitError if there is none that can be read."""
        path = self._existing(name)
        try:
            content = read_json(path, "preset")
        except FileError as error:
            raise UnitError(f"the preset '{name}' cannot be read: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("unit"), dict):
            raise UnitError(f"the preset '{name}' is no preset: {path} lacks a unit")
        if content.get("version") != VERSION:
            raise UnitError(f"the preset '{name}' has version {content.get('version')!r}, expected {VERSION}: update")
        return from_page_unit({**content["unit"], "enabled": True})

    def delete(self, name: str) -> None:
        """Remove a preset; UnitError if there is none."""
        self._existing(name).unlink()

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not path.is_file():
            raise UnitError(f"there is no preset '{name}': {', '.join(self.names) or 'none is saved yet'}")
        return path

    def _path(self, name: str | None) -> Path:
        stripped = (name or "").strip()
        if not _NAME.fullmatch(stripped) or _RESERVED.fullmatch(stripped):
            raise UnitError(f"a preset is called '{stripped}': use up to 64 letters, digits, spaces and ()+.-_")
        return self._folder / f"{stripped}{SUFFIX}"
