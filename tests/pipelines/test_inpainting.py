"""Redrawing a part of a picture: by ordinary bases, and by those made for it, whose U-Net reads nine channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.pipelines.attached import Injection
from controlstack.pipelines.bases import Base, Offload, UnetState
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from diffusers import (
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image as Pillow

SIDE, STEPS, TOLERANCE = 64, 3, 1e-4
Build = Callable[[Base, int], tuple[Any, Any]]
RANDOM = np.random.default_rng(4)
PICTURE = RANDOM.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
RIGHT = np.zeros((SIDE, SIDE), np.uint8)
RIGHT[:, SIDE // 2 :] = 255


def _widened(base: Base) -> Base:
    """The base with a U-Net that also reads a mask and the latents of what is kept."""
    plain = base.pipeline.unet
    settings = {name: value for name, value in plain.config.items() if not name.startswith("_")}
    unet: Any = UNet2DConditionModel.from_config({**settings, "in_channels": 9})
    generator = torch.Generator().manual_seed(9)
    more = torch.randn(plain.conv_in.weight[:, :1].repeat(1, 5, 1, 1).shape, generator=generator) * 0.05
    state = {**plain.state_dict(), "conv_in.weight": torch.cat([plain.conv_in.weight.data, more], dim=1)}
    unet.load_state_dict(state)
    pipeline = type(base.pipeline)(**{**base.pipeline.components, "unet": unet.eval().requires_grad_(False)})
    pipeline.set_progress_bar_config(disable=True)
    return Base(pipeline, torch.device("cpu"), Offload.NONE)


@pytest.fixture(scope="module", params=["tiny", "xl"])
def worlds(request: pytest.FixtureRequest) -> tuple[Base, Base]:
    """(an ordinary base, the one for inpainting)"""
    base: Base = request.getfixturevalue(request.param)
    return base, _widened(base)


def _request(**settings: Any) -> Request:
    usual = {"prompt": "a star", "steps": STEPS, "guidance": 3.0, "width": SIDE, "height": SIDE, "scheduler": "ddim"}
    return Request(**{**usual, **settings})


def _hint() -> torch.Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("made_for_it", [False, True])
def test_control_while_inpainting_equals_diffusers(worlds: tuple[Base, Base], build: Build, made_for_it: bool) -> None:
    base, xl = worlds[made_for_it], hasattr(worlds[0].pipeline, "text_encoder_2")
    control, model = build(worlds[0], 1)
    arguments = {
        "prompt": "a star",
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "strength": 0.8,
        "output_type": "latent",
        "image": Pillow.fromarray(PICTURE),
        "mask_image": Pillow.fromarray(RIGHT),
        "height": SIDE,
        "width": SIDE,
    }

    def drawn(kind: Any, units: list[ControlUnit], **more: Any) -> torch.Tensor:
        parts = {**base.pipeline.components, **({"controlnet": control} if more else {})}
        pipeline = kind(**parts)
        pipeline.set_progress_bar_config(disable=True)
        with Injection(pipeline, ControlStack(units), pictures=1):
            return pipeline(**arguments, **more, generator=torch.Generator().manual_seed(0)).images

    theirs = StableDiffusionXLControlNetInpaintPipeline if xl else StableDiffusionControlNetInpaintPipeline
    plain = StableDiffusionXLInpaintPipeline if xl else StableDiffusionInpaintPipeline
    expected = drawn(theirs, [], control_image=_hint(), controlnet_conditioning_scale=1.0)
    got = drawn(plain, [ControlUnit(model=model, hint=_hint())])
    without = drawn(plain, [])
    assert (expected - without).abs().max() > 20 * TOLERANCE * without.abs().max()
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("made_for_it", [False, True])
def test_what_the_mask_keeps_is_the_pictures(worlds: tuple[Base, Base], build: Build, made_for_it: bool) -> None:
    unit = ControlUnit(model=build(worlds[0], 1)[1], hint=_hint())
    asked = _request(image=PICTURE, mask=RIGHT, batch=2)
    result = generate(worlds[made_for_it], asked, [unit])
    half = SIDE // 2
    assert (result.images[:, :, :half] == PICTURE[:, :half]).all()
    assert (result.images[:, :, half:] != PICTURE[:, half:]).mean() > 0.5
    assert [(each.fired, each.steps) for each in result.firings] == [(2, 2)]
    second = generate(worlds[made_for_it], _request(image=PICTURE, mask=RIGHT, seed=1), [unit]).images[0]
    assert np.abs(result.images[1].astype(int) - second).max() <= 1  # picture k is the single picture of seed k


def test_a_grey_mask_mixes(tiny: Base) -> None:
    white = np.full((SIDE, SIDE), 255, np.uint8)
    drawn = generate(tiny, _request(image=PICTURE, mask=white)).images[0].astype(float)
    mixed = generate(tiny, _request(image=PICTURE, mask=white - 51)).images[0].astype(float)
    assert np.abs(mixed - (0.8 * drawn + 0.2 * PICTURE)).max() <= 1


def test_a_base_for_inpainting_draws_without_picture_or_mask(worlds: tuple[Base, Base]) -> None:
    base = worlds[1]
    from_nothing = generate(base, _request()).images
    redrawn = generate(base, _request(image=PICTURE, strength=1.0)).images
    assert from_nothing.shape == redrawn.shape == (1, SIDE, SIDE, 3)
    grey = np.full_like(PICTURE, 128)
    same = generate(base, _request(image=grey, mask=np.full_like(RIGHT, 255), strength=1.0)).images
    assert (from_nothing == same).all()  # the picture is grey where there is none


def test_difference_files_see_the_latents_part_of_the_first_layer(worlds: tuple[Base, Base]) -> None:
    plain, wide = (UnetState(lambda base=base: base) for base in worlds)
    assert {name: value.shape for name, value in wide.items()} == {name: value.shape for name, value in plain.items()}
    assert all(wide[name].equal(plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask": RIGHT}, "--image"),
        ({"mask": RIGHT[:32], "image": PICTURE}, "64x32, expected the picture's size, 64x64"),
        ({"mask": PICTURE, "image": PICTURE}, r"\[H, W\]"),
        ({"mask": RIGHT * 0, "image": PICTURE}, "black everywhere"),
    ],
)
def test_senseless_masks_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(HostError, match=words):
        _request(**settings)


def test_training_over_a_base_for_inpainting_is_refused(tiny: Base, tmp_path: Path) -> None:
    from controlstack.training.start import load_frozen

    _widened(tiny).pipeline.save_pretrained(tmp_path)
    with pytest.raises(HostError, match="9 latent channels, expected 4"):
        load_frozen(tmp_path, torch.device("cpu"))
