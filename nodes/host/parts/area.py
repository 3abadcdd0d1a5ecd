"""Which part of the picture a regional prompt draws, told to a control by the host itself.

The host cuts the latents of a regional prompt out of the picture, and a control sees only the piece. The conditions of
a prompt may hold values of a class of their own, though, and the host tells those the region when it prepares a call:
so every prompt that holds our control holds one, which is taken out again before the base network is called.
"""

from __future__ import annotations

from typing import Any

import comfy.conds

KEY = "controlstack_area"
Area = tuple[int, int, int, int]  # height, width, top, left in latent pixels


class AreaCond(comfy.conds.CONDConstant):
    """A prompt's region as one of its conditions; None is the whole.

    A call may hold several regions of one size: it is told those of all its chunks. The host shows the regions of all
    prompts before the first call of a step, and they are noted on the canvas of the control that the prompt holds.
    """

    def __init__(self, canvas: Canvas, cond: Area | None = None) -> None:
        super().__init__(cond)
        self.canvas = canvas

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> AreaCond:
        if area is None or len(area) != 4:  # of a picture; a film's region has lengths as well
            return self._copy_with(None)
        height, width, top, left = (int(side) for side in area)
        self.canvas.span(top + height, left + width)
        return self._copy_with((height, width, top, left))

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, AreaCond)

    def concat(self, others: list[AreaCond]) -> tuple[Area | None, ...]:
        return (self.cond, *(each.cond for each in others))

    def _copy_with(self, cond: Any) -> AreaCond:
        return AreaCond(self.canvas, cond)


class Canvas:
    """The size of the whole picture in latent pixels, learnt from the prompts of a run.

    Nobody tells it outright. A call on the whole shows it; until one came, the regions of all prompts span it, which
    is right wherever regions reach the border, and parts that no region covers have no prompt at all. The canvases of
    all our controls in a run are `begin`-ned beside each other, and know what any of them knows.
    """

    def __init__(self) -> None:
        self.begin([])

    def begin(self, beside: list[Canvas]) -> None:
        """Forget the last run, which may have drawn another size, and join the canvases of this one."""
        self._shown = self._spanned = (0, 0)
        self._beside = beside
        if self not in beside:
            beside.append(self)

    def span(self, bottom: int, right: int) -> None:
        """Note that a region ends there."""
        self._spanned = (max(bottom, self._spanned[0]), max(right, self._spanned[1]))

    def show(self, height: int, width: int) -> None:
        """Note that a call draws the whole picture at this size."""
        self._shown = (height, width)

    @property
    def size(self) -> tuple[int, int]:
        """Return the (height, width) of the whole picture."""
        known = [size for each in self._beside for size in (each._shown, each._spanned)]
        return max(height for height, _ in known), max(width for _, width in known)


def rows_by_area(areas: tuple[Area | None, ...], rows: int) -> dict[Area | None, tuple[int, ...]]:
    """Return the rows of a call that each region has. areas: of the chunks, of as many rows each."""
    each, found = rows // len(areas), dict[Area | None, tuple[int, ...]]()
    for chunk, area in enumerate(areas):
        found[area] = (*found.get(area, ()), *range(chunk * each, (chunk + 1) * each))
    return found


def with_area(options: dict[str, Any], canvas: Canvas) -> dict[str, Any]:
    """Return the options of a prompt with the condition that learns its region."""
    return {**options, "model_conds": {**options.get("model_conds", {}), KEY: AreaCond(canvas)}}
