"""Base models: a diffusers folder or a checkpoint file -> a pipeline that keeps control networks where they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.control import ControlModel
from ..core.errors import HostError
from ..core.files import read_json
from ..core.network.base import LATENT, SD1_CONTEXT, SD2_CONTEXT, SDXL_CONTEXT, BaseWeights
from ..models.files.finding import of_cache
from ..models.guard import shown
from ..models.naming import to_ldm
from ..preprocessors.networks.pool import find_device
from .folders import load_folder, read_layout
from .quiet import quiet
from .single_file import SD1, SD2, SDXL, load_single_file, read_kind

Image = NDArray[np.uint8]
FIRST = "input_blocks.0.0.weight"  # of the convolution that reads the latents
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")  # of a pipeline
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # by the names that people say


class Offload(Enum):
    """What leaves the device between uses."""

    NONE = "none"
    MODEL = "model"  # whole networks
    SEQUENTIAL = "sequential"  # single layers


class Base:
    """A diffusers pipeline as a host: it keeps control networks where they can compute."""

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        offload: Offload,
        *,
        source: Path | None = None,
        prediction: str | None = None,
    ) -> None:
        """source: the file or folder that it was loaded from; prediction: as `load_base` was told."""
        self.pipeline, self.device, self.offload = pipeline, device, offload
        self.source, self.prediction = source, prediction

    @property
    def side(self) -> int:
        """Return the side in pixels of the pictures that the model was trained on."""
        return self.pipeline.unet.config["sample_size"] * LATENT

    @property
    def computes_beside(self) -> bool:
        """Return whether control networks of one shape may be computed in one call: on a processor they stay there."""
        return self.offload is Offload.NONE and self.device.type == "cpu"

    @contextmanager
    def ready(self, model: ControlModel) -> Iterator[None]:
        """Bring a control network to the device; when offloading, for this call alone, whole or layer by layer."""
        network: torch.nn.Module = model.network
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
        """Do nothing: on a terminal an interrupt is a KeyboardInterrupt."""

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the latents of pictures [N, 3, H, W] in 0..1, as the U-Net receives them."""
        vae = self.pipeline.vae
        return latents_of(vae, (picture * 2 - 1).to(vae.device, vae.dtype)) * vae.config.scaling_factor

    def follow(self, model: ControlModel) -> bool:
        """Let the model follow the U-Net's present weights, which what changes them in place counts."""
        key = tuple((id(each), each._version) for each in self.pipeline.unet.parameters())
        return model.follow(BaseWeights(UnetState(lambda: self).get, key))

    @torch.no_grad()
    def autoencode(self, images: Image) -> Image:
        """Return pictures [N, H, W, 3] after the autoencoder: no control can come nearer to them."""
        vae, processor = self.pipeline.vae, self.pipeline.image_processor
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
        shown = processor.postprocess(vae.decode(latents_of(vae, pixels)).sample, output_type="np")
        return np.rint(shown * 255).astype(np.uint8)


def latents_of(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the unscaled latents [N, 4, h, w] of pictures [N, 3, H, W] in -1..1, without chance."""
    code = vae.encode(pixels)
    return code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents


@contextmanager
def _layer_by_layer(network: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Let each layer bring its weights to the device when it is called, and drop them again, while this is open."""
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
            state = to_ldm(unet.state_dict())
        else:
            from accelerate.utils.modeling import get_state_dict_offloaded_model

            state = to_ldm(get_state_dict_offloaded_model(unet))
        # Control models read latents alone, also those for inpainting models, which read a mask behind them.
        return state | {FIRST: state[FIRST][:, : base.pipeline.vae.config["latent_channels"]]}

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
    """Return the base of a diffusers folder or checkpoint file of SD 1.x, SD 2.x or SDXL; the network is never asked.

    Models for inpainting, which read 9 channels, are bases too.
    device: 'auto', or a name of PyTorch's.
    prediction: 'epsilon' or 'v_prediction', where a file does not tell; a folder always does.
    """
    target = find_device(device)
    if offload is not Offload.NONE and target.type == "cpu":
        raise HostError(
            f"offloading ({offload.value}) moves weights between a device and the CPU, and the device is the CPU: "
            "leave --offload out, or give another device as --device, such as cuda"
        )
    pipeline = load_pipeline(path, dtype, prediction)
    if offload is Offload.MODEL:
        pipeline.enable_model_cpu_offload(device=target)
    elif offload is Offload.SEQUENTIAL:
        pipeline.enable_sequential_cpu_offload(device=target)
    else:
        with quiet():  # diffusers says that fp16 will fail on a CPU, where PyTorch of today computes it, slowly
            pipeline.to(target)
    return Base(pipeline, target, offload, source=path, prediction=prediction)


def load_pipeline(path: Path, dtype: torch.dtype, prediction: str | None = None) -> Any:
    """Return the diffusers pipeline of a folder or checkpoint file, on the CPU. HostError for what is none."""
    if path.is_dir() and prediction is not None:
        raise HostError(
            f"'{path}' is a folder, which says itself what the model predicts: leave out the prediction {prediction}"
        )
    with quiet():
        if path.is_dir():
            pipeline = load_folder(read_layout(of_cache(path)), dtype)
        else:
            pipeline = load_single_file(path, dtype, prediction)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def native_side(path: Path) -> int:
    """Return the side in pixels of the pictures that a base model was trained on, without reading its weights.

    HostError for what is no base model, as `load_base` raises it.
    """
    if path.is_dir():
        return (read_layout(of_cache(path)).side or SD1.side) * LATENT
    return read_kind(path).side * LATENT


def context_width(path: Path) -> int | None:
    """Return the width of a prompt's token in a base model, by which control models belong to it; None if unknown.

    Its weights are not read. HostError for what is no base model, as `load_base` raises it.
    """
    if path.is_dir():
        folder = read_layout(of_cache(path)).folder
        width = read_json(folder / "unet" / "config.json", "configuration").get("cross_attention_dim")
        return width if isinstance(width, int) else None
    return {SD1: SD1_CONTEXT, SD2: SD2_CONTEXT, SDXL: SDXL_CONTEXT}.get(read_kind(path))


def damaged_weight(pipeline: Any) -> str:
    """Return which weight of a pipeline's networks holds NaN or infinite values, in words; empty if none does."""
    for part in NETWORKS:
        network = getattr(pipeline, part, None)
        for name, weight in () if network is None else network.named_parameters():
            if weight.dtype.itemsize > 1 and not weight.is_meta and not bool(torch.isfinite(weight).all()):
                return f"the weight '{shown(name)}' of the base model's {part}"
    return ""
