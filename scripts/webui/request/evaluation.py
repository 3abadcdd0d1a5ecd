"""What is known of one evaluation of the base network: the part of the picture that it shows, and its cond rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ....core.memory.kept import to_encode
from ....core.network.effects import Effects
from ....core.network.joining import joined, part_of
from ....core.resize import fit
from ....core.step import Step, Window
from ....core.unit import ControlUnit
from ..host.unet.attachment import Call
from ..host.unet.denoiser import pictures_of
from ..host.unet.tiles import cut
from .needs import Host
from .passes import Pass, Passes


@dataclass(frozen=True, slots=True)
class Seen:
    """What the rows of an evaluation show: one block of rows for each window (none: the whole picture)."""

    windows: tuple[Window, ...] = ()
    cond: tuple[bool, ...] = ()
    parts: tuple[bool, ...] | None = None  # as in `Call`


class Evaluations:
    """What the units of one request answer, evaluation after evaluation (`host.attachment.Answers`)."""

    def __init__(self, passes: Passes, host: Host, warn: Callable[[str], None]) -> None:
        """warn: tells the user something."""
        self._passes, self._host = passes, host
        self.warn = warn
        self._seen = Seen()
        self._resized = False

    @property
    def units(self) -> Sequence[ControlUnit]:
        """Return the units of the present pass."""
        return self.present.stack.units

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the present pass in latent pixels."""
        return self.present.size

    @property
    def finishes(self) -> bool:
        """Return whether units change what the network answers in the present pass."""
        return bool(self.present.restoration)

    @property
    def present(self) -> Pass:
        """Return the pass that is sampled now."""
        return self._passes.present

    @property
    def cond(self) -> tuple[bool, ...]:
        """Return which rows of the last evaluation are cond."""
        return self._seen.cond

    def prepare(self, *, answers: bool) -> None:
        """Encode hints that are latents, and (answers) pictures of which answers are to keep something.

        In the middle of an evaluation the autoencoder would push the base network off the device.
        """
        for unit in self.units:
            if unit.acts and unit.model.hint_space.reads_latents:
                self._host.encode(to_encode(unit.model, _shown(unit, self.size, self._host)))
        if answers:
            self.present.restoration.prepare()

    def expect(self, rows: int) -> None:
        """Learn how many rows the denoiser hands to its network next."""
        self.present.denoising.expect(rows)

    def effects(self, call: Call) -> Effects:
        """Return what the units add in this evaluation."""
        present, windows = self.present, self._windows(call)
        self._seen = Seen(windows, _cond(call, windows, present), call.parts)
        step = _step(call, self._seen, present)
        if not windows:
            return present.stack(step, call.onto)
        found: list[tuple[tuple[int, ...], Effects]] = []
        each = len(call.x) // len(windows)
        for number, window in enumerate(windows):
            rows = tuple(range(number * each, (number + 1) * each))
            onto = None if call.onto is None else part_of(call.onto, rows)
            found.append((rows, present.stack(replace(step.rows(rows), window=window), onto)))
        return joined(found)

    def finish(self, x: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        """Return the network's answer [B, C, h, w] to `x` as the units want it."""
        windows = self._seen.windows
        return self.present.restoration(x, timestep, output, lambda latents: cut(latents, windows, x))

    def restore_clean(self, clean: Tensor) -> Tensor:
        """Return what the network sees in the noise, [B, C, h, w], as the units want it; tiles are whole again."""
        parts = self._seen.parts or (True,)
        self._seen = Seen(cond=_repeated(parts, len(clean)), parts=self._seen.parts)
        return self.present.restoration.restore_clean(clean)

    def _windows(self, call: Call) -> tuple[Window, ...]:
        """Return the parts of the picture that an evaluation shows; a warning if somebody cuts in silence."""
        size, canvas = (call.x.shape[-2], call.x.shape[-1]), self.size
        if size == canvas:
            return ()
        windows = () if call.tiles is None else call.tiles.windows(canvas, size)
        if not windows and not self._resized:
            self._resized = True
            self.warn(
                f"something else cuts or scales the picture ({size[1]}x{size[0]} latent pixels instead of "
                f"{canvas[1]}x{canvas[0]}), and each part sees the whole control picture"
            )
        return windows


def _step(call: Call, seen: Seen, present: Pass) -> Step:
    each = len(call.x) // (len(seen.windows) or 1)
    return Step(
        x=call.x,
        timestep=call.timestep,
        context=call.context,
        cond=seen.cond,
        progress=present.denoising.progress(call.noise),
        steps=present.denoising.steps,
        y=call.y,
        pictures=pictures_of(seen.cond, each),
        evaluate=call.evaluate,
        attend=call.attend,
    )


def _cond(call: Call, windows: tuple[Window, ...], present: Pass) -> tuple[bool, ...]:
    """Return which of the evaluation's rows are cond."""
    count = len(call.x)
    if call.tiles is not None and not windows and (rows := call.tiles.rows(count)):
        return present.denoising.flags(rows)
    blocks = windows or (None,)
    each = count // len(blocks)
    taken = [
        present.denoising.take(each, block) if call.parts is None else _repeated(call.parts, each) for block in blocks
    ]
    return tuple(row for block in taken for row in block)


def _repeated(parts: tuple[bool, ...], count: int) -> tuple[bool, ...]:
    """Return one value for each of `count` rows."""
    return tuple(part for part in parts for _ in range(count // len(parts)))


def _shown(unit: ControlUnit, size: tuple[int, int], host: Host) -> Tensor:
    """Return a hint at the size of the whole picture, as the stack will ask for it."""
    scale = unit.model.hint_scale
    return fit(unit.hint.to(host.device).float(), (size[0] * scale, size[1] * scale), unit.resize)
