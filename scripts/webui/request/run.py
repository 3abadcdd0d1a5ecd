"""The units of one request while it is sampled: hooks that last exactly as long, and the answers they give."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ....core.base import check_fits
from ....core.effects import Effects
from ....core.errors import IncompatibleModelError
from ....core.points import PROMPT
from ....core.step import Step, Window
from ....units.webui_fields import UnitArgs
from ..host import patched as forge
from ..host.denoiser import pictures_of
from ..host.hooked import Injection, base_of
from ..host.memory import network_of, size_of
from ..host.tiles import Tiles, block_of, cut, joined
from .passes import Pass, Passes
from .preparing import prepare, write_text
from .restoring import BLEND, PICTURE_KINDS, finish_picture

if TYPE_CHECKING:
    from .needs import Services
    from .pictures import Image

log = logging.getLogger("controlstack")

LAST_TIMESTEP = 999.0  # of the noise schedules of SD 1.x, SD 2.x and SDXL


class Run:
    """The units of one request."""

    def __init__(self, services: Services, p: Any, units: Sequence[UnitArgs], tiles: Tiles | None = None) -> None:
        """Read the pictures, load the models, run the preprocessors. Raises ControlError for what cannot work.

        tiles: where others say which parts of the picture they draw.
        """
        self._services, self._host = services, services.host
        self._p = p
        self.args = write_text(services, p, units)
        self._units = [prepare(services, p, unit, index) for index, unit in enumerate(self.args)]
        services.models.trim([unit.model for unit in self._units])
        self._passes: Passes | None = None
        self._exits = ExitStack()
        self._injection: Injection | None = None
        self._unet: Any = None  # on which the units act
        self._network: nn.Module | None = None  # what the denoiser calls, around the U-Net
        self._failure: Exception | None = None
        self._cond: tuple[bool, ...] = ()
        self._windows: tuple[Window, ...] = ()
        self.tiles = tiles
        self._parts: tuple[bool, ...] | None = None
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
                self._follow(self._host.unet)
            yield self
        finally:
            self.detach()
        if self._failure is not None:
            raise self._failure
        self._report()

    def detach(self) -> None:
        """Remove every hook; calling it again does nothing."""
        self._exits.close()
        self._injection = self._unet = self._network = None
        self._services.active = None
        self._host.after_run(any(unit.args.low_vram for unit in self._units))

    def announce(self, rows: int, cond_rows: int, step: int, steps: int, denoiser: Any) -> None:
        """The denoiser is about to evaluate the U-Net; a refiner may have put another one in its place."""
        try:
            if self._unet is not None and self._host.unet is not self._unet:
                self._follow(self._host.unet)
        except Exception as error:
            self._failure = error  # the WebUI drops what its callbacks raise; `attached` raises it again
            raise
        denoising = self._pass().denoising
        denoising.announce(rows, cond_rows, step, steps, getattr(denoiser, "sampler", None))
        if not self._host.patches:  # which say themselves which rows are cond
            self._watch(denoiser.inner_model)

    def join(self, p: Any) -> None:
        """A pass is about to be sampled; where the U-Net belongs to a patcher, the units join it."""
        if self.tiles is not None:
            self.tiles.forget()  # what the pass before has shown last
        if not self._host.patches or self._services.active is not self:
            return
        try:
            self._pass().restoration.prepare()
            self._follow(self._host.unet)
        except Exception as error:
            self._failure = error  # as in `announce`
            raise

    def finish_pictures(self, pictures: list[Tensor]) -> None:
        """Give finished pictures, [3, H, W] in 0..1, back what their units want to keep; in place."""
        soft = int(self._host.option("control_net_inpaint_blur_sigma", BLEND))
        for wish in self._passes.last.wishes if self._passes is not None else ():
            if wish.kind in PICTURE_KINDS:
                for index in range(len(pictures)):
                    pictures[index] = finish_picture(wish, pictures[index], soft)

    def _follow(self, unet: Any) -> None:
        """Act on this U-Net from now on: the pass's own, or one that takes its place (refiner, hires checkpoint)."""
        first, self._unet = self._unet is None, unet
        if self._injection is not None:
            self._injection.__exit__()
            self._injection = None
        try:
            for unit in () if first else self._units:
                check_fits(unit.model.name, unit.model.base, base_of(unet))
        except IncompatibleModelError as error:
            self._say(f"from here on without control: {error}")
            return
        if self._host.patches:
            self._patch()
        else:
            self._inject(unet)

    def _inject(self, unet: Any) -> None:
        finish = self._finish if any(part.restoration for part in self._passes or ()) else None
        self._injection = self._exits.enter_context(Injection(unet, self._evaluate, finish))

    def _patch(self) -> None:
        objects = self._host.patched
        size = sum(
            size_of(network_of(model)) for model in {id(unit.model): unit.model for unit in self._units}.values()
        )
        tokens = any(PROMPT in unit.model.points for unit in self._units)
        finish = self._mend if self._pass().restoration else None
        self.tiles = Tiles(lambda: self._pass().size)
        control = forge.PatchedControl(self._evaluate, objects.unet, size, self.tiles, tokens=tokens, finish=finish)
        self._exits.callback(forge.join(objects, control))

    def _evaluate(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None,
        parts: tuple[bool, ...] | None = None,
        onto: Effects | None = None,
    ) -> Effects:
        """parts: which parts of the rows are cond, where the program says so; onto: what its own controls add."""
        part = self._pass()
        self._windows = self._shown(x, part)
        self._parts = parts
        self._cond = self._flags(len(x), part, parts)
        each = len(x) // (len(self._windows) or 1)
        step = Step(
            x=x,
            timestep=timestep,
            context=context,
            cond=self._cond,
            progress=part.denoising.progress(lambda: 1 - float(timestep.flatten()[0]) / LAST_TIMESTEP),
            y=y,
            pictures=pictures_of(self._cond, each),
        )
        if not self._windows:
            return part.stack(step, onto)
        found: list[Effects] = []
        for number, block in enumerate(self._windows):
            rows = step.rows(tuple(range(number * each, (number + 1) * each)))
            found.append(part.stack(replace(rows, window=block), block_of(onto, number, each)))
        return joined(found)

    def _flags(self, count: int, part: Pass, parts: tuple[bool, ...] | None) -> tuple[bool, ...]:
        """Which of the next `count` rows are cond."""
        if self.tiles is not None and not self._windows and (rows := self.tiles.rows(count)):
            return part.denoising.flags(rows)
        blocks = self._windows or (None,)
        each = count // len(blocks)
        taken = [part.denoising.take(each, block) if parts is None else _rows(parts, each) for block in blocks]
        return tuple(row for block in taken for row in block)

    def _shown(self, x: Tensor, part: Pass) -> tuple[Window, ...]:
        """The parts of the picture that this evaluation shows, if others say so; a warning if they cut in silence."""
        size = (x.shape[-2], x.shape[-1])
        if size == part.size:
            return ()
        windows = () if self.tiles is None else self.tiles.windows(part.size, size)
        if not windows and not self._resized:
            self._resized = True
            self._say(
                f"something else cuts or scales the picture ({x.shape[-1]}x{x.shape[-2]} latent pixels instead of "
                f"{part.size[1]}x{part.size[0]}), and each part sees the whole control picture"
            )
        return windows

    def _watch(self, network: nn.Module) -> None:
        if network is not self._network:
            self._network = network
            self._exits.callback(network.register_forward_pre_hook(self._hand).remove)

    def _hand(self, _network: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._pass().denoising.hand(len(args[0]))
        if self.tiles is not None:
            self.tiles.hand(len(args[0]))

    def _finish(self, x: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        return self._pass().restoration(x, timestep, output, lambda latents: cut(latents, self._windows, x))

    def _mend(self, clean: Tensor) -> Tensor:
        self._cond = _rows(self._parts or (True,), len(clean))  # what tiles were drawn of is whole again
        return self._pass().restoration.mend(clean)

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


def _rows(parts: tuple[bool, ...], count: int) -> tuple[bool, ...]:
    """One value for each of `count` rows."""
    return tuple(part for part in parts for _ in range(count // len(parts)))
