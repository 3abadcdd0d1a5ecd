"""What stands behind a unit: a network of ours, or a control of the host, each with the patchers that manage it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

from ...core.control import ControlModel, HintSpace
from ...core.errors import HostError, UnitError
from ...core.options import Option
from ...core.unit import ControlMode
from ...units.options import bound
from ...units.request import UnitRequest
from ..spec import UnitSpec
from .foreign.controls import PICTURE, Call, ForeignModel, offers_of, points_of
from .union import told_by_host


class Member(Protocol):
    """One unit's network on one device of the host."""

    @property
    def model(self) -> ControlModel:
        """Return the network as the core sees it."""
        ...

    @property
    def patchers(self) -> Sequence[Any]:
        """Return the host's patchers that load and offload its weights."""
        ...

    @property
    def control(self) -> Any:
        """Return the host's control that it wraps, which lives through a run as any other; None if it is ours."""
        ...

    @property
    def strength(self) -> float:
        """Return how much of the unit's weight the member applies by itself; the core applies the rest."""
        ...

    def on(self, device: Any, /) -> Member:
        """Return the same network, loaded once more for another device of the host."""
        ...

    def begin(self, model: Any, sigma_at: Callable[[float], float], /) -> None:
        """Make ready for a run on the host's base model. sigma_at: its noise schedule, falling from 0 to 1."""
        ...

    def enter(self, call: Call, blocks: int | None) -> None:
        """Take the host's arguments of the call that comes, and the number of input blocks of its U-Net."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """A network of ours."""

    model: ControlModel
    patcher: Any  # None for a model without weights
    on: Callable[[Any], Own]
    says: str = ""  # what its file says about its hints, such as "canny(low=50,high=100)"
    control: None = None
    strength: float = 1.0

    @property
    def patchers(self) -> Sequence[Any]:
        return () if self.patcher is None else (self.patcher,)

    def begin(self, model: Any, sigma_at: Callable[[float], float]) -> None:
        """Do nothing: a network of ours knows no run."""

    def enter(self, call: Call, blocks: int | None) -> None:
        """Do nothing: a step says all that a network of ours reads."""


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """A control of the host."""

    model: ForeignModel

    @property
    def control(self) -> Any:
        return self.model.control

    @property
    def strength(self) -> float:
        return self.model.strength

    @property
    def patchers(self) -> Sequence[Any]:
        return self.control.get_models()

    def on(self, device: Any) -> Foreign:
        return Foreign(self.model.around(self.control.deepclone_multigpu(device)))

    def begin(self, model: Any, sigma_at: Callable[[float], float]) -> None:
        self.model.begin(model, sigma_at)

    def enter(self, call: Call, blocks: int | None) -> None:
        self.model.enter(call, blocks)


def member_of(spec: UnitSpec, vae: Any) -> Member:
    """Return the member of one unit; raise what can be known to be wrong before a run."""
    own: Own | None = getattr(spec.control, "own", None)
    latents = spec.control.latent_format is not None if own is None else own.model.hint_space.reads_latents
    if latents and vae is None:
        raise HostError(f"'{spec.name}' reads hints as latents and needs a VAE: connect one to Apply Control Units")
    return _foreign(spec, vae) if own is None else own


def reads_embedding(control: Any, request: UnitRequest) -> bool:
    """Return whether a CONTROL_NET reads what an image encoder saw, and not a picture, told the options of a unit."""
    own: Own | None = getattr(control, "own", None)
    return own is not None and bound(request, own.model).hint_space is HintSpace.EMBEDDING


def reads_inpaint_mask(spec: UnitSpec) -> bool:
    """Return whether a unit's control of the host reads a mask of what is to be invented, and has one."""
    return bool(getattr(spec.control, "concat_mask", False)) and spec.inpaint_mask is not None


def says(control: Any) -> str:
    """Return what the file of a CONTROL_NET says about its hints; empty where nothing is known."""
    own: Own | None = getattr(control, "own", None)
    return "" if own is None else own.says


def name_of(control: Any, file: str) -> str:
    """Return what a unit's model is called: by its file, where that is known, else by its kind."""
    own: Own | None = getattr(control, "own", None)
    if own is not None:
        return own.model.name
    return PurePath(file.replace("\\", "/")).stem or type(control).__name__


def described(control: Any) -> str:
    """Return in one line who loaded a CONTROL_NET, and what it is for."""
    own: Own | None = getattr(control, "own", None)
    if own is not None:
        return f"loaded by ControlStack, for {own.model.base.name if own.patcher else 'the connected model'}"
    network = getattr(control, "control_model", None) or control
    return f"loaded by ComfyUI's own loader ({type(network).__name__})"


def told(control: Any) -> dict[str, str]:
    """Return the options that nodes of the host have set on a CONTROL_NET, by our names."""
    return told_by_host(control, offers(control))


def offers(control: Any) -> Sequence[Option]:
    """Return what units may tell a CONTROL_NET; nothing where it is of no kind that is known here."""
    own: Own | None = getattr(control, "own", None)
    return offers_of(control) if own is None else own.model.offers


def count_blocks(control: Any, name: str) -> int:
    """Return how many blocks of a CONTROL_NET can be weighed; UnitError where it does not show them."""
    own: Own | None = getattr(control, "own", None)
    if own is not None:
        return own.model.block_count
    points = points_of(control)
    if points is None:
        raise _unknown_blocks(name)
    return len(points)


def _foreign(spec: UnitSpec, vae: Any) -> Foreign:
    weighed = spec.request.block_weights is not None or spec.request.mode is not ControlMode.BALANCED
    if weighed and points_of(spec.control) is None:
        raise _unknown_blocks(spec.name)
    masked = reads_inpaint_mask(spec)
    model = ForeignModel(
        spec.control,
        name=spec.name,
        hint_channels=PICTURE + 1 if masked else min(PICTURE, spec.hint.shape[-1]),
        strength=spec.request.weight or 1.0,
        vae=vae if spec.control.latent_format else None,
    )
    return Foreign(model)


def _unknown_blocks(name: str) -> UnitError:
    return UnitError(
        f"'{name}' has blocks of an unknown kind: leave the mode at balanced and block weights unconnected"
    )
