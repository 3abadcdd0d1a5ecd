"""The control models without a file by name, with their options; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...core.options import Option
from .references import FIDELITY, REFERENCES
from .revisions import NOISE, REVISIONS

FILELESS: Mapping[str, tuple[Option, ...]] = MappingProxyType(
    {**dict.fromkeys(REFERENCES, (FIDELITY,)), **dict.fromkeys(REVISIONS, (NOISE,))}
)
