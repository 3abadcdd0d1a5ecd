"""An untrained world small enough to train a few steps in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.training.data.hints import HintSource, Kind
from controlstack.training.settings import Settings
from controlstack.training.tiny import autoencoder, base
from controlstack.training.tiny.scenes import write_dataset
from diffusers import UNet2DConditionModel


@pytest.fixture(scope="module")
def blocks(request: pytest.FixtureRequest) -> int:
    """Residual blocks of a level: the tests' BLOCKS, else one, which costs half of the tiny world's two."""
    return getattr(request.module, "BLOCKS", 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, blocks: int) -> Path:
    """A folder with an untrained tiny base and five examples."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    made = base.new_base(autoencoder.new_autoencoder(), folder)
    unet = UNet2DConditionModel.from_config({**made.unet.config, "layers_per_block": blocks})
    made = replace(made, unet=unet)
    made.unet.conv_out.weight.data.normal_(0, 0.1)  # an untrained U-Net's output is small, and so are all gradients
    made.save(folder / "base")
    write_dataset(folder / "data", 5, seed=1)
    return folder


@pytest.fixture
def settings(world: Path) -> Settings:
    hints = HintSource(preprocessor="canny")
    small = {"steps": 4, "batch": 2, "resolution": 64}
    return Settings(base=world / "base", data=world / "data", hints=hints, learning_rate=1e-3, **small)


OWN: dict[str, dict[str, Any]] = {  # settings that a family needs
    "ip-adapter": {"hints": HintSource(preprocessor="colours")},
    "union": {
        "hints": HintSource(),
        "kinds": (
            Kind("canny", HintSource(preprocessor="canny")),
            Kind("depth", HintSource("depth_image")),
            Kind("tile", HintSource(preprocessor="color_grid")),
        ),
    },
    "uni-controlnet": {
        "hints": HintSource(),
        "kinds": (
            Kind("canny", HintSource(preprocessor="canny")),
            Kind("depth", HintSource("depth_image")),
            Kind("segmentation", HintSource(preprocessor="color_grid")),
        ),
    },
}


@pytest.fixture
def of_family(settings: Settings) -> Callable[..., Settings]:
    """Settings of a family, with hints that it reads: `of_family("union", steps=2)`."""

    def made(family: str, **changes: Any) -> Settings:
        return replace(settings, family=family, **{**OWN.get(family, {}), **changes})

    return made
