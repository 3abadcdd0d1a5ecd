"""What a run computes once and needs at every step: the hints' features, the prompts' projections, the masks.

Keys say what a value depends on. Networks, hints and masks stand in keys by their ids: the stack's units hold them as
long as this lives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..control import ControlModel, HintSpace, Prepared, Prompt
from ..errors import HintError
from ..host import Host
from ..network.base import LATENT
from ..network.rows import take_rows
from ..resize import ResizeMode, fit
from ..step import Step, Window, version_of
from ..unit import ControlUnit
from .bounded import Memory, Tensors

# Bytes that a run keeps of hints and masks, and of prompts, beyond what one evaluation uses: some fifty tiles of SDXL's
# features at 1024 px in fp16, and several regions' prompts.
HINTS_KEPT, PROMPTS_KEPT = 512 << 20, 128 << 20
GREY = 0.5  # in the hole of a picture whose latents are read; Fooocus, ComfyUI's InpaintModelConditioning
MASK_SCALE = LATENT  # mask pixels per latent pixel: a mask is drawn on the picture


class Kept:
    """The memory of one run."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._hints = RunMemory(HINTS_KEPT)
        self._prompts = RunMemory(PROMPTS_KEPT)

    def begin(self) -> None:
        """Begin an evaluation: what it uses stays until its end."""
        self._hints.begin()
        self._prompts.begin()

    def clear(self) -> None:
        """Forget everything."""
        self._hints.clear()
        self._prompts.clear()

    @property
    def bytes(self) -> int:
        """Memory that is held between steps."""
        return self._hints.bytes + self._prompts.bytes

    def prepared(self, units: Sequence[ControlUnit], rows: tuple[int, ...], step: Step) -> Prepared:
        """Return the features of the hints of units on one model: [1, ...] where one hint serves all, else [rows, ...].

        rows: those of each unit; several units lie behind each other.
        """
        if len(units) == 1:
            return self._aligned(units[0], rows, step, broadcast=True)

        def beside() -> Prepared:
            parts = [self._aligned(unit, rows, step, broadcast=False) for unit in units]
            return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

        key = ("group", tuple(hint_key(unit, step) for unit in units), rows, step.window)
        return self._hints.keep(key, beside)

    def tokens(self, giver: ControlUnit, step: Step, rows: tuple[int, ...]) -> Tensor:
        """Return the tokens [rows, T, D] of a unit whose model gives some: its picture's for the cond rows."""
        cond = tuple(step.cond[row] for row in rows)

        def made() -> Tensors:
            with self._host.ready(giver.model):
                return giver.model.tokens(self._hint(giver, step))

        def aligned() -> Tensors:
            seen, none = self._hints.keep(("tokens", hint_key(giver, step)), made)
            shown = pictures_of(hints_of(giver), rows, step.window)
            pairs = zip(shown, cond, strict=True)
            return (torch.stack([(seen if positive else none)[at % len(seen)] for at, positive in pairs]),)

        return self._hints.keep(("tokens", hint_key(giver, step), rows, cond, step.window), aligned)[0]

    def prompt(self, model: ControlModel, step: Step, rows: tuple[int, ...], told: Tensor | None = None) -> Prompt:
        """Return `model.encode` of these rows' prompts, or of what stands in their place, which is kept as well.

        The key is an object that is held here, so its id cannot come again.
        """
        if told is not None:
            key = (model.sameness, id(told), rows)
            return self._prompts.keep(key, lambda: model.encode(told), of=told)
        token = step.token
        key = (model.sameness, id(token), version_of(token), rows)
        return self._prompts.keep(key, lambda: model.encode(take_rows(step.context, rows)), of=token)

    def mask(self, unit: ControlUnit, rows: tuple[int, ...], step: Step, target: Tensor) -> Tensor:
        """Return a unit's mask at the size of what it weighs: a map [B, C, h, w] or tokens of a map [B, h * w, C].

        The mask is [1 or len(rows), 1, h, w] or [1 or len(rows), h * w, 1]; bilinear, as in sd-webui-controlnet.
        """
        mask = unit.mask
        assert mask is not None
        size = grid_of(target, step)
        area = area_of(step)
        frames = None if step.window is None else step.window.frames

        def scaled() -> tuple[Tensor]:
            shown = self._shown(mask, unit.resize, step, MASK_SCALE)
            small = F.interpolate(shown, size, mode="bilinear").to(target.dtype)
            small = small if target.ndim == 4 else small.flatten(2).transpose(1, 2)
            return (small if len(mask) == 1 else take_rows(small, pictures_of(len(mask), rows, step.window)),)

        key = ("mask", id(mask), unit.resize, area, frames, size, target.ndim, rows, target.dtype, target.device)
        return self._hints.keep(key, scaled)[0]

    def factors(self, values: tuple[float, ...], target: Tensor) -> Tensor:
        """Return a factor for each row of what it weighs [B, ...], as [B, 1 ...], brought to the device once a run."""
        key = ("factors", values, target.ndim, target.dtype, target.device)
        shape = (-1, *(1,) * (target.ndim - 1))
        return self._hints.keep(key, lambda: (target.new_tensor(values).reshape(shape),))[0]

    def _aligned(self, unit: ControlUnit, rows: tuple[int, ...], step: Step, *, broadcast: bool) -> Prepared:
        count, window = hints_of(unit), step.window
        if count == 1 and broadcast:
            return self._features(unit, step)
        by_frame = window is not None and window.frames is not None
        if not by_frame and len(step.cond) % count:
            raise HintError(
                f"'{unit.model.name}' has {count} hints for {len(step.cond)} rows: give one hint, or one per picture"
            )
        shown = pictures_of(count, rows, window)
        key = ("rows", hint_key(unit, step), shown)
        return self._hints.keep(key, lambda: tuple(take_rows(each, shown) for each in self._features(unit, step)))

    def _features(self, unit: ControlUnit, step: Step) -> Prepared:
        """Return `model.prepare`, once per hint, size, part of the picture and dtype."""
        return self._hints.keep(hint_key(unit, step), lambda: unit.model.prepare(self._hint(unit, step)))

    def _hint(self, unit: ControlUnit, step: Step) -> Tensor:
        """Return the part of the unit's hint that the rows show, as its model reads it."""
        model = unit.model
        if model.hint_space is HintSpace.EMBEDDING:
            return unit.hint.to(step.x.device)
        shown = self._shown(unit.hint, unit.resize, step, model.hint_scale)
        if not model.hint_space.reads_latents:
            return shown
        latents = self._host.encode(to_encode(model, shown))
        if model.hint_space is HintSpace.LATENTS:
            return latents
        hole = F.max_pool2d(_hole(shown), model.hint_scale).to(latents)
        return torch.cat([hole, latents], dim=1)

    def _shown(self, picture: Tensor, mode: ResizeMode, step: Step, scale: int) -> Tensor:
        """Return a hint or mask, fitted to the whole picture and cut to the part that the rows show."""
        size = (step.x.shape[-2], step.x.shape[-1])
        canvas, top, left = area_of(step)

        def fitted() -> tuple[Tensor]:
            return (fit(picture.to(step.x.device, torch.float32), (canvas[0] * scale, canvas[1] * scale), mode),)

        if canvas == size:
            return fitted()[0]
        whole = self._hints.keep(("whole", id(picture), mode, canvas, scale, step.x.device), fitted)[0]
        return whole[..., top * scale : (top + size[0]) * scale, left * scale : (left + size[1]) * scale]


def to_encode(model: ControlModel, shown: Tensor) -> Tensor:
    """Return the picture [N, 3, H, W] whose latents a model reads, of a hint at that size."""
    if model.hint_space is HintSpace.INPAINTING:
        return torch.where(_hole(shown) > 0, GREY, shown)
    return model.black + (1 - model.black) * shown.clamp(min=model.hole)


def _hole(shown: Tensor) -> Tensor:
    """Return 1 where a hint [N, C, H, W] is to be invented, else 0, as [N, 1, H, W]."""
    return (shown < 0).all(dim=1, keepdim=True).to(shown.dtype)


def hints_of(unit: ControlUnit) -> int:
    """Return how many hints of a unit differ by picture; 1 is for all of them."""
    return 1 if unit.model.joins_hints else len(unit.hint)


def hint_key(unit: ControlUnit, step: Step) -> Hashable:
    """Return what a hint's features depend on."""
    size = (step.x.shape[-2], step.x.shape[-1])
    return ("hint", unit.model.sameness, id(unit.hint), unit.resize, area_of(step), size, step.x.dtype, step.x.device)


def pictures_of(count: int, rows: tuple[int, ...], window: Window | None) -> tuple[int, ...]:
    """Return which of `count` hints or masks each row shows."""
    if window is None or window.frames is None or count == 1:
        return tuple(row % count for row in rows)
    return tuple(window.frames[row % len(window.frames)] for row in rows)


def area_of(step: Step) -> tuple[tuple[int, int], int, int]:
    """Return the whole picture's (height, width), and the top and left of what the rows show, in latent pixels."""
    window = step.window
    if window is None:
        return (step.x.shape[-2], step.x.shape[-1]), 0, 0
    return window.canvas, window.top, window.left


def grid_of(target: Tensor, step: Step) -> tuple[int, int]:
    """Return the (height, width) of a map [B, C, h, w], or of the map whose pixels are the tokens [B, h * w, C].

    A U-Net halves its maps, odd sides rounded up, so the number of tokens names the level. HintError for any other.
    """
    if target.ndim == 4:
        return target.shape[-2], target.shape[-1]
    height, width = step.x.shape[-2], step.x.shape[-1]
    while height * width > target.shape[1] and max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
    if target.ndim != 3 or height * width != target.shape[1]:
        raise HintError(
            f"a mask cannot be laid on {list(target.shape)}, which is no map of the picture: leave the unit's mask out"
        )
    return height, width


class RunMemory(Memory):
    """A memory in which what one evaluation uses stays until its end."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._used: set[Hashable] = set()  # since the evaluation began

    def begin(self) -> None:
        """Begin an evaluation: what only earlier ones used may be dropped from now on."""
        self._used.clear()

    def keep(self, key: Hashable, make: Callable[[], Tensors], of: object = None) -> Tensors:
        """Return the tensors under a key; `make` computes them if there are none. of: what the key names by its id."""
        found = self.find(key)
        if found is None:
            found = make()
            self.put(key, found, of)
        self._used.add(key)
        self.trim(self._used.__contains__)
        return found

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._used.clear()
