"""The units of one request while it is sampled: hooks that last exactly as long, and the answers they give."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...core import infotext
from ...core.base import check_fits
from ...core.errors import IncompatibleModelError
from ...core.fields import UnitArgs
from ...core.residuals import Residuals
from ...core.unit import Step
from . import forge
from .injection import Injection, base_of
from .memory import network_of, size_of
from .passes import Pass, Passes
from .preparing import merged, prepare
from .preprocessing import with_defaults
from .restoring import BLEND, PICTURE_KINDS, finish_picture

if TYPE_CHECKING:
    from .needs import Services
    from .pictures import Image

log = logging.getLogger("controlstack")

LAST_TIMESTEP = 999.0  # of the noise schedules of SD 1.x, SD 2.x and SDXL


class Run:
    """The units of one request."""

    def __init__(self, services: Services, p: Any, units: Sequence[UnitArgs]) -> None:
        """Read the pictures, load the models, run the preprocessors. Raises ControlError for what cannot work."""
        self._services, self._host = services, services.host
        self._p = p
        self.args = [with_defaults(unit) for unit in merged(units)]
        p.extra_generation_params.update(infotext.write(self.args, self._host.basis))
        self._units = [prepare(services, p, unit, index) for index, unit in enumerate(self.args)]
        services.models.trim([unit.model for unit in self._units])
        self._passes: Passes | None = None
        self._exits = ExitStack()
        self._injection: Injection | None = None
        self._failure: Exception | None = None
        self._cond: tuple[bool, ...] = ()
        self._resized = False

    @property
    def maps(self) -> list[tuple[Image, str]]:
        """The hints as users see them, each with its preprocessor; none before the first sampling."""
        return [] if self._passes is None else self._passes.maps

    @contextmanager
    def attached(self) -> Iterator[Run]:
        """The units act inside this context, on whatever samples there."""
        if self._services.active is not None:  # left by a run whose thread was killed
            self._services.active.detach()
        self._services.active = self
        try:
            self._host.before_run(any(unit.args.low_vram for unit in self._units))
            self._passes = Passes(self._units, self._p, self._host, lambda: self._cond)
            self._exits.callback(self._passes.close)
            if not self._host.patches:
                self._inject(self._host.unet)
            yield self
        finally:
            self.detach()
        if self._failure is not None:
            raise self._failure
        self._report()

    def detach(self) -> None:
        """Remove every hook; calling it again does nothing."""
        self._exits.close()
        self._injection = None
        self._services.active = None
        self._host.after_run(any(unit.args.low_vram for unit in self._units))

    def announce(self, rows: int, cond_rows: int, step: int, steps: int, sampler: Any) -> None:
        """The denoiser is about to evaluate the U-Net; a refiner may have put another one in its place."""
        try:
            if self._injection is not None and self._host.unet is not self._injection.unet:
                self._follow(self._host.unet)
        except Exception as error:
            self._failure = error  # the WebUI drops what its callbacks raise; `attached` raises it again
            raise
        self._pass().denoising.announce(rows, cond_rows, step, steps, sampler)

    def join(self, p: Any) -> None:
        """A pass is about to be sampled by a program whose U-Net belongs to a patcher."""
        if not self._host.patches or self._services.active is not self:
            return
        size = sum(
            size_of(network_of(model)) for model in {id(unit.model): unit.model for unit in self._units}.values()
        )
        blocks = len(self._host.unet.input_blocks)
        forge.join(p.sd_model.forge_objects, forge.PatchedControl(self._evaluate, blocks, size))

    def finish_pictures(self, pictures: list[Tensor]) -> None:
        """Give finished pictures, [3, H, W] in 0..1, back what their units want to keep; in place."""
        soft = int(self._host.option("control_net_inpaint_blur_sigma", BLEND))
        for wish in self._passes.last.wishes if self._passes is not None else ():
            if wish.kind in PICTURE_KINDS:
                for index in range(len(pictures)):
                    pictures[index] = finish_picture(wish, pictures[index], soft)

    def _inject(self, unet: Any) -> None:
        slots = {slot for unit in self._units for slot in unit.model.slots}
        finish = self._finish if any(part.restoration for part in self._passes or ()) else None
        self._injection = self._exits.enter_context(Injection(unet, self._evaluate, slots, finish))

    def _follow(self, unet: Any) -> None:
        """The base model was exchanged in the middle of a run (refiner, hires checkpoint)."""
        if self._injection is not None:
            self._injection.__exit__()
        try:
            for unit in self._units:
                check_fits(unit.model.name, unit.model.base, base_of(unet))
        except IncompatibleModelError as error:
            self._say(f"from here on without control: {error}")
            self._injection = None
            return
        self._inject(unet)

    def _evaluate(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None,
        cond: tuple[bool, ...] | None = None,
        onto: Residuals | None = None,
    ) -> Residuals:
        """cond: which rows are cond, where the program says so itself; onto: what its own controls add."""
        part = self._pass()
        self._cond = part.denoising.take(len(x)) if cond is None else cond
        if (x.shape[-2], x.shape[-1]) != part.size and not self._resized:
            self._resized = True
            self._say(
                f"something else cuts or scales the picture ({x.shape[-1]}x{x.shape[-2]} latent pixels instead of "
                f"{part.size[1]}x{part.size[0]}), and each part sees the whole control picture"
            )
        step = Step(
            x=x,
            timestep=timestep,
            context=context,
            cond=self._cond,
            progress=part.denoising.progress(lambda: 1 - float(timestep.flatten()[0]) / LAST_TIMESTEP),
            y=y,
        )
        return part.stack(step, onto)

    def _finish(self, x: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        return self._pass().restoration(x, timestep, output)

    def _pass(self) -> Pass:
        assert self._passes is not None  # nobody evaluates before `attached`
        return self._passes.present

    def _report(self) -> None:
        firings = [] if self._passes is None else self._passes.firings()
        for index, (unit, firing) in enumerate(zip(self._units, firings, strict=True)):
            text = f"unit {index} ({unit.args.module}, {unit.model.name}) acted on {firing} steps"
            if firing.fired or not firing.steps:  # no step at all: the user interrupted before the first one
                log.info(text)
            else:
                self._say(f"{text}: look at its weight, range and hires option")

    def _say(self, text: str) -> None:
        """A warning for the console and for the line below the pictures."""
        log.warning(text)
        self._p.comment(f"ControlNet: {text}")
