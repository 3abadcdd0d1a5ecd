"""The conditions of a step as they are once units have changed them: `Conditions`.

Control networks read the prompt and the vector condition too, and read what the base network will read.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..network.effects import Vector
from ..step import Step


class Conditions:
    """The memory of one run: a silent prompt is one object for as long as it has the same shape.

    By that object the projections of the prompt are found again, which are then computed once a run.
    """

    def __init__(self) -> None:
        self._silent: Tensor | None = None

    def clear(self) -> None:
        """Forget the prompt."""
        self._silent = None

    def changed(self, step: Step, vector: Vector | None) -> Step:
        """Return the step whose rows have the conditions that `vector` leaves them; without one, the step itself."""
        if vector is None:
            return step
        y = None if step.y is None else vector.vector(step.y)
        if not vector.silent:
            return replace(step, y=y)
        context = vector.prompt(step.context)
        if len(vector.silent) == len(step.cond):
            context = self._same(context)
        return replace(step, y=y, context=context, prompt=None)

    def _same(self, zeros: Tensor) -> Tensor:
        known = self._silent
        if known is None or (known.shape, known.dtype, known.device) != (zeros.shape, zeros.dtype, zeros.device):
            self._silent = known = zeros
        return known
