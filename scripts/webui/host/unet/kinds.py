"""The kinds of base networks that units act on, told by how they are built."""

from __future__ import annotations

from typing import Any

from .....core.network.attach import Locate
from .....core.network.base import Base
from . import transformers, unets
from .transformers import is_transformer


def acts_on(network: Any) -> bool:
    """Return whether units act on a network: a U-Net as latent diffusion builds it, or a transformer like Anima."""
    return hasattr(network, "output_blocks") or is_transformer(network)


def base_of(network: Any) -> Base:
    """Return the widths of a network that control models must share."""
    return transformers.base_of(network) if is_transformer(network) else unets.base_of(network)


def locate_in(network: Any) -> Locate:
    """Return where the points of a network are."""
    return transformers.locate_in(network) if is_transformer(network) else unets.locate_in(network)
