"""The control models without a file by name, with their options and what is said of them; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...core.options import Option
from .references import FIDELITY, REFERENCES
from .revisions import NOISE, REVISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fileless:
    """Models that have no file, as documentation lists them beside the families of files (`models/family.py`)."""

    title: str
    names: tuple[str, ...]
    options: tuple[Option, ...]
    bases: str
    paper: str
    page: str
    hosts: str = "everywhere"


KINDS = (
    Fileless(
        title="Reference",
        names=REFERENCES,
        options=(FIDELITY,),
        bases="SD 1.x, SD 2.x, SDXL",
        paper="Lvmin Zhang, sd-webui-controlnet, 2023",
        page="reference",
    ),
    Fileless(
        title="Revision",
        names=REVISIONS,
        options=(NOISE,),
        bases="SDXL",
        paper="Stability AI, 2023",
        page="revision",
    ),
)
FILELESS: Mapping[str, tuple[Option, ...]] = MappingProxyType(
    {name: kind.options for kind in KINDS for name in kind.names}
)
