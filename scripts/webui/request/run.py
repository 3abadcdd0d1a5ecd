"""The units of one request, from what was said to what came of it; `running` is the time in between."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....units.saying import extra_cost, why_idle
from ....units.webui.fields import UnitArgs
from ..host.unet.tiles import Tiles
from ..pictures.restoring import BLEND, BLUR, PICTURE_KINDS, finish_picture
from .evaluation import Evaluations
from .passes import Passes
from .preparing import prepare, write_text
from .running import Running
from .saying import warn

if TYPE_CHECKING:
    from ..pictures.reading import Image
    from .needs import Services

log = logging.getLogger("controlstack")


class Run:
    """The units of one request."""

    def __init__(self, services: Services, p: Any, units: Sequence[UnitArgs], tiles: Tiles | None = None) -> None:
        """Read the pictures, load the models, run the preprocessors. Raises ControlError for what cannot work.

        tiles: where others say which parts of the picture they draw.
        """
        self._services, self._p, self._tiles = services, p, tiles
        self.args = write_text(services, p, units)
        self._units = [prepare(services, p, unit, index) for index, unit in enumerate(self.args)]
        services.models.trim([unit.model for unit in self._units])
        self._passes: Passes | None = None  # of the last sampling
        self._running: Running | None = None  # until it ends

    @property
    def maps(self) -> list[tuple[Image, str]]:
        """Return the hints as users see them, each with its preprocessor; none before the first sampling."""
        return [] if self._passes is None else self._passes.maps

    @contextmanager
    def attached(self) -> Iterator[Run]:
        """Let the units act on whatever samples inside this context."""
        if self._services.active is not None:  # left by a run whose thread was killed
            self._services.active.end()
        low_vram = any(unit.args.low_vram for unit in self._units)
        self._services.host.before_run(low_vram)
        running = self._services.active = self._running = self._begin(low_vram)
        try:
            running.begin()
            yield self
        finally:
            running.end()
        if running.failure is not None:
            raise running.failure
        self._report()

    def begin_pass(self) -> None:
        """Begin the sampling of a pass."""
        if self._running is not None:
            self._running.begin_pass()

    def finish_pictures(self, pictures: list[Tensor]) -> None:
        """Give finished pictures, [3, H, W] in 0..1, back what their units want to keep; in place."""
        soft = int(self._services.program.option(BLUR, BLEND))
        for original in self._passes.last.originals if self._passes is not None else ():
            if original.kind in PICTURE_KINDS:
                for index in range(len(pictures)):
                    pictures[index] = finish_picture(original, pictures[index], soft)

    def _begin(self, low_vram: bool) -> Running:
        services, host = self._services, self._services.host
        running: Running | None = None

        def ended() -> None:
            if services.active is running:
                services.active = None
            if self._passes is not None:
                self._passes.close()
            host.after_run(low_vram)

        try:
            passes = Passes(self._units, self._p, host, lambda: evaluations.cond)
        except BaseException:
            host.after_run(low_vram)
            raise
        self._passes, evaluations = passes, Evaluations(passes, host, functools.partial(warn, self._p))
        running = Running(host.attachment(evaluations, self._tiles), lambda: passes.present.denoising, ended)
        return running

    def _report(self) -> None:
        if self._passes is None:
            return
        for unit, each, firing in zip(self._units, self._passes.units(), self._passes.firings(), strict=True):
            name = f"unit {unit.args.number} ({unit.args.module}, {unit.model.name})"
            text = f"{name} acted on {firing.on_steps}{firing.remark}"
            if firing.fired or not firing.steps:  # no step at all: the user interrupted before the first one
                log.info("%s%s", text, extra_cost(unit.model))
                if firing.remark or unit.model.evaluations:  # the user sees why it takes longer, or less long
                    self._p.comment(f"ControlNet: {text}{extra_cost(unit.model)}")
            else:
                warn(self._p, f"{text}: {why_idle(each)}")
