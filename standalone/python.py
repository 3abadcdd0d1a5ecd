"""ControlStack for scripts and notebooks: what `import controlstack as cs` offers beside the core's own types.

Paths, pictures (Pillow or arrays) and plain words go in; units, pictures and sheets come out. docs/python.md shows it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.control import ControlModel
from ..core.errors import HostError
from ..core.firing import Firing
from ..core.stack import ControlStack
from ..core.unit import ControlUnit
from ..models.fileless.making import make_fileless
from ..models.kinds.fileless import FILELESS
from ..models.registry import inspect as inspect_file
from ..models.registry import load_control_model as load_model_file
from ..pipelines.attached import Injection, check_units
from ..pipelines.bases import DTYPES, Base, Offload, UnetState
from ..pipelines.bases import load_base as load_base_file
from ..pipelines.drawing import Result
from ..pipelines.drawing import generate as draw
from ..pipelines.loras.file import Lora, read_lora
from ..pipelines.request import Request
from ..preprocessors import Output, find
from ..preprocessors.images import convert_image, read_image, read_mask
from ..units.convention import said_by
from ..units.hint import cards, visible
from ..units.ready import ready
from ..units.request import read_request
from ..units.unread import unread_by
from .hub.places import located
from .progress import steps_bar

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from ..models.family import Description

Pixels = NDArray[np.uint8]
Source = Any  # a path, a Pillow picture, or pixels [H, W, 3]


def load_base(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "fp32",
    offload: str = "none",
    prediction: str | None = None,
) -> Base:
    """Return a base model: a diffusers folder or a checkpoint file of SD 1.x, SD 2.x or SDXL.

    device: a name of PyTorch's, or 'auto' for a GPU where there is one. dtype: 'fp32', 'fp16', 'bf16', or PyTorch's.
    offload: 'none', 'model' or 'sequential', what leaves the device between uses. prediction: 'epsilon' or
    'v_prediction', for files that do not say it.
    """
    return load_base_file(
        located(Path(path), "base model"),
        device=device,
        dtype=_dtype(dtype),
        offload=_offload(offload),
        prediction=prediction,
    )


def load_control_model(
    path: str | Path,
    *,
    base: Base | None = None,
    dtype: str | torch.dtype | None = None,
    settings: Mapping[str, object] | None = None,
) -> ControlModel:
    """Return a control model: a file, a diffusers folder, a file inside one, or one without a file by its name.

    base: its base model, for files that hold differences to its weights, and for models without a file.
    dtype: None keeps the file's. settings: what no shape tells, such as {"heads": 8}.
    """
    state = None if base is None else UnetState(lambda: base)
    if str(path) in FILELESS:
        if state is None:
            raise HostError(f"'{path}' has no file and acts on the base model: give base=cs.load_base(...) too")
        return make_fileless(str(path), state)
    return load_model_file(
        located(Path(path), "control model"),
        settings=settings,
        base_state=state,
        dtype=None if dtype is None else _dtype(dtype),
    )


def inspect(path: str | Path) -> Description:
    """Return what a control model file is, without loading it."""
    return inspect_file(Path(path))


def preprocess(
    image: Source,
    preprocessor: str,
    *,
    resolution: int | None = None,
    mask: Source | None = None,
    seed: int = 0,
    **parameters: float,
) -> Picture:
    """Return the hint that a preprocessor makes of a picture; of an image encoder, a card that names it.

    resolution: short side in pixels at which it works; None is the picture's own. mask: what is to be invented, in
    white. seed: of preprocessors that draw random numbers. parameters: its own numbers, such as low=80.
    """
    from PIL import Image

    given: dict[str, Any] = {"resolution": resolution, "mask": None if mask is None else _mask(mask), "seed": seed}
    found, pixels = find(preprocessor), _picture(image)
    size = "" if resolution is None else f"resolution={resolution}"
    for sentence in unread_by(found, seed=f"seed={seed}" if seed else "", resolution=size):
        logging.getLogger("controlstack").warning("%s", sentence)
    hint = found(pixels, **{**given, **parameters})
    return Image.fromarray(cards(pixels, found.title) if found.output is Output.EMBEDDING else visible(hint))


def unit(
    image: Source | Sequence[Source],
    model: ControlModel | str | Path,
    *,
    mask: Source | None = None,
    inpaint: Source | None = None,
    size: tuple[int, int] | None = None,
    **settings: object,
) -> ControlUnit:
    """Return a unit: a picture, the preprocessor that makes its hint, the model that reads it, and how it acts.

    image: several of one size for a model that is told as many kinds of hints. mask: where it acts, white is full
    effect. inpaint: what is to be invented, in white. size: (width, height) of the
    result, for pixel_perfect=True. settings: every other field of a unit, by its name on the command line and in
    plain words or numbers: preprocessor="canny", weight=0.8, end=0.6, mode="prompt", curve="0: 1; 1: 0.2" ...
    """
    loaded = load_control_model(model) if isinstance(model, (str, Path)) else model
    request = read_request(
        settings,
        image=_pictures(image),
        effect_mask=None if mask is None else _source(mask, _mask),
        inpaint_mask=None if inpaint is None else _source(inpaint, _mask),
        model=loaded.source or loaded.name,
    )
    says = said_by(Path(loaded.source)) if loaded.source else ""
    made = ready(request, loaded, None if size is None else (size[1], size[0]), says=says)
    if made.warning:
        logging.getLogger("controlstack").warning("%s", made.warning)
    return made.unit


def generate(  # noqa: PLR0913 - a script has one argument for each thing that it says
    base: Base,
    prompt: str | Sequence[str] = "",
    *,
    units: Sequence[ControlUnit] = (),
    negative: str = "",
    seed: int = 0,
    batch: int | None = None,
    image: Source | None = None,
    mask: Source | None = None,
    loras: Sequence[str | Path | tuple[str | Path, float]] = (),
    progress: bool = False,
    **settings: Any,
) -> Drawing:
    """Return pictures of a prompt under control of units.

    prompt: one for all pictures, or one for each. batch: how many pictures; None is as many as prompts. Picture k has
    the seed `seed` + k. image: a picture to start from; mask: which part of it is redrawn, in white. progress: show a
    bar. loras: of the base model, as "detail.safetensors:0.8" or (path, weight). settings: steps, guidance, width,
    height, scheduler, eta, strength, clip_skip, hires, hires_steps and hires_strength, as `controlstack generate` has
    them.
    """
    prompts = prompt if isinstance(prompt, str) else tuple(prompt)
    count = batch if batch is not None else 1 if isinstance(prompts, str) else len(prompts)
    start = None if image is None else _picture(image)
    request = Request(
        prompt=prompts,
        negative=negative,
        seed=seed,
        batch=count,
        image=start,
        mask=_optional_mask(mask),
        loras=tuple(map(_lora, loras)),
        **{**_sides(base), **settings},
    )
    with steps_bar(request.all_steps, shown=progress) as report:
        return Drawing(base, request, tuple(units), draw(base, request, units, report))


@contextmanager
def attach(pipeline: Any, units: Sequence[ControlUnit], *, pictures: int = 1) -> Iterator[ControlStack]:
    """Let units act on a diffusers pipeline of one's own for as long as the context is open.

    pipeline: one whose `unet` is a `UNet2DConditionModel`. pictures: how many it draws at once. Yields the stack, which
    says afterwards on how many steps each unit acted. Raises IncompatibleModelError for units of another base model.
    """
    check_units(units, pipeline.unet)
    stack = ControlStack(units, Base(pipeline, pipeline.unet.device, Offload.NONE))
    with Injection(pipeline, stack, pictures):
        yield stack


@dataclass(frozen=True, eq=False)
class Drawing:
    """Pictures, with what made them; a notebook shows their sheet."""

    base: Base
    request: Request
    units: tuple[ControlUnit, ...]
    result: Result

    @cached_property
    def images(self) -> tuple[Picture, ...]:
        """Return the pictures, as Pillow's."""
        from PIL import Image

        return tuple(Image.fromarray(each) for each in self.result.images)

    @cached_property
    def hints(self) -> tuple[Picture, ...]:
        """Return the hint of each unit that has a picture for a hint; black where the model was to invent."""
        from PIL import Image

        return tuple(Image.fromarray(each) for each in map(hint_pixels, self.units) if each is not None)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seed of each picture."""
        return self.result.seeds

    @property
    def firings(self) -> tuple[Firing, ...]:
        """Return for each unit on how many of the steps it acted."""
        return self.result.firings

    def sheet(self, side: int = 256) -> Picture:
        """Return hints and pictures beside each other, each `side` pixels high."""
        from PIL import Image

        from ..pipelines.sheets import sheet

        cells = [(f"hint {k}", np.asarray(each)) for k, each in enumerate(self.hints, start=1)]
        cells += [(f"seed {seed}", each) for seed, each in zip(self.seeds, self.result.images, strict=True)]
        return Image.fromarray(sheet([cells], side))

    def save(self, folder: str | Path) -> list[Path]:
        """Write the pictures into a folder, each with the record of what made it, and return their paths."""
        from ..preprocessors.images import make_folder
        from .record import write_pictures

        make_folder(Path(folder))
        return write_pictures(Path(folder), self.base, self.request, self.units, self.result)

    def _repr_png_(self) -> bytes:
        """Return the sheet, for notebooks."""
        buffer = io.BytesIO()
        self.sheet().save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """Return the sheet and a line for each unit, for notebooks."""
        import base64
        from html import escape

        sheet = base64.b64encode(self._repr_png_()).decode("ascii")
        lines = [
            f"<li>{escape(each.model.name)}: weight {each.weight:g}, "
            f"acted on {firing.on_steps}{escape(firing.remark)}</li>"
            for each, firing in zip(self.units, self.firings, strict=True)
        ]
        return f'<img src="data:image/png;base64,{sheet}" alt="hints and pictures"><ol>{"".join(lines)}</ol>'


def hint_pixels(unit: ControlUnit) -> Pixels | None:
    """Return the first hint of a unit as pixels [H, W, 3], side by side if it has several; None for an embedding."""
    if unit.hint.ndim != 4:
        return None
    shown = (unit.hint[0].clamp(0, 1) * 255).round().to(torch.uint8)
    side_by_side = torch.cat([*shown.chunk(unit.model.hints if len(shown) > 3 else 1)], dim=-1)
    return np.ascontiguousarray(side_by_side.movedim(0, -1).expand(-1, -1, 3).cpu().numpy())


def _pictures(image: Source | Sequence[Source]) -> Path | tuple[Path, ...] | Pixels:
    """Return the picture of a unit, or several of them, as a batch if they are no files."""
    if not isinstance(image, (list, tuple)):
        return _source(image, _picture)
    if all(isinstance(each, (str, Path)) for each in image):
        return tuple(map(Path, image))
    return np.stack([_picture(each) for each in image])


def _source(source: Source, read: Callable[[Source], Pixels]) -> Path | Pixels:
    """Return a path as it is, so that records can name it, and anything else as pixels."""
    return Path(source) if isinstance(source, (str, Path)) else read(source)


def _picture(source: Source) -> Pixels:
    if isinstance(source, (str, Path)):
        return read_image(source)
    return convert_image(source, "the picture")


def _mask(source: Source) -> Pixels:
    if isinstance(source, (str, Path)):
        return read_mask(source)
    pixels = np.asarray(source)
    return pixels if pixels.ndim == 2 and pixels.dtype == np.uint8 else convert_image(source, "the mask")[..., 0]


def _optional_mask(source: Source | None) -> Pixels | None:
    return None if source is None else _mask(source)


def _lora(said: str | Path | tuple[str | Path, float]) -> Lora:
    return Lora(str(said[0]), said[1]) if isinstance(said, tuple) else read_lora(str(said))


def _sides(base: Base) -> dict[str, int]:
    """Return the size of the pictures that a base was trained on."""
    side = base.side
    return {"width": side, "height": side}


def _dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise HostError(f"the dtype is '{name}', expected one of {', '.join(DTYPES)}, or one of PyTorch's")
    return DTYPES[name]


def _offload(name: str) -> Offload:
    try:
        return Offload(name)
    except ValueError:
        raise HostError(f"offload is '{name}', expected one of {', '.join(each.value for each in Offload)}") from None
