"""Where settings of a model stand: its metadata, diffusers' configuration, a JSON file beside it, the user's word."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...core.errors import ModelError
from ..guard import guard, naming, shown
from ..settings import Settings, kinds_of, nearest, read
from .finding import CONFIG, SMALL, find_config, read_table
from .loading import Header

S = TypeVar("S", bound=Settings)
OfConfig = Callable[[Mapping[str, Any]], Mapping[str, object]]
OfMetadata = Callable[[Mapping[str, str]], Mapping[str, object]]

PREFIX = "controlstack."  # of our settings in a file's metadata
log = logging.getLogger("controlstack")


def read_settings(
    cls: type[S],
    header: Header,
    given: Mapping[str, object] | None = None,
    of_config: OfConfig | None = None,
    of_metadata: OfMetadata | None = None,
) -> S:
    """Return a model's settings; of several sources the last one wins: metadata, diffusers' configuration, JSON, user.

    given: the user's word. of_config: what a family reads from diffusers' configuration. of_metadata: and from what the
    program that trained it wrote into a file.
    ModelError for unknown names and wrong values. A JSON file of another program is left alone, with a warning.
    """
    with guard(header.name):
        known, what = kinds_of(cls), f"'{header.name}'"
        with naming(header.name):
            theirs: Mapping[str, object] = {} if of_metadata is None else of_metadata(header.metadata)
        ours = _of_metadata(header, known)
        sources = (theirs, ours, _of_diffusers(header, of_config), _beside(header.path, known))
        said: dict[str, object] = {}
        for source in (*sources, given or {}):  # null is no word on a setting: what an earlier source says of it stays
            said |= {key: value for key, value in source.items() if value is not None or key not in said}
        return read(cls, said, what)


def _of_metadata(header: Header, known: Collection[str]) -> dict[str, str]:
    """Return the settings in a file's metadata, misspelt ones too, which are refused later; the rest is no setting."""
    own = {key[len(PREFIX) :]: value for key, value in header.metadata.items() if key.startswith(PREFIX)}
    return {key: value for key, value in own.items() if key in known or nearest(key, known)}


def _of_diffusers(header: Header, of_config: OfConfig | None) -> Mapping[str, object]:
    """Return what a family reads from diffusers' configuration of a model, if one lies beside its weights."""
    config = find_config(header.path, header.weights) if of_config else None
    return of_config(read_table(config, "configuration")) if of_config and config else {}


def _beside(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Return what a JSON file of the model's name says; nothing where it is a file of another program."""
    beside = path.with_suffix(".json")
    if path.is_dir() or beside.name == CONFIG or not beside.is_file():
        return {}
    try:
        table = read_table(beside, "settings file")
    except ModelError:
        if _mentions(beside, known):
            raise
        table = {}
        log.warning("'%s' is no file of settings for the model beside it, and is left alone", shown(beside))
    table = {key.removeprefix(PREFIX): value for key, value in table.items()}
    if any(key in known or nearest(key, known) for key in table):
        return table
    if table:
        log.warning("'%s' holds no settings of the model beside it, and is left alone", shown(beside))
    return {}


def _mentions(path: Path, known: Collection[str]) -> bool:
    """Return whether a text that cannot be read was meant for us."""
    with path.open("rb") as file:
        start = file.read(SMALL)
    return any(f'"{name}"'.encode() in start for name in known)
