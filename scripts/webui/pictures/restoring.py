"""Brings parts of the given picture back in the result, for preprocessors that ask for that beside their hint.

`tile_colorfix` keeps its colours, `inpaint_only` what lies outside the mask, the recolouring ones its brightness. The
first two change what the U-Net answers, at every step, and inpainting also blends the finished pictures, all as in
sd-webui-controlnet (`hook.py`, "Post-processing for color fix" and "for restore"; `controlnet.py`, `post_processors`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .reading import Image

SHARPER = 0.01  # of the number that the user gives
MASK_WINDOW, MASK_STRIDE, MASK_PADDING = 10, 8, 1  # from pixels to latents, one pixel wider
BLUR, BLEND = "control_net_inpaint_blur_sigma", 7  # setting: pixels of soft border around an inpainted part
PICTURE_KINDS = ("inpaint_only", "recolor_luminance", "recolor_intensity")
LATENT_KINDS = ("tile_colorfix", "tile_colorfix+sharp", "inpaint_only")  # in the order of their work


class Base(Protocol):
    """What is needed of the base model; `host.WebUI` has it."""

    def encode_at_random(self, picture: Tensor) -> Tensor: ...
    def signal(self, timestep: Tensor) -> Tensor: ...
    @property
    def predicts_velocity(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Original:
    """What one unit wants back of its picture in one pass."""

    kind: str
    hint: Tensor  # [1, 3 or 4, H, W] in 0..1 at the pass's size
    weight: float
    numbers: tuple[float, float]
    hires: bool


def _whole(latents: Tensor) -> Tensor:
    """Return what rows show that show all of a picture."""
    return latents


class Restoration:
    """Brings back what units want, in what the U-Net answers. Pictures are encoded at the latest for the first."""

    def __init__(self, originals: Sequence[Original], base: Base, cond: Callable[[], tuple[bool, ...]]) -> None:
        """cond: which rows of the present evaluation are cond."""
        own = [original for original in originals if original.kind in LATENT_KINDS and original.weight > 0]
        self._originals = sorted(own, key=lambda original: LATENT_KINDS.index(original.kind))
        self._base, self._cond = base, cond
        self._latents: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._originals)

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: Tensor, output: Tensor, cut: Callable[[Tensor], Tensor] = _whole) -> Tensor:
        """Return the U-Net's answer [B, 4, h, w] to `x`, changed.

        cut: what the rows show of latents [1, C, H, W] of the whole picture; without it, all of it.
        """
        for original in self._originals:
            noisy = x[:, : output.shape[1]]
            signal = self._base.signal(timestep).to(noisy)[:, None, None, None]
            clean = self._wanted(original, self._clean(noisy, signal, output), cut)
            share = min(1.0, original.weight)
            output = self._answer(noisy, signal, clean) * share + output * (1 - share)
        return output

    @torch.no_grad()
    def prepare(self) -> None:
        """Encode the pictures now, where the first answer is too late to move the autoencoder to the device."""
        for original in self._originals:
            self._latents_of(original)

    @torch.no_grad()
    def restore_clean(self, clean: Tensor) -> Tensor:
        """Return what the U-Net sees in the noise, [B, 4, h, w], changed: for programs that ask for that."""
        for original in self._originals:
            share = min(1.0, original.weight)
            clean = self._wanted(original, clean, _whole) * share + clean * (1 - share)
        return clean

    def _wanted(self, original: Original, clean: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
        latents = cut(self._latents_of(original)).to(clean)
        if original.kind == "inpaint_only":
            mask = cut(F.max_pool2d(original.hint[:, 3:], MASK_WINDOW, MASK_STRIDE, MASK_PADDING)).to(clean)
            return clean * mask + latents * (1 - mask)
        radius = int(original.numbers[0]) * (2 if original.hires else 1)
        clean = clean - _blur(clean, radius) + _blur(latents, radius)
        if original.kind == "tile_colorfix+sharp":
            detail = original.numbers[1] * SHARPER
            softer = detail * _blur(clean, radius) + (1 - detail) * clean
            cond = torch.tensor(self._cond(), device=clean.device)[:, None, None, None]
            clean = torch.where(cond, clean, softer)
        return clean

    def _latents_of(self, original: Original) -> Tensor:
        if id(original) not in self._latents:
            self._latents[id(original)] = self._base.encode_at_random(original.hint[:, :3])
        return self._latents[id(original)]

    def _clean(self, noisy: Tensor, signal: Tensor, output: Tensor) -> Tensor:
        if self._base.predicts_velocity:
            return signal.sqrt() * noisy - (1 - signal).sqrt() * output
        return (1 / signal).sqrt() * noisy - (1 / signal - 1).sqrt() * output

    def _answer(self, noisy: Tensor, signal: Tensor, clean: Tensor) -> Tensor:
        if self._base.predicts_velocity:
            return (signal.sqrt() * noisy - clean) / (1 - signal).sqrt()
        return ((1 / signal).sqrt() * noisy - clean) / (1 / signal - 1).sqrt()


def finish_picture(original: Original, picture: Tensor, soft: int = BLEND) -> Tensor:
    """Return a finished picture [3, H, W] in 0..1 with what a unit wants back; one of another size stays as it is."""
    if picture.shape[1:] != original.hint.shape[2:]:
        return picture
    if original.kind == "inpaint_only":
        mask = _soft(original.hint[0, 3], soft).to(picture)
        return (mask * picture.clip(0, 1) + (1 - mask) * original.hint[0, :3].to(picture)).clip(0, 1)
    return _with_brightness(picture, original.hint[0, 0], luminance=original.kind == "recolor_luminance")


def _with_brightness(picture: Tensor, brightness: Tensor, *, luminance: bool) -> Tensor:
    """Replace L of Lab, or V of HSV."""
    import cv2
    import numpy as np

    there, back = (cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB) if luminance else (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
    pixels = (picture.detach().cpu().permute(1, 2, 0).float().numpy() * 255).clip(0, 255).astype(np.uint8)
    colours = np.array(cv2.cvtColor(pixels, there))
    colours[..., 0 if luminance else 2] = (brightness.cpu().numpy() * 255).clip(0, 255).astype(np.uint8)
    changed = np.asarray(cv2.cvtColor(colours, back), np.float32) / 255
    return torch.from_numpy(changed).permute(2, 0, 1).clip(0, 1).to(picture)


def _soft(mask: Tensor, width: int) -> Tensor:
    """Return a mask [H, W], wider and blurred."""
    import cv2
    import numpy as np

    levels = mask.cpu().numpy().astype(np.float32)
    if width:
        levels = np.asarray(cv2.dilate(levels, np.ones((width, width), np.uint8)), np.float32)
        levels = np.asarray(cv2.blur(levels, (width, width)), np.float32)
    return torch.from_numpy(levels)


def _blur(latents: Tensor, radius: int) -> Tensor:
    """Return the mean of a square around each latent pixel; the border repeats."""
    padded = F.pad(latents, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)


def visible(hint: Image) -> Image:
    """Return a hint as a picture to look at; where a model is to invent, it is half transparent."""
    import numpy as np

    levels = hint.clip(0, 255).astype(np.uint8)
    if levels.shape[2] == 4:
        levels = np.dstack([levels[..., :3], 255 - levels[..., 3] // 2])
    return levels
