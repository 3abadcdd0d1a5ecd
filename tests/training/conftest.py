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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained tiny base and five examples."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    made = base.new_base(autoencoder.new_autoencoder(), folder)
    made.unet.conv_out.weight.data.normal_(0, 0.1)  # an untrained U-Net's output is small, and so are all gradients
    made.save(folder / "base")
    write_dataset(folder / "data", 5, seed=1)
    return folder


@pytest.fixture
def settings(world: Path) -> Settings:
    hints = HintSource(preprocessor="canny")
    return Settings(base=world / "base", data=world / "data", hints=hints, steps=4, batch=2, learning_rate=1e-3)


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
}


@pytest.fixture
def of_family(settings: Settings) -> Callable[..., Settings]:
    """Settings of a family, with hints that it reads: `of_family("union", steps=2)`."""

    def made(family: str, **changes: Any) -> Settings:
        return replace(settings, family=family, **{**OWN.get(family, {}), **changes})

    return made
