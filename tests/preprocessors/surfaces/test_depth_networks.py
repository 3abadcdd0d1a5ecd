"""Depth and normals: true shapes with random weights against controlnet-aux, and formulas written by hand."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks.peers import peer
from controlstack.preprocessors.surfaces import depth
from controlstack.preprocessors.surfaces.depth import leres_levels, to_levels, zoe_levels
from torch import nn

OLD = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Mapping deprecated model name"
)


@pytest.fixture
def slope() -> np.ndarray:
    """Depth that grows from left to right, with a long tail."""
    return np.exp(np.linspace(0, 6, 5000, dtype=np.float32))[None].repeat(4, 0)


def test_the_nearest_is_white_and_all_levels_are_used(slope: np.ndarray) -> None:
    levels = to_levels(slope)
    assert (levels[0, 0], levels[0, -1]) == (0, 255)
    assert np.array_equal(levels, np.round((slope - slope.min()) / (slope.max() - slope.min()) * 255))


def test_distances_are_spread_in_floats(slope: np.ndarray) -> None:
    """Peers reduce Zoe's distances to 8 bits first and cut percentiles then, which leaves few levels of a long tail."""
    metres = slope[:, ::-1]
    levels = zoe_levels(np.ascontiguousarray(metres), np.zeros(1, np.uint8))
    low, high = np.percentile(metres, 2), np.percentile(metres, 85)
    expected = np.round(255 * np.clip(1 - (metres - low) / (high - low), 0, 1))
    assert np.abs(levels - expected).max() <= 1
    early = ((metres - metres.min()) / (metres.max() - metres.min()) * 255).astype(np.uint8)
    assert len(np.unique(levels)) > 1.5 * len(np.unique(early[early <= np.percentile(early, 85)]))
    assert levels[0, -1] == 255


def test_near_and_background_are_removed() -> None:
    distance = np.linspace(2, 12, 101, dtype=np.float32)[None]
    plain = leres_levels(distance, np.zeros(1, np.uint8), 0.0, 0.0)[0]
    assert (plain[0], plain[50], plain[100]) == (255, 128, 0)
    cut = leres_levels(distance, np.zeros(1, np.uint8), 20.0, 30.0)[0]
    assert (cut[:20] == 255).all()
    assert (cut[71:] == 0).all()
    assert np.array_equal(cut[21:69], plain[21:69])


@pytest.mark.parametrize("name", ["depth_midas", "depth_zoe", "depth_leres", "normal_midas"])
def test_a_wall_is_no_error(name: str) -> None:
    """Peers divide by zero where everything is equally far."""
    preprocessor = find(name)
    assert preprocessor.finish is not None
    flat = preprocessor.finish(
        np.full((8, 9), 3, np.float32), np.zeros((8, 9, 3), np.uint8), **preprocessor.settings({})
    )
    assert len(np.unique(flat.reshape(72, -1), axis=0)) == 1
    assert (flat == (127 if name == "normal_midas" else 0)).any()


def test_normals_of_midas_come_as_z_y_x() -> None:
    """A ramp that comes nearer to the right: slope in the last channel, none in the middle one."""
    ramp = np.linspace(0, 63, 64, dtype=np.float32)[None].repeat(32, 0)
    finish = find("normal_midas").finish
    assert finish is not None
    hint = finish(ramp, np.zeros((32, 64, 3), np.uint8), background=0.4)
    x, z = 8.0, 2 * np.pi
    length = np.hypot(x, z)
    assert hint[16, 50].tolist() == [int(127.5 + 127.5 * z / length), 127, int(127.5 + 127.5 * x / length)]
    assert hint[16, 10].tolist() == [255, 127, 127]


class Depth(nn.Module):
    """A small network that is called as the real ones are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 1, 5, padding=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(pixels)

    infer = forward


def test_leres_reads_colours_as_its_authors_do(networks: Any) -> None:
    """RGB in 0..1, normalised; peers feed 0..255, and blue for red."""
    image, network = networks.photo(), Depth()
    pixels = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())[:, 0]
    assert np.allclose(depth.leres(image[None], network), expected.detach(), atol=1e-5)


@OLD
def test_zoe_is_cut_as_in_controlnet_aux(networks: Any) -> None:
    networks.needs("controlnet_aux", "timm", "torchvision", "einops", "huggingface_hub")
    image, network = networks.photo(128, 192), Depth()
    theirs = networks.detector("zoe", "ZoeDetector")(network)(image, 128, 128)
    ours = zoe_levels(depth.zoe(image[None], network)[0], image)
    assert np.abs(ours.astype(int) - theirs[..., 0]).max() <= 1
    assert len(np.unique(ours)) > 100


@OLD
def test_zoe_is_built_as_in_controlnet_aux_without_its_traces(networks: Any) -> None:
    networks.needs("controlnet_aux", "timm", "torchvision", "einops", "huggingface_hub")
    before = set(sys.modules)
    with torch.device("meta"):
        ours = depth._build_zoe()
    assert not {"midas", "hubconf"} & (set(sys.modules) - before)
    config = peer("zoe.zoedepth.utils.config").get_config("zoedepth", "infer")
    with torch.device("meta"):
        theirs = peer("zoe.zoedepth.models.zoedepth.zoedepth_v1").ZoeDepth.build_from_config(config)
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (ours, theirs)]
    assert shapes[0] == shapes[1]
    resizers = [each.core.prep.resizer.__dict__ for each in (ours, theirs)]
    assert resizers[0] == resizers[1]
    assert repr(ours) == repr(theirs)
    assert sum(value.numel() for value in ours.parameters()) > 3e8


def build_midas() -> nn.Module:
    return peer("midas.midas.dpt_depth").DPTDepthModel(path=None, backbone="vitb_rn50_384")


def build_bae() -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):
        return peer("normalbae.nets.NNET").NNET(
            SimpleNamespace(mode="client", architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
        )


def build_leres() -> nn.Module:
    return peer("leres.leres.multi_depth_model_woauxi").RelDepthModel(backbone="resnext101")


def midas_hints(networks: Any, network: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    hints = networks.detector("midas", "MidasDetector")(network)(
        image, bg_th=0.4, depth_and_normal=True, detect_resolution=64, image_resolution=64
    )
    return dict(zip(("depth_midas", "normal_midas"), hints, strict=True))


def bae_hints(networks: Any, network: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    return {"normal_bae": networks.detector("normalbae", "NormalBaeDetector")(network)(image, 64, 64, output_type="np")}


def leres_hints(networks: Any, network: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """The peers' own steps on pixels that are right."""
    network.eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(image / 255).float().permute(2, 0, 1)
        pixels = (pixels - torch.tensor(depth.MEAN)[:, None, None]) / torch.tensor(depth.DEVIATION)[:, None, None]
        distance = network.depth_model(pixels[None])[0, 0].numpy()
    share = (65535 * (distance - distance.min()) / (distance.max() - distance.min())).astype(np.uint16)
    return {"depth_leres": cv2.cvtColor(255 - cv2.convertScaleAbs(share, alpha=255 / 65535), cv2.COLOR_GRAY2RGB)}


PACKAGES = "controlnet_aux", "einops", "huggingface_hub"
CASES: dict[str, tuple[Any, Any, Any, float, tuple[str, ...]]] = {
    "midas": (build_midas, dict, midas_hints, 0.7, (*PACKAGES, "timm", "torchvision")),
    "bae": (
        build_bae,
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        bae_hints,
        0.6,
        (*PACKAGES, "torchvision"),
    ),
    "leres": (
        build_leres,
        lambda state: {"depth_model": {f"module.{key}": value for key, value in state.items()}},
        leres_hints,
        0.6,
        PACKAGES,
    ),
}


@OLD
@pytest.mark.parametrize("case", CASES)
def test_hints_equal_those_of_controlnet_aux(case: str, networks: Any, tmp_path: Path) -> None:
    """True shapes, random weights, files in their real layout."""
    build, layout, theirs, gain, packages = CASES[case]
    networks.needs(*packages)
    network, image = networks.randomise(build(), gain), networks.photo()
    expected = theirs(networks, network, image)
    ready = networks.runtime(tmp_path)
    for name, hint in expected.items():
        preprocessor: Preprocessor = networks.stored(find(name), network, tmp_path, layout)
        ours = preprocessor(image, runtime=ready)
        off = np.abs(ours.astype(int) - hint.astype(int)).max(axis=2)
        assert (off <= 1).mean() > 0.995, (name, off.max(), off.mean())
        assert len(np.unique(ours)) > 25, name
