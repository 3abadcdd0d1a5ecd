"""The one door to the WebUI's own modules for everything that a run needs from it."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core.base import BaseWeights
from ....core.control import ControlModel
from ....core.errors import HostError
from ....core.schedule import RangeBasis
from .attachment import Answers, Attachment
from .hooked import Hooked
from .memory import GIB, Residency, network_of
from .tiles import Tiles
from .unets import read_weight

FOLDER, NETWORK_FOLDER = "ControlNet", "ControlNetPreprocessor"  # inside the WebUI's folder of models
KEEP_FREE = 2 * GIB  # on the device after a run, for decoding the picture


class WebUI:
    """AUTOMATIC1111's WebUI, as `core.host.Host` and beyond."""

    basis = RangeBasis.WEBUI  # what a range means where a unit does not say so

    def __init__(self) -> None:
        from modules import devices

        self.device, self.cpu = devices.device, devices.cpu
        self.residency = Residency(self.device, self.cpu, self.free)
        self._encoded: list[tuple[Tensor, Tensor]] = []  # pictures of this run, and their latents

    def tiles(self, canvas: Callable[[], tuple[int, int]]) -> Tiles | None:
        """Return what extensions that draw in tiles find; canvas: height and width of the picture in latent pixels."""
        return Tiles(canvas)

    def attachment(self, answers: Answers, tiles: Tiles | None) -> Attachment:
        """Return what makes units act here."""
        return Hooked(lambda: self.unet, answers, tiles, keep=not self.saves_memory)

    def ready(self, model: ControlModel) -> AbstractContextManager[object]:
        """Keep the model's network on the device, without automatic casting: it computes in its own dtype."""
        from modules import devices

        stack = ExitStack()
        stack.enter_context(devices.without_autocast())
        if self.device.type == "cpu":  # there the WebUI casts around weights in 8 bits, and the line above is for CUDA
            stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(self.residency.ready(network_of(model)))
        return stack

    def follow(self, model: ControlModel) -> bool:
        """Let the model follow the U-Net's weights under the LoRAs of the moment; it is home while it is changed."""
        weights = self.base_weights
        if model.followed == weights.key:
            return False
        self.residency.send_home(network_of(model))
        return model.follow(weights)

    @property
    def base_weights(self) -> BaseWeights:
        """The U-Net's weights as it computes with them; LoRAs write them into a layer when that computes next."""
        unet, lora = self.unet, sys.modules.get("networks")
        loaded = tuple((each.name, each.unet_multiplier, each.dyn_dim) for each in getattr(lora, "loaded_networks", ()))
        functional = bool(self.option("lora_functional", False))  # then LoRAs act beside the weights

        def prepared(layer: Any) -> None:
            if lora is not None and not functional:
                lora.network_apply_weights(layer)

        key = (weakref.ref(unet), self.checkpoint, () if functional else loaded)
        return BaseWeights(lambda name: read_weight(unet, name, prepared), key)

    def check_interrupt(self) -> None:
        """End the run between two units if the user stopped or skipped it."""
        from modules import sd_samplers_common, shared

        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException

    @contextmanager
    def alone(self, job: str) -> Iterator[None]:
        """Let nobody else compute while the context is open; what users stopped before does not stop this."""
        from modules import call_queue, shared

        with call_queue.queue_lock:
            shared.state.begin(job=job)
            try:
                yield
            finally:
                shared.state.end()
                self.after_run(False)

    def before_run(self, low_vram: bool) -> None:
        """Prepare for a run; low_vram: use as little memory on the device as possible, at the price of time."""
        self.residency.frugal = low_vram
        if low_vram:
            self.residency.release()

    def after_run(self, low_vram: bool) -> None:
        """Make room on the device for what follows the sampling."""
        self._encoded.clear()
        self.residency.release(None if low_vram or self.saves_memory else KEEP_FREE)

    @property
    def saves_memory(self) -> bool:
        """Whether parts of the checkpoint take turns on the device: --lowvram, --medvram, --medvram-sdxl."""
        from modules import shared

        return bool(getattr(shared.sd_model, "lowvram", False))

    @property
    def unet(self) -> Any:
        """The U-Net that computes now; HostError while another engine computes instead of it."""
        from modules import sd_unet, shared

        if sd_unet.current_unet is not None:
            raise HostError(
                f"the U-Net '{sd_unet.current_unet.option.label}' computes instead of the checkpoint's own and takes "
                "no control: choose 'None' at SD Unet in the settings, or switch the units off"
            )
        if not hasattr(shared.sd_model, "model"):
            raise HostError(
                f"this WebUI keeps its U-Net in a {type(shared.sd_model).__name__}, which ControlStack does not know "
                "yet: switch the units off, or use AUTOMATIC1111's WebUI"
            )
        return shared.sd_model.model.diffusion_model

    @property
    def checkpoint(self) -> str:
        """Stands for the loaded base model."""
        from modules import shared

        return str(shared.sd_model.sd_model_hash)

    @property
    def dtype(self) -> torch.dtype:
        """What the base network computes in; weights in 8 bits are stored so, but computed in 16."""
        from modules import devices

        return devices.dtype_inference if devices.fp8 else devices.dtype_unet

    def encode(self, picture: Tensor) -> Tensor:
        """Return latents of pictures [N, 3, H, W] in 0..1, scaled as the base network receives them.

        The same picture always has the same latents, whoever has drawn random numbers before, and is encoded once in a
        run.
        """
        like = [pair for pair in self._encoded if (pair[0].shape, pair[0].device) == (picture.shape, picture.device)]
        latents = next((latents for each, latents in like if each.equal(picture)), None)
        if latents is None:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(0)
                latents = self.encode_at_random(picture)
            self._encoded.append((picture, latents))
        return latents

    def encode_at_random(self, picture: Tensor) -> Tensor:
        """Return the same, drawn from the autoencoder's distribution with the WebUI's own random numbers."""
        from modules import devices, shared

        model = shared.sd_model
        with torch.no_grad(), devices.autocast():
            moments = model.encode_first_stage((picture * 2 - 1).to(devices.device, devices.dtype_vae))
            latents = model.get_first_stage_encoding(moments)
        if bool(torch.isnan(latents).any()):
            raise HostError("the autoencoder made NaN of the control image: start the WebUI with --no-half-vae")
        return latents

    def signal(self, timestep: Tensor) -> Tensor:
        """Return the share of the picture's variance in noisy latents, for each of [B] timesteps."""
        from modules import shared

        schedule = shared.sd_model.alphas_cumprod
        return schedule.to(timestep.device, torch.float64)[timestep.float().round().long()]

    @property
    def predicts_velocity(self) -> bool:
        """Whether the base model answers with v instead of noise."""
        from modules import shared

        return getattr(shared.sd_model, "parameterization", "eps") == "v"

    def option(self, name: str, default: Any) -> Any:
        """Return a setting, also one that is not registered."""
        from modules import shared

        return shared.opts.data.get(name, default)

    def model_folders(self) -> list[Path]:
        """Return where control models lie; the first is where new ones belong."""
        from modules import paths, shared

        own = Path(__file__).parents[3] / "models"  # also holds our own code, and no weights of its own
        given = [getattr(shared.cmd_opts, "controlnet_dir", None), self.option("control_net_models_path", "")]
        folders = [Path(paths.models_path) / FOLDER, *(Path(each) for each in given if each), own]
        folders[0].mkdir(parents=True, exist_ok=True)
        return folders

    def network_folders(self) -> list[Path]:
        """Return where networks of preprocessors lie; the first is where new ones are put, as on Forge."""
        from modules import paths, shared

        given = [getattr(shared.cmd_opts, "controlnet_annotator_models_path", None)]
        given.append(self.option("control_net_modules_path", ""))
        other = Path(paths.extensions_dir) / "sd-webui-controlnet" / "annotator" / "downloads"
        return [Path(paths.models_path) / NETWORK_FOLDER, *(Path(each) for each in given if each), other]

    def free(self) -> int:
        """Return the bytes on the device that nobody uses."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return 1 << 62  # the others share their memory with the CPU, or cannot say
