"""A base model and a request -> pictures under control of a stack, offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.control import ControlModel
from ..core.errors import HostError
from ..core.stack import ControlStack, Firing
from ..core.unit import ControlUnit
from ..models.naming import to_ldm
from ..models.quiet import quiet
from ..preprocessors import MAX_PIXELS
from .injection import Injection, check_units
from .schedulers import make_scheduler, scheduler_name
from .single_file import load_single_file

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Image = NDArray[np.uint8]
SIDE = 8  # pixels per latent pixel
HIGHEST_ETA = 1 - 1e-6  # where a schedule ends without signal: at 1, rounding makes DDIM take the root of a negative
LAST_SEED = 2**63 - 1  # of torch's generators
DEFAULT_PROMPT = "a professional, detailed, high-quality image"  # ControlNet paper, section 4.1, "default prompt"


class Offload(Enum):
    """What leaves the device between uses."""

    NONE = "none"
    MODEL = "model"  # whole networks
    SEQUENTIAL = "sequential"  # single layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user wants, apart from the units."""

    prompt: str | tuple[str, ...] = ""  # one for all pictures, or one for each
    negative: str = ""
    steps: int = 20
    guidance: float = 7.5
    seed: int = 0
    batch: int = 1
    width: int = 512
    height: int = 512
    scheduler: str = "unipc"
    eta: float = 0.0  # of DDIM
    image: Image | None = None  # start from this picture (img2img), [H, W, 3]
    strength: float = 0.75  # of img2img: how much of the picture is redrawn

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("batch", self.batch)):
            if value < 1:
                raise HostError(f"{name} is {value}, expected 1 or more")
        for name, value in (("width", self.width), ("height", self.height)):
            if value < SIDE or value % SIDE:
                near = max(SIDE, round(value / SIDE) * SIDE)
                raise HostError(f"{name} is {value}, expected a multiple of {SIDE}: take {near}")
        if self.width * self.height > MAX_PIXELS:
            raise HostError(f"{self.width}x{self.height} has too many pixels, expected at most {MAX_PIXELS:,}")
        if not isinstance(self.prompt, str) and len(self.prompt) != self.batch:
            raise HostError(f"{len(self.prompt)} prompts for {self.batch} pictures: give one prompt, or one for each")
        if not 0 < self.strength <= 1:
            raise HostError(f"strength is {self.strength}, expected more than 0 and at most 1")
        if self.image is not None and self.steps * self.strength < 1:
            raise HostError(
                f"{self.steps} steps at strength {self.strength} leave none to run, expected 1 or more: raise either"
            )
        self._check_sampling()

    def _check_sampling(self) -> None:
        if not math.isfinite(self.guidance):
            raise HostError(f"guidance is {self.guidance}, expected a finite number")
        if not 0 <= self.seed <= LAST_SEED - self.batch:
            raise HostError(f"seed is {self.seed}, expected 0 to {LAST_SEED - self.batch}")
        if not 0 <= self.eta <= 1:  # NaN fails too
            raise HostError(f"eta is {self.eta}, expected 0 (DDIM) to 1 (DDPM)")
        if scheduler_name(self.scheduler) != "ddim" and self.eta:
            raise HostError(f"eta is {self.eta}, but '{self.scheduler}' has none, expected the scheduler ddim")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each picture."""
        return (self.prompt,) * self.batch if isinstance(self.prompt, str) else self.prompt


@dataclass(frozen=True, slots=True)
class Result:
    """Pictures [N, H, W, 3] with their seeds, and on how many steps each unit acted."""

    images: Image
    seeds: tuple[int, ...]
    firings: tuple[Firing, ...] = field(default=())


class Base:
    """A diffusers pipeline as a host: it keeps control networks where they can compute."""

    def __init__(self, pipeline: Any, device: torch.device, offload: Offload) -> None:
        self.pipeline, self.device, self.offload = pipeline, device, offload

    @contextmanager
    def ready(self, model: ControlModel) -> Iterator[None]:
        """Bring a control network to the device; when offloading, for this call alone, whole or layer by layer."""
        network: torch.nn.Module = model.network  # type: ignore[attr-defined] - all models of ours have one
        if self.offload is Offload.SEQUENTIAL:
            with _layer_by_layer(network, self.device):
                yield
            return
        network.to(self.device)
        try:
            yield
        finally:
            if self.offload is not Offload.NONE:
                network.to("cpu")

    def check_interrupt(self) -> None:
        """Nothing to ask: on a terminal an interrupt is a KeyboardInterrupt."""

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the latents of pictures [N, 3, H, W] in 0..1, as the U-Net receives them."""
        vae = self.pipeline.vae
        code = vae.encode((picture * 2 - 1).to(vae.device, vae.dtype))
        latents = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents
        return latents * vae.config.scaling_factor

    @torch.no_grad()
    def autoencode(self, images: Image) -> Image:
        """Pictures [N, H, W, 3] through the autoencoder and back: what no control can do better than."""
        vae, processor = self.pipeline.vae, self.pipeline.image_processor
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
        code = vae.encode(pixels)
        latents = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents
        shown = processor.postprocess(vae.decode(latents).sample, output_type="np")
        return np.rint(shown * 255).astype(np.uint8)


@contextmanager
def _layer_by_layer(network: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, each layer brings its weights to the device when it is called, and drops them again."""
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    cpu_offload(network, device)
    try:
        yield
    finally:
        remove_hook_from_module(network, recurse=True)


class UnetState(Mapping[str, torch.Tensor]):
    """A base's U-Net weights by bare ldm names, collected when somebody looks a name up.

    Most files never ask, so the base may still be on the disk; and with sequential offloading it is slow to answer, for
    the weights are not in the network.
    """

    def __init__(self, load: Callable[[], Base]) -> None:
        self._load = load

    @cached_property
    def _table(self) -> dict[str, torch.Tensor]:
        base = self._load()
        unet = base.pipeline.unet
        if base.offload is not Offload.SEQUENTIAL:
            return to_ldm(unet.state_dict())
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        return to_ldm(get_state_dict_offloaded_model(unet))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def load_base(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    offload: Offload = Offload.NONE,
    prediction: str | None = None,
) -> Base:
    """A diffusers folder or a single checkpoint file of SD 1.x, SD 2.x or SDXL; the network is never asked.

    prediction: 'epsilon' or 'v_prediction', where a file does not tell; a folder always does.
    """
    target = _device(device)
    if offload is not Offload.NONE and target.type == "cpu":
        raise HostError(
            f"offloading ({offload.value}) moves weights between a device and the CPU, and the device is the CPU: "
            "leave --offload out, or give --device, such as cuda"
        )
    with quiet():
        pipeline = _load_folder(path, dtype) if path.is_dir() else load_single_file(path, dtype, prediction)
    if not hasattr(pipeline, "unet"):
        raise HostError(f"'{path}' is a {type(pipeline).__name__}, expected a Stable Diffusion model with a U-Net")
    pipeline.set_progress_bar_config(disable=True)
    if offload is Offload.MODEL:
        pipeline.enable_model_cpu_offload(device=target)
    elif offload is Offload.SEQUENTIAL:
        pipeline.enable_sequential_cpu_offload(device=target)
    else:
        pipeline.to(target)
    return Base(pipeline, target, offload)


def _device(name: str) -> torch.device:
    """A device that is there; HostError for any other."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # of unknown names, and of what PyTorch was not built for
        reason = str(error).splitlines()[0]
        raise HostError(f"the device '{name}' cannot be used ({reason}): give another one as --device") from error


def _load_folder(path: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    if not (path / "model_index.json").is_file():
        raise HostError(f"'{path}' has no model_index.json: give a diffusers folder or a checkpoint file")
    try:
        return DiffusionPipeline.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise HostError(f"'{path}' cannot be loaded as a diffusers folder: {error}") from error


def generate(
    base: Base, request: Request, units: Sequence[ControlUnit] = (), progress: Callable[[int], None] | None = None
) -> Result:
    """Draw the pictures of a request. Everything is checked before the first step.

    Each picture has its own seed, so picture k of a batch is the single picture of seed + k.
    Raises HostError for pictures that are not finite: values outgrew the dtype.
    """
    pipeline = _pipeline_for(base.pipeline, request)
    check_units(units, pipeline.unet)
    stack = ControlStack(units, base)
    seeds = tuple(request.seed + k for k in range(request.batch))
    before = pipeline.scheduler
    pipeline.scheduler = make_scheduler(request.scheduler, before.config)
    try:
        with Injection(pipeline, stack, request.batch):
            images = pipeline(
                **_arguments(request, seeds, before.config), callback_on_step_end=_reporter(progress)
            ).images
    finally:
        pipeline.scheduler = before
    if not np.isfinite(images).all():
        raise HostError(
            f"the picture holds NaN or infinite values: the base model computes in {pipeline.unet.dtype}, "
            "expected a dtype that holds its values: give --dtype fp32 or bf16"
        )
    return Result(np.rint(np.asarray(images) * 255).astype(np.uint8), seeds, stack.firings())


def _pipeline_for(pipeline: Any, request: Request) -> Any:
    """The same networks behind the pipeline that the request needs."""
    if request.image is None:
        return pipeline
    from diffusers import AutoPipelineForImage2Image

    with quiet():
        other = AutoPipelineForImage2Image.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    return other


def _arguments(request: Request, seeds: Sequence[int], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "prompt": list(request.prompts),
        "negative_prompt": [request.negative] * request.batch,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "eta": min(request.eta, HIGHEST_ETA) if scheduler.get("rescale_betas_zero_snr") else request.eta,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "output_type": "np",
    }
    if request.image is None:
        return {**arguments, "width": request.width, "height": request.height}
    return {**arguments, "image": [_pillow(request)] * request.batch, "strength": request.strength}


def _pillow(request: Request) -> PillowImage:
    from PIL import Image as Pillow

    assert request.image is not None
    return Pillow.fromarray(request.image).resize((request.width, request.height), Pillow.Resampling.LANCZOS)


def _reporter(progress: Callable[[int], None] | None) -> Callable[..., dict[str, Any]]:
    """diffusers' callback after each step, in the shape it expects."""

    def report(_pipeline: Any, step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if progress is not None:
            progress(step + 1)
        return kwargs

    return report
