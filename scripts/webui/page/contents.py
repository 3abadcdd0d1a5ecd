"""Which models a control type offers: by what is in the files, and by their names where weights cannot tell.

No weight says what a hint has to show, so "Depth" goes by names as in sd-webui-controlnet. What a file is and which
base model it was made for stands in its header, and is not guessed from its name.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from ....core.errors import ControlError, IncompatibleModelError
from ....core.network.base import Base, check_fits
from ....core.options import Option
from ....models.families import t2i_adapter
from ....models.families.ip_adapter import family as ip_adapter
from ....models.files.loading import PICKLES, read_header
from ....models.registry import identify, made_for, offered_by
from ....units.offer import ALL, FILELESS_TYPES, models_of_type, of_hint, of_several_kinds
from ..host.files import ModelFiles
from ..host.unet.unets import base_of

log = logging.getLogger("controlstack")

# Control types that are a kind of network.
FAMILIES = {
    "T2I-Adapter": {t2i_adapter.FAMILY.title, t2i_adapter.STYLE_FAMILY.title},
    "IP-Adapter": {ip_adapter.FAMILY.title},
}


@dataclass(frozen=True)
class Content:
    """What a file holds; both are None where that is unknown or no control model of ours."""

    family: str | None = None
    base: Base | None = None
    offers: tuple[Option, ...] = ()  # what units may tell it


class Contents:
    """What the files hold; each is looked at once, until it changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int], Content] = {}

    def offer(self, tag: str, files: ModelFiles, base: Base | None) -> list[str]:
        """Return the names of the models for a control type on a base model; None: any base model."""
        if tag == ALL:
            return files.names
        if tag in FILELESS_TYPES:
            return []
        paths = {name: files.find(name)[1] for name in files.names}
        named = [name for name in models_of_type(tag, files.names) if not of_several_kinds(self.of(paths[name]).offers)]
        general = [name for name in paths if name not in named and of_hint(self.of(paths[name]).offers, tag)]
        others = [name for name in paths if name not in (*named, *general)]
        return [name for name in (*named, *general, *others) if self._suits(tag, name not in others, paths[name], base)]

    def of(self, path: Path) -> Content:
        """Return what a file holds. Pickles are not read for this: that means reading the whole file."""
        key = (path, path.stat().st_mtime_ns)
        if key not in self._known:
            self._known[key] = Content() if path.suffix.lower() in PICKLES else _read(path)
        return self._known[key]

    def _suits(self, tag: str, named: bool, path: Path, base: Base | None) -> bool:
        content = self.of(path)
        families = FAMILIES.get(tag, ())
        known = families and content.family is not None  # then its name counts no longer
        if content.family not in families if known else not named:
            return False
        return base is None or content.base is None or _fits(content.base, base)


@functools.cache
def contents() -> Contents:
    """Return the one instance."""
    return Contents()


def current_base() -> Base | None:
    """Return the loaded base model; None while there is none, or where the host keeps it otherwise. This loads none."""
    from modules import sd_models

    loaded = getattr(sd_models.model_data, "sd_model", None)
    unet = getattr(getattr(loaded, "model", None), "diffusion_model", None)
    return base_of(unet) if hasattr(unet, "channel_mult") else None


def _read(path: Path) -> Content:
    try:
        header = read_header(path)
        return Content(identify(header).title, made_for(header), offered_by(header))
    except ControlError as error:  # it is offered by its name; loading it says this too
        log.info("%s", error)
        return Content()


def _fits(made_for: Base, base: Base) -> bool:
    try:
        check_fits("", made_for, base)
    except IncompatibleModelError:
        return False
    return True
