"""What stands behind a unit: a network of ours, or a control of the host, each with the patchers that manage it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.control import ControlModel
from ...core.errors import HostError, UnitError, UnsupportedModelError
from ...core.points import PROMPT
from ...core.unit import ControlMode
from ..spec import UnitSpec
from .foreign import ForeignModel


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """A network of ours and the host's patcher that loads and offloads it."""

    model: ControlModel
    patcher: Any
    on: Callable[[Any], Own]  # the same network, loaded once more for another device of the host
    says: str = ""  # what its file says about its hints, such as "canny(low=50,high=100)"

    @property
    def patchers(self) -> Sequence[Any]:
        return (self.patcher,)


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """A control of the host."""

    model: ForeignModel

    @property
    def patchers(self) -> Sequence[Any]:
        return self.model.control.get_models()

    def on(self, device: Any) -> Foreign:
        """The same control for another device of a host that shares a step among devices."""
        return Foreign(self.model.around(self.model.control.deepclone_multigpu(device)))


Member = Own | Foreign


def member_of(spec: UnitSpec, vae: Any) -> Member:
    """The member of one unit; raises what can be known to be wrong before a run."""
    own = getattr(spec.control, "own", None)
    if isinstance(own, Own):
        if any(slot == PROMPT for slot in own.model.points):
            raise UnsupportedModelError(
                f"'{spec.name}' is a style adapter, which adds to the prompt and not to the picture: "
                "use the host's Load Style Model and Apply Style Model"
            )
        return own
    if spec.control.latent_format is not None and vae is None:
        raise HostError(f"'{spec.name}' reads hints as latents and needs a VAE: connect one to Apply Control Units")
    if getattr(getattr(spec.control, "control_model", None), "num_control_type", 0) and not _typed(spec.control):
        raise UnitError(
            f"'{spec.name}' is a union model and was not told what its hint shows: put the host's "
            "SetUnionControlNetType between its loader and the unit (there, 'auto' lets it guess)"
        )
    channels = min(3, spec.hint.shape[-1])
    model = ForeignModel(
        spec.control, name=spec.name, hint_channels=channels, vae=vae if spec.control.latent_format else None
    )
    if not model.known and (spec.request.block_weights is not None or spec.request.mode is not ControlMode.BALANCED):
        raise UnitError(
            f"'{spec.name}' has blocks of an unknown kind: leave the mode at balanced and block weights unconnected"
        )
    return Foreign(model)


def _typed(control: Any) -> bool:
    return "control_type" in control.extra_args
