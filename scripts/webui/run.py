"""One request with units: from what was asked for to hooks that last exactly as long as the sampling.

The WebUI prints and drops what a script raises, and then draws an uncontrolled picture. Therefore a request's own
`sample` is wrapped: what went wrong before is raised there, where it ends the request, and the hooks live inside one
`with` around the sampling, which closes on success, error and interrupt alike.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ...core import infotext
from ...core.base import check_fits
from ...core.errors import ControlError, IncompatibleModelError
from ...core.fields import HiresOption, InputMode, UnitArgs
from ...core.residuals import Residuals
from ...core.resize import pixel_perfect
from ...core.schedule import RangeBasis
from ...core.stack import ControlStack, Firing
from ...core.unit import ControlMode, ControlModel, ControlUnit, Place, Slot, Step, Window
from . import forge, preprocessing
from .denoiser import Denoising
from .files import ModelFiles
from .fitting import fit_hint
from .injection import Injection, base_of
from .inputs import Input, choose, seed_of, target_sizes
from .memory import ModelCache, network_of, size_of
from .pictures import read_mask, rgba_pictures
from .restoring import BLEND, PICTURE_KINDS, Restoration, Wish, finish_picture, visible
from .tiles import LATENT, Tiles, cut, joined

if TYPE_CHECKING:
    from .pictures import Image

log = logging.getLogger("controlstack")

LAST_TIMESTEP = 999.0  # of the noise schedules of SD 1.x, SD 2.x and SDXL
SOFT_IN_HIRES = ("canny", "mlsd")  # sd-webui-controlnet: hard lines are softened in the hires pass in every mode


class Host(Protocol):
    """What a run needs from the WebUI; `host.WebUI` is the real one."""

    def ready(self, model: ControlModel) -> Any: ...
    def check_interrupt(self) -> None: ...
    def before_run(self, low_vram: bool) -> None: ...
    def after_run(self, low_vram: bool) -> None: ...
    def alone(self, job: str) -> Any: ...
    def option(self, name: str, default: Any) -> Any: ...
    def encode(self, picture: Tensor) -> Tensor: ...
    def signal(self, timestep: Tensor) -> Tensor: ...
    @property
    def predicts_velocity(self) -> bool: ...
    @property
    def patches(self) -> bool: ...
    @property
    def basis(self) -> RangeBasis: ...
    @property
    def unet(self) -> Any: ...
    @property
    def patched(self) -> Any: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(kw_only=True)
class Services:
    """What outlives a run."""

    host: Host
    files: ModelFiles
    models: ModelCache
    preprocess: preprocessing.Preprocessing
    active: Run | None = None  # the run whose hooks are in place


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A unit whose model is loaded and whose hint is drawn, at the preprocessor's resolution."""

    args: UnitArgs
    kind: str  # the preprocessor's id
    model: ControlModel
    given: Input
    hint: Image
    mask: Tensor | None


@dataclass(kw_only=True)
class Pass:
    """The first pass, or the hires pass."""

    size: tuple[int, int]  # height and width in latent pixels
    units: list[ControlUnit]
    stack: ControlStack
    denoising: Denoising
    wishes: list[Wish]
    restoration: Restoration


class Run:
    """The units of one request."""

    def __init__(self, services: Services, p: Any, units: Sequence[UnitArgs], tiles: Tiles | None = None) -> None:
        """Read the pictures, load the models, run the preprocessors. Raises ControlError for what cannot work.

        tiles: where others say which parts of the picture they draw.
        """
        self._services, self._host = services, services.host
        self._p = p
        self.args = write_text(services, p, units)
        self._units = [self._prepare(unit, index) for index, unit in enumerate(self.args)]
        services.models.trim([unit.model for unit in self._units])
        self._passes: dict[bool, Pass] = {}
        self._exits = ExitStack()
        self._injection: Injection | None = None
        self._unet: Any = None  # on which the units act
        self._failure: Exception | None = None
        self._cond: tuple[bool, ...] = ()
        self._windows: tuple[Window, ...] = ()
        self.tiles = tiles
        self._warned = self._resized = False
        self.maps: list[tuple[Image, str]] = []

    @contextmanager
    def attached(self) -> Iterator[Run]:
        """The units act inside this context, on whatever samples there."""
        if self._services.active is not None:  # left by a run whose thread was killed
            self._services.active.detach()
        self._services.active = self
        try:
            self._host.before_run(any(unit.args.low_vram for unit in self._units))
            self._make_passes()
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
        self._injection = self._unet = None
        self._services.active = None
        self._host.after_run(any(unit.args.low_vram for unit in self._units))

    def announce(self, rows: int, cond_rows: int, step: int, steps: int, sampler: Any) -> None:
        """The denoiser is about to evaluate the U-Net; a refiner may have put another one in its place."""
        try:
            if self._unet is not None and self._host.unet is not self._unet:
                self._follow(self._host.unet)
        except Exception as error:
            self._failure = error  # the WebUI drops what its callbacks raise; `attached` raises it again
            raise
        self._pass().denoising.announce(rows, cond_rows, step, steps, sampler)

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

    def firings(self) -> list[Firing]:
        """For each unit, on how many of the steps of all passes it acted."""
        counts = [part.stack.firings() for part in self._passes.values()]
        return [
            Firing(sum(each.fired for each in unit), sum(each.steps for each in unit))
            for unit in zip(*counts, strict=True)
        ]

    # --- Before the sampling ---------------------------------------------------------------------------------------

    def _prepare(self, unit: UnitArgs, index: int) -> Prepared:
        services, p = self._services, self._p
        _, path = services.files.find(unit.model)
        preprocessor = preprocessing.lookup(unit.module)
        ignore_mask = bool(self._host.option("controlnet_ignore_noninpaint_mask", False))
        given = choose(unit, p, index, ignore_mask, preprocessor.takes_mask)
        model = services.models.get(path, self._host.dtype, self._host.checkpoint, self._base_state)
        check_fits(model.name, model.base, base_of(self._host.unet))
        size = (given.picture.shape[0], given.picture.shape[1])
        resolution = pixel_perfect(size, target_low(p), given.resize) if unit.pixel_perfect else None
        hint = services.preprocess(unit, given.picture, resolution, seed_of(p), given.mask)
        region = None if unit.effective_region_mask is None else read_mask(unit.effective_region_mask)
        mask = None if region is None else as_tensor(region[..., None])
        return Prepared(args=unit, kind=_kind(preprocessor.id, p), model=model, given=given, hint=hint, mask=mask)

    def _base_state(self) -> dict[str, Tensor]:
        return self._host.unet.state_dict()

    def _make_passes(self) -> None:
        low, high = target_sizes(self._p)
        self.maps = []
        self._passes = {}
        hints = [self._fit(unit, low, high) for unit in self._units]
        for hires, size in ((False, low), (True, high)):
            if size is not None:
                units = [
                    self._unit(unit, pair[hires], hires, high is not None)
                    for unit, pair in zip(self._units, hints, strict=True)
                ]
                stack = ControlStack(units, self._host)
                self._exits.callback(stack.close)
                wishes = [_wish(unit, pair[hires], hires) for unit, pair in zip(self._units, hints, strict=True)]
                self._passes[hires] = Pass(
                    size=(size[0] // LATENT, size[1] // LATENT),
                    units=units,
                    stack=stack,
                    denoising=Denoising(),
                    wishes=wishes,
                    restoration=Restoration(wishes, self._host, lambda: self._cond),
                )

    def _fit(self, unit: Prepared, low: tuple[int, int], high: tuple[int, int] | None) -> tuple[Image, Image]:
        """The hint at the size of each pass; the maps are returned to the user in sd-webui-controlnet's order."""
        fitted = fit_hint(unit.hint, low, unit.given.resize)
        larger = fitted if high is None else fit_hint(unit.hint, high, unit.given.resize)
        if unit.args.save_detected_map:
            shown = [larger, fitted] if high is not None else [fitted]
            self.maps += [(visible(each), unit.args.module) for each in shown]
        return fitted, larger

    def _unit(self, unit: Prepared, hint: Image, hires: bool, two_passes: bool) -> ControlUnit:
        args = unit.args
        weight = args.weight if args.advanced_weighting is None else 1.0  # those replace the weight, as users know it
        if two_passes and args.hr_option is (HiresOption.LOW if hires else HiresOption.HIGH):
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

    # --- During the sampling ---------------------------------------------------------------------------------------

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
        finish = self._finish if any(part.restoration for part in self._passes.values()) else None
        self._injection = self._exits.enter_context(Injection(unet, self._evaluate, self._slots, finish))

    def _patch(self) -> None:
        objects = self._host.patched
        size = sum(
            size_of(network_of(model)) for model in {id(unit.model): unit.model for unit in self._units}.values()
        )
        tokens = any(slot.place is Place.CONTEXT for slot in self._slots)
        finish = self._mend if self._pass().restoration else None
        control = forge.PatchedControl(self._evaluate, objects.unet, size, tokens=tokens, finish=finish)
        self._exits.callback(forge.join(objects, control))

    @property
    def _slots(self) -> set[Slot]:
        return {slot for unit in self._units for slot in unit.model.slots}

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
        self._windows = self._shown(x, part)
        blocks = self._windows or (None,)
        each = len(x) // len(blocks)
        taken = [part.denoising.take(each, block) for block in blocks] if cond is None else [cond]
        self._cond = tuple(row for block in taken for row in block)
        step = Step(
            x=x,
            timestep=timestep,
            context=context,
            cond=self._cond,
            progress=part.denoising.progress(lambda: 1 - float(timestep.flatten()[0]) / LAST_TIMESTEP),
            y=y,
        )
        if not self._windows:
            return part.stack(step, onto)
        steps = (step.rows(tuple(range(i * each, (i + 1) * each))) for i in range(len(blocks)))
        return joined([part.stack(replace(s, window=block)) for s, block in zip(steps, blocks, strict=True)])

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

    def _finish(self, x: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        return self._pass().restoration(x, timestep, output, lambda latents: cut(latents, self._windows, x))

    def _mend(self, clean: Tensor) -> Tensor:
        return self._pass().restoration.mend(clean)

    def _pass(self) -> Pass:
        hires = bool(getattr(self._p, "is_hr_pass", False))
        return self._passes.get(hires, self._passes[False])

    def finish_pictures(self, pictures: list[Tensor]) -> None:
        """Give finished pictures, [3, H, W] in 0..1, back what their units want to keep; in place."""
        soft = int(self._host.option("control_net_inpaint_blur_sigma", BLEND))
        last = self._passes.get(True, self._passes.get(False))
        for wish in last.wishes if last is not None else ():
            if wish.kind in PICTURE_KINDS:
                for index in range(len(pictures)):
                    pictures[index] = finish_picture(wish, pictures[index], soft)

    # --- After it --------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        for index, (unit, firing) in enumerate(zip(self._units, self.firings(), strict=True)):
            text = f"unit {index} ({unit.args.module}, {unit.model.name}) acted on {firing} steps"
            if firing.fired or not firing.steps:  # no step at all: the user interrupted before the first one
                log.info(text)
            else:
                self._say(f"{text}: look at its weight, range and hires option")

    def _say(self, text: str) -> None:
        """A warning for the console and for the line below the pictures."""
        log.warning(text)
        self._p.comment(f"ControlNet: {text}")


class Sampling:
    """Stands in for `p.sample` of one request; `begin` puts it there."""

    def __init__(self, p: Any, original: Callable[..., Any] | None) -> None:
        self.p, self.original = p, original
        self.run: Run | None = None
        self.error: Exception | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.error is not None:
            raise for_caller(self.p, self.error) from self.error
        sample = type(self.p).sample.__get__(self.p) if self.original is None else self.original
        try:
            with self.run.attached() if self.run is not None else ExitStack():
                return sample(*args, **kwargs)
        except ControlError as error:
            raise for_caller(self.p, error) from error


def begin(
    services: Services, p: Any, collect: Callable[[], Sequence[UnitArgs]], tiles: Tiles | None = None
) -> Run | None:
    """Prepare a request's units; whatever is wrong with them is raised when the WebUI starts to sample."""
    end(p)
    sampling = Sampling(p, vars(p).get("sample"))
    try:
        units = collect()
        if not units:
            return None
        sampling.run = Run(services, p, units, tiles)
    except ControlError as error:
        log.error("%s", error)
        sampling.error = error
    except Exception as error:
        sampling.error = error
        raise  # the WebUI prints where it came from
    finally:
        if sampling.run is not None or sampling.error is not None:
            p.sample = sampling
    return sampling.run


def write_text(services: Services, p: Any, units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """The units into the text of a request's pictures; returned as they run."""
    args = [preprocessing.with_defaults(unit) for unit in merged(units)]
    p.extra_generation_params.update(infotext.write(args, services.host.basis))
    return args


def end(p: Any) -> None:
    """Give a request its own `sample` back; scripts such as loopback run the same request again."""
    mine = vars(p).get("sample")
    if isinstance(mine, Sampling):
        if mine.original is None:
            del p.sample
        else:
            p.sample = mine.original


def for_caller(p: Any, error: Exception) -> Exception:
    """A caller of the API gets 422 and the sentence; the page shows the sentence itself."""
    if not getattr(p, "is_api", False) or not isinstance(error, ControlError):
        return error
    from fastapi import HTTPException

    return HTTPException(status_code=422, detail=f"ControlNet: {error}")


def merged(units: Sequence[UnitArgs]) -> list[UnitArgs]:
    """Units with several pictures as so many units with an even share of the weight each."""
    result: list[UnitArgs] = []
    for unit in units:
        pictures = rgba_pictures(unit.image, unit.mask) if unit.input_mode is InputMode.MERGE else None
        if not pictures:
            result.append(unit)
            continue
        share = unit.weight / len(pictures)
        parts = ({"image": each[..., :3], "mask": each[..., 3]} for each in pictures)
        result += [replace(unit, image=part, mask=None, weight=share, input_mode=InputMode.SIMPLE) for part in parts]
    return result


def _kind(preprocessor: str, p: Any) -> str:
    """The preprocessor's id. Where img2img itself paints, what lies outside its mask comes back anyway."""
    paints = preprocessor == "inpaint_only" and getattr(p, "image_mask", None) is not None
    return "inpaint_global_harmonious" if paints else preprocessor


def _wish(unit: Prepared, hint: Image, hires: bool) -> Wish:
    numbers = (unit.args.threshold_a, unit.args.threshold_b)
    return Wish(kind=unit.kind, hint=as_tensor(hint), weight=unit.args.weight, numbers=numbers, hires=hires)


def _with_gaps(hint: Tensor) -> Tensor:
    """[1, 4, H, W] -> [1, 3, H, W] with -1 where the model is to invent, as inpainting models learned it."""
    if hint.shape[1] != 4:
        return hint
    gaps = (hint[:, 3:] > 0.5).float()
    return hint[:, :3] * (1 - gaps) - gaps


def target_low(p: Any) -> tuple[int, int]:
    """(height, width) of the first pass: pixel perfect looks at nothing else."""
    return p.height // 8 * 8, p.width // 8 * 8


def as_tensor(picture: Image) -> Tensor:
    """[H, W, C] in 0..255 -> float [1, C, H, W] in 0..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
