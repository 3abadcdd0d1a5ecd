"""Which part of the picture a regional prompt draws, told to a control by the host itself.

The host cuts the latents of a regional prompt out of the picture, and a control sees only the piece. Conditions may
carry values of their own kind, though, and the host tells those the region when it prepares a call: so one rides along
with every prompt that holds our control, and is taken out again before the base network is called.
"""

from __future__ import annotations

from typing import Any

import comfy.conds

KEY = "controlstack_area"


class AreaCond(comfy.conds.CONDConstant):
    """Carries the region (height, width, top, left) in latent pixels; None is the whole picture.

    Two regions are never computed as one batch, since a step has one window.
    """

    def __init__(self, cond: tuple[int, int, int, int] | None = None) -> None:
        super().__init__(cond)

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> AreaCond:
        if area is None or len(area) != 4:  # of a picture; a film's region has lengths as well
            return AreaCond()
        height, width, top, left = (int(side) for side in area)
        return AreaCond((height, width, top, left))


def with_area(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a prompt, with the rider."""
    return {**options, "model_conds": {**options.get("model_conds", {}), KEY: AreaCond()}}


def take_area(cond: dict[str, Any]) -> tuple[int, int, int, int] | None:
    """The region of this call; afterwards the base network does not see the rider."""
    return cond.pop(KEY, None)


class Canvas:
    """The size of the whole picture in latent pixels, learnt from the calls of a run.

    Nobody tells it outright. A call without a region shows it; until one came, the regions seen so far span it, which
    is right wherever regions reach the border, and parts that no region covers have no prompt at all.
    """

    def __init__(self) -> None:
        self._known: tuple[int, int] | None = None
        self._spanned = (0, 0)

    def of(self, size: tuple[int, int], area: tuple[int, int, int, int] | None) -> tuple[int, int]:
        """(height, width) of the whole, for a call on latents of `size` in `area`."""
        if area is None:
            self._known = size
            return size
        ends = (area[2] + size[0], area[3] + size[1])
        self._spanned = (max(ends[0], self._spanned[0]), max(ends[1], self._spanned[1]))
        fits = self._known is not None and self._known[0] >= ends[0] and self._known[1] >= ends[1]
        return self._known if fits and self._known is not None else self._spanned
