"""The autoencoder and the noise schedule of the loaded base model: from pictures to latents, from time to noise."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import torch
from torch import Tensor

from ....core.errors import HostError


class Latents:
    """Latents of pictures, each encoded once in a run; `forget` ends the run."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._encoded: list[tuple[Tensor, Tensor]] = []  # pictures of this run, and their latents

    def encode(self, picture: Tensor) -> Tensor:
        """Return latents of pictures [N, 3, H, W] in 0..1, scaled as the base network receives them.

        The same picture always has the same latents, whoever has drawn random numbers before.
        """
        like = [pair for pair in self._encoded if (pair[0].shape, pair[0].device) == (picture.shape, picture.device)]
        latents = next((latents for each, latents in like if each.equal(picture)), None)
        if latents is None:
            with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
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
            latents = without_frames(model.get_first_stage_encoding(moments))
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
        """Return whether the base model answers with v instead of noise."""
        from modules import shared

        return getattr(shared.sd_model, "parameterization", "eps") == "v"

    def forget(self) -> None:
        """Forget the latents of this run's pictures."""
        self._encoded.clear()


def without_frames(latents: Tensor) -> Tensor:
    """Return latents [B, C, h, w]: autoencoders of films have an axis of frames before, of which a picture has one.

    HostError for more frames, since units act on pictures.
    """
    if latents.ndim < 5:
        return latents
    if latents.shape[2] != 1:
        raise HostError(
            f"the base model draws {latents.shape[2]} frames, and units act on pictures: draw one frame, or switch the "
            "units off"
        )
    return latents[:, :, 0]
