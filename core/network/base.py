"""What of a base model a control model depends on: its widths, with the check that the two fit, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor

from ..errors import IncompatibleModelError
from ..wording import counted

LATENT = 8  # picture pixels per latent pixel, of the autoencoders of Stable Diffusion
SD1_CONTEXT, SD2_CONTEXT, SDXL_CONTEXT = 768, 1024, 2048  # width of the prompt's tokens
_NAMES = {SD1_CONTEXT: "SD 1.x", SD2_CONTEXT: "SD 2.x", SDXL_CONTEXT: "SDXL"}
ANIMA_WIDTH = 2048  # of a token of the picture


@dataclass(frozen=True, slots=True)
class Transformer:
    """A base network that is a transformer of Anima's kind (NVIDIA's Cosmos Predict 2), and no U-Net."""

    width: int  # of a token of the picture
    layers: int  # blocks: of a base model, all; for a control model, as many as it needs at least

    def __str__(self) -> str:
        return f"{counted(self.layers, 'block')} of tokens {self.width} wide"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The widths of a base network that its control models must share; None where a control model does not care.

    A base with a `transformer` is one, and any other a U-Net or a network that no control model of ours acts on.
    """

    context: int | None = None  # of a prompt token
    label: int | None = None  # of the vector condition y; 0 where the U-Net has none
    blocks: tuple[int, ...] | None = None  # channels of the skip of each input block
    transformer: Transformer | None = None

    @property
    def name(self) -> str:
        if self.transformer is not None:
            return "Anima" if self.transformer.width == ANIMA_WIDTH else "a transformer like Anima"
        if self.context in _NAMES:
            return _NAMES[self.context]
        if self.context is None:
            return {12: "SD 1.x or 2.x", 9: "SDXL"}.get(len(self.blocks or ()), "an unknown base model")
        return f"a base model with context width {self.context}"


@dataclass(frozen=True, slots=True, eq=False)
class BaseWeights:
    """The weights of the base U-Net as it computes with them now, with all that other parts of the program did to them.

    read: a bare ldm name -> the weight, on any device; None where there is no such. key: the same value for as long as
    the weights are the same.
    """

    read: Callable[[str], Tensor | None]
    key: Hashable


def check_fits(control: str, made_for: Base, host: Base) -> None:
    """Raise IncompatibleModelError, naming both sides, unless the model called `control` fits the host's base model."""
    _check_kind(control, made_for, host)
    pairs = (
        ("context width", made_for.context, host.context),
        ("width of the vector condition", made_for.label, host.label),
        ("channels of the encoder blocks", made_for.blocks, host.blocks),
    )
    for what, wanted, given in pairs:
        if wanted is not None and given is not None and wanted != given:
            raise IncompatibleModelError(
                f"'{control}' was trained for {made_for.name} ({what} {_show(wanted)}), the loaded checkpoint is "
                f"{host.name} ({_show(given)}): choose a control model for {host.name}, or another checkpoint"
            )


def _check_kind(control: str, made_for: Base, host: Base) -> None:
    """Raise IncompatibleModelError where one is for a transformer and the other is none, or another one."""
    wanted, given = made_for.transformer, host.transformer
    if wanted is None or given is None:
        fits = wanted is given
    else:
        fits = wanted.width == given.width and wanted.layers <= given.layers
    if not fits:
        raise IncompatibleModelError(
            f"'{control}' was trained for {_kind(made_for)}, the loaded checkpoint is {_kind(host)}: choose a control "
            "model for this checkpoint, or another checkpoint"
        )


def _kind(base: Base) -> str:
    """Return the name of a base model with what kind of network it is."""
    if base.transformer is not None:
        return f"{base.name} ({base.transformer})"
    return "a U-Net" if base.context is None and base.blocks is None else f"{base.name} (a U-Net)"


def _show(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else ", ".join(map(str, value))
