"""The passes of one sampling: the first one, and the hires pass, each with units of its own size and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....core.firing import Firing
from ....core.network.base import LATENT
from ....core.stack import ControlStack
from ....core.unit import ControlMode, ControlUnit
from ....preprocessors import find
from ....units.choices import HiresOption
from ....units.hint import cards, hint_tensor
from ....units.make import make
from ....units.webui.fileless import without_fidelity
from ..host.unet.denoiser import Denoising
from ..pictures.fitting import fit_hint
from ..pictures.inputs import target_sizes
from ..pictures.restoring import Original, Restoration, visible
from .preparing import Prepared
from .saying import about_unit

if TYPE_CHECKING:
    from ....units.hint import Hint
    from ..pictures.reading import Image
    from .needs import Host

SOFT_IN_HIRES = ("canny", "mlsd")  # sd-webui-controlnet: hard lines are softened in the hires pass in every mode

Size = tuple[int, int]  # height and width


@dataclass(kw_only=True)
class Pass:
    """One sampling of the latents."""

    size: Size  # in latent pixels
    stack: ControlStack
    denoising: Denoising
    originals: list[Original]
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
        """Return the one that is being sampled."""
        hires = bool(getattr(self._p, "is_hr_pass", False))
        return self._by_hires.get(hires, self._by_hires[False])

    @property
    def last(self) -> Pass:
        """Return the one whose pictures the user sees."""
        return self._by_hires.get(True, self._by_hires[False])

    def firings(self) -> list[Firing]:
        """Return for each unit on how many of the steps of all passes it acted."""
        by_unit = zip(*(part.stack.firings() for part in self), strict=True)
        return [reduce(add, passes) for passes in by_unit]

    def units(self) -> list[ControlUnit]:
        """Return each unit as it is in the first pass that it is for."""
        by_unit = zip(*(part.stack.units for part in self), strict=True)
        return [next((each for each in passes if each.weight), passes[0]) for passes in by_unit]

    def close(self) -> None:
        """Release what the stacks keep between steps."""
        for part in self:
            part.stack.close()


def _fitted(unit: Prepared, low: Size, high: Size | None) -> tuple[Hint, ...]:
    """Return the hint at the size of each pass; what an encoder saw has none."""
    sizes = [size for size in (low, high) if size is not None]
    if isinstance(unit.hint, Tensor):
        return (unit.hint,) * len(sizes)
    return tuple(fit_hint(unit.hint, size, unit.given.resize) for size in sizes)


def _maps(unit: Prepared, hints: Sequence[Hint]) -> list[tuple[Image, str]]:
    """Return what the user is shown, with its preprocessor: the larger one first, as in sd-webui-controlnet."""
    if not unit.args.save_detected_map:
        return []
    if isinstance(unit.hint, Tensor):
        title = find(unit.request.preprocessor).title
        return [(cards(picture, title), unit.args.module) for picture in unit.shown]
    return [(visible(hint), unit.args.module) for hint in reversed(hints) if not isinstance(hint, Tensor)]


def _make_pass(
    units: Sequence[Prepared],
    hints: Sequence[Hint],
    size: Size,
    host: Host,
    cond: Callable[[], tuple[bool, ...]],
    *,
    hires: bool,
    two: bool,
) -> Pass:
    pairs = list(zip(units, hints, strict=True))
    originals = [_original(unit, hint, hires) for unit, hint in pairs if not isinstance(hint, Tensor)]
    return Pass(
        size=(size[0] // LATENT, size[1] // LATENT),
        stack=ControlStack([_unit(unit, hint, hires, two) for unit, hint in pairs], host),
        denoising=Denoising(),
        originals=originals,
        restoration=Restoration(originals, host.latents, cond),
    )


def _unit(unit: Prepared, hint: Hint, hires: bool, two: bool) -> ControlUnit:
    """Return the unit as the core takes it; two: there are two passes, of which a unit may choose one."""
    request = unit.request
    if hires and request.mode is ControlMode.BALANCED:
        request = replace(request, mode=ControlMode.PROMPT) if unit.kind in SOFT_IN_HIRES else without_fidelity(request)
    part = (HiresOption.HIGH if hires else HiresOption.LOW) if two else HiresOption.BOTH
    with about_unit(unit.args.number):
        return make(request, hint_tensor(hint), unit.model, unit.mask, part)


def _original(unit: Prepared, hint: Image, hires: bool) -> Original:
    numbers = (unit.args.threshold_a, unit.args.threshold_b)
    return Original(kind=unit.kind, hint=_levels(hint), weight=unit.args.weight, numbers=numbers, hires=hires)


def _levels(hint: Image) -> Tensor:
    """Return a hint [H, W, C] in 0..255 as floats [1, C, H, W] in 0..1, its mask among the channels."""
    return torch.from_numpy(hint.copy()).permute(2, 0, 1)[None].float() / 255
