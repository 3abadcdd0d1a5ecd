"""LaMa with random weights of its true shapes, against the network's own call; layouts of its file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError, HintError
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from skimage import data
from torch import nn

for package in ("spandrel", "torchvision"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)
from spandrel.architectures.LaMa import LaMa  # noqa: E402  (after the question whether it is there)

PHOTO = np.ascontiguousarray(data.astronaut()[100:400, 50:500])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = LaMa(in_nc=4, out_nc=3)
    for name, tensor in made.state_dict().items():
        if tensor.dim() > 1:
            tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return made.eval()


@pytest.fixture(scope="module")
def folder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As training programs save it, with one that judged beside it."""
    path = tmp_path_factory.mktemp("lama")
    state = {
        key.replace("model.model", "generator.model", 1): each.half() for key, each in network.state_dict().items()
    }
    torch.save({"state_dict": {**state, "discriminator.weight": torch.ones(1)}}, path / "ControlNetLama.pth")
    network.load_state_dict({key: each.half().float() for key, each in network.state_dict().items()})
    yield path
    (path / "ControlNetLama.pth").unlink()


def lama() -> Preprocessor:
    preprocessor = find("inpaint_only+lama")
    (each,) = preprocessor.networks
    file = replace(each.files[0], bytes=None, sha256="")
    return replace(preprocessor, networks=(replace(each, files=(file,)),))


def mask() -> np.ndarray:
    made = np.zeros(PHOTO.shape[:2], np.uint8)
    made[100:220, 150:300] = 255
    return made


@torch.no_grad()
def test_what_is_masked_is_filled_by_the_network(network: nn.Module, folder: Path) -> None:
    """300 x 450 becomes 256 x 384, a multiple of 64; what the network says is enlarged into the mask alone."""
    runtime = Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))
    hint = lama()(PHOTO, mask=mask(), runtime=runtime)
    assert hint.shape == (300, 450, 4)
    assert np.array_equal(hint[..., 3], mask())
    assert np.array_equal(hint[mask() == 0][:, :3], PHOTO[mask() == 0])
    small = cv2.resize(PHOTO, (384, 256), interpolation=cv2.INTER_AREA)
    hole = cv2.resize(mask(), (384, 256), interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
    result = network(pixels, torch.from_numpy((hole > 127).astype(np.float32))[None, None])[0]
    filled = (result.permute(1, 2, 0).numpy() * 255).clip(0, 255).astype(np.uint8)
    expected = cv2.resize(filled, (450, 300), interpolation=cv2.INTER_CUBIC)
    inside = np.zeros_like(mask())
    inside[110:210, 160:290] = 1
    off = np.abs(hint[..., :3].astype(int) - expected)[inside == 1]
    assert off.max() <= 2
    assert np.abs(hint[..., :3].astype(int) - PHOTO)[inside == 1].mean() > 5


def test_bad_files_and_masks_are_named(tmp_path: Path) -> None:
    runtime = Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))
    torch.save({"model.1.ffc.convl2l.weight": torch.ones(1)}, tmp_path / "ControlNetLama.pth")
    with pytest.raises(DamagedModelError, match=r"ControlNetLama.pth misses model\.model\."):
        lama()(PHOTO, mask=mask(), runtime=runtime)
    with pytest.raises(HintError, match="needs a uint8 mask"):
        lama()(PHOTO, runtime=runtime)
