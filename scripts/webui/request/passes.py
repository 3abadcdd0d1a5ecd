"""The passes of one sampling: the first one, and the hires pass, each with units of its own size and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....core.base import LATENT
from ....core.fields import HiresOption
from ....core.stack import ControlStack, Firing
from ....core.unit import ControlMode, ControlUnit
from ..host.denoiser import Denoising
from .fitting import fit_hint
from .inputs import target_sizes
from .preparing import Prepared, as_tensor
from .restoring import Restoration, Wish, visible

if TYPE_CHECKING:
    from .needs import Host
    from .pictures import Image

SOFT_IN_HIRES = ("canny", "mlsd")  # sd-webui-controlnet: hard lines are softened in the hires pass in every mode

Size = tuple[int, int]  # height and width


@dataclass(kw_only=True)
class Pass:
    """One sampling of the latents."""

    size: Size  # in latent pixels
    stack: ControlStack
    denoising: Denoising
    wishes: list[Wish]
    restoration: Restoration


class Passes:
    """Both passes of one sampling, made anew for each: the WebUI may sample a request several times."""

    def __init__(self, units: Sequence[Prepared], p: Any, host: Host, cond: Callable[[], tuple[bool, ...]]) -> None:
        """cond: which rows of the present evaluation are cond."""
        self._p = p
        low, high = target_sizes(p)
        hints = [_fitted(unit, low, high) for unit in units]
        self.maps = [each for unit, pair in zip(units, hints, strict=True) for each in _maps(unit, pair)]
        self._by_hires = {
            hires: _make_pass(
                units, [pair[hires] for pair in hints], size, host, cond, hires=hires, two=high is not None
            )
            for hires, size in ((False, low), (True, high))
            if size is not None
        }

    def __iter__(self) -> Iterator[Pass]:
        return iter(self._by_hires.values())

    @property
    def present(self) -> Pass:
        """The one that is being sampled."""
        hires = bool(getattr(self._p, "is_hr_pass", False))
        return self._by_hires.get(hires, self._by_hires[False])

    @property
    def last(self) -> Pass:
        """The one whose pictures the user sees."""
        return self._by_hires.get(True, self._by_hires[False])

    def firings(self) -> list[Firing]:
        """For each unit, on how many of the steps of all passes it acted."""
        return [
            Firing(sum(each.fired for each in unit), sum(each.steps for each in unit))
            for unit in zip(*(part.stack.firings() for part in self), strict=True)
        ]

    def close(self) -> None:
        """Release what the stacks keep between steps."""
        for part in self:
            part.stack.close()


def _fitted(unit: Prepared, low: Size, high: Size | None) -> tuple[Image, ...]:
    """The hint at the size of each pass."""
    return tuple(fit_hint(unit.hint, size, unit.given.resize) for size in (low, high) if size is not None)


def _maps(unit: Prepared, hints: Sequence[Image]) -> list[tuple[Image, str]]:
    """What the user is shown, with its preprocessor: the larger one first, as in sd-webui-controlnet."""
    return [(visible(hint), unit.args.module) for hint in reversed(hints)] if unit.args.save_detected_map else []


def _make_pass(
    units: Sequence[Prepared],
    hints: Sequence[Image],
    size: Size,
    host: Host,
    cond: Callable[[], tuple[bool, ...]],
    *,
    hires: bool,
    two: bool,
) -> Pass:
    pairs = list(zip(units, hints, strict=True))
    wishes = [_wish(unit, hint, hires) for unit, hint in pairs]
    return Pass(
        size=(size[0] // LATENT, size[1] // LATENT),
        stack=ControlStack([_unit(unit, hint, hires, two) for unit, hint in pairs], host),
        denoising=Denoising(),
        wishes=wishes,
        restoration=Restoration(wishes, host, cond),
    )


def _unit(unit: Prepared, hint: Image, hires: bool, two: bool) -> ControlUnit:
    """As the core takes it; two: there are two passes, of which a unit may choose one."""
    args = unit.args
    weight = args.weight if args.advanced_weighting is None else 1.0  # those replace the weight, as users know it
    if two and args.hr_option is (HiresOption.LOW if hires else HiresOption.HIGH):
        weight = 0.0
    mode = args.control_mode
    if hires and mode is ControlMode.BALANCED and unit.kind in SOFT_IN_HIRES:
        mode = ControlMode.PROMPT
    return ControlUnit(
        model=unit.model,
        hint=_with_gaps(as_tensor(hint)),
        weight=weight,
        schedule=args.schedule,
        mode=mode,
        resize=unit.given.resize,
        mask=unit.mask,
        block_weights=args.advanced_weighting,
    )


def _wish(unit: Prepared, hint: Image, hires: bool) -> Wish:
    numbers = (unit.args.threshold_a, unit.args.threshold_b)
    return Wish(kind=unit.kind, hint=as_tensor(hint), weight=unit.args.weight, numbers=numbers, hires=hires)


def _with_gaps(hint: Tensor) -> Tensor:
    """[1, 4, H, W] -> [1, 3, H, W] with -1 where the model is to invent, as inpainting models learned it."""
    if hint.shape[1] != 4:
        return hint
    gaps = (hint[:, 3:] > 0.5).float()
    return hint[:, :3] * (1 - gaps) - gaps
