"""Networks with random weights in the files' real layout, against the detectors of controlnet-aux on the same weights.

They run where controlnet-aux is installed (`pip install --no-deps controlnet-aux==0.0.10`, with einops and timm).
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError
from controlstack.preprocessors import Output, Preprocessor, find
from controlstack.preprocessors.peers import peer
from controlstack.preprocessors.pool import PlainManager, Pool
from controlstack.preprocessors.runtime import Runtime
from controlstack.preprocessors.store import Store
from skimage import data
from torch import nn

ROOT = Path(__file__).resolve().parents[2]

for package in ("controlnet_aux", "einops", "huggingface_hub"):  # not imported: that breaks beside many a package
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, for the network classes of controlnet-aux", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def photo(height: int = 64, width: int = 128) -> np.ndarray:
    return cv2.resize(data.astronaut()[:400, :600], (width, height), interpolation=cv2.INTER_AREA)


def detector(module: str, name: str) -> Any:
    """A detector class of controlnet-aux itself, with what it imports, but without its siblings."""
    package = types.ModuleType("detectors_of_tests")
    package.__path__ = list(importlib.util.find_spec("controlnet_aux").submodule_search_locations)
    sys.modules.setdefault("detectors_of_tests", package)
    return getattr(importlib.import_module(f"detectors_of_tests.{module}"), name)


def unsigned(preprocessor: Preprocessor) -> Preprocessor:
    """The same with files of any content, since no real weights are here."""
    networks = tuple(
        replace(network, files=tuple(replace(file, bytes=None, sha256="") for file in network.files))
        for network in preprocessor.networks
    )
    return replace(preprocessor, networks=networks)


def runtime(folder: Path) -> Runtime:
    return Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


def randomise(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """Weights that keep the size of what flows through, and statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dim() > 1:
            fan = tensor[0].numel()
            tensor.normal_(0, gain * (2 / fan) ** 0.5)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return network.eval()


def hed() -> nn.Module:
    network = randomise(peer("hed").ControlNetHED_Apache2())
    network.norm.data.fill_(120)
    for block in range(1, 6):
        projection = getattr(network, f"block{block}").projection
        projection.weight.data.mul_(0.03)
        projection.bias.data.fill_(2.5)
    return network


BUILD: dict[str, Callable[[], nn.Module]] = {
    "ControlNetHED.pth": hed,
    "table5_pidinet.pth": lambda: randomise(peer("pidi.model").pidinet()),
    "7_model.pth": lambda: randomise(peer("teed.ted").TED(), 0.6),
    "MTEED.pth": lambda: randomise(peer("teed.ted").TED(), 0.6),
    "sk_model.pth": lambda: randomise(peer("lineart").Generator(3, 1, 3), 0.5),
    "sk_model2.pth": lambda: randomise(peer("lineart").Generator(3, 1, 3), 0.4),
    "netG.pth": lambda: randomise(
        peer("lineart_anime").UnetGenerator(
            3, 1, 8, 64, norm_layer=partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
        ),
        0.5,
    ),
    "mlsd_large_512_fp32.pth": lambda: randomise(peer("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()),
}
LAYOUT: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "table5_pidinet.pth": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "netG.pth": lambda state: {f"module.{key}": value for key, value in state.items()},
}
THEIRS: dict[str, Callable[[nn.Module, np.ndarray], np.ndarray]] = {
    "softedge_hed": lambda net, image: detector("hed", "HEDdetector")(net)(image, 64, 64, output_type="np"),
    "softedge_hedsafe": lambda net, image: detector("hed", "HEDdetector")(net)(
        image, 64, 64, safe=True, output_type="np"
    ),
    "scribble_hed": lambda net, image: detector("hed", "HEDdetector")(net)(
        image, 64, 64, scribble=True, output_type="np"
    ),
    "softedge_pidinet": lambda net, image: detector("pidi", "PidiNetDetector")(net)(image, 64, 64, output_type="np"),
    "softedge_pidisafe": lambda net, image: detector("pidi", "PidiNetDetector")(net)(
        image, 64, 64, safe=True, output_type="np"
    ),
    "scribble_pidinet": lambda net, image: detector("pidi", "PidiNetDetector")(net)(
        image, 64, 64, scribble=True, output_type="np"
    ),
    "t2ia_sketch_pidi": lambda net, image: detector("pidi", "PidiNetDetector")(net)(
        image, 64, 64, apply_filter=True, output_type="np"
    ),
    "softedge_teed": lambda net, image: detector("teed", "TEEDdetector")(net)(image, 64, output_type="np"),
    "lineart_realistic": lambda net, image: detector("lineart", "LineartDetector")(net, None)(
        image, False, 64, 64, output_type="np"
    ),
    "lineart_coarse": lambda net, image: (
        detector("lineart", "LineartDetector")(None, net)(image, True, 64, 64, output_type="np")
        if False
        else detector("lineart", "LineartDetector")(net, net)(image, True, 64, 64, output_type="np")
    ),
    "lineart_anime": lambda net, image: detector("lineart_anime", "LineartAnimeDetector")(net)(
        image, 64, 64, output_type="np"
    ),
    "mlsd": lambda net, image: detector("mlsd", "MLSDdetector")(net)(image, 0.1, 0.1, 64, 64, output_type="np"),
}


def prepared(name: str, folder: Path) -> tuple[Preprocessor, nn.Module]:
    """A preprocessor whose file lies in the folder, and the network that was saved."""
    preprocessor = unsigned(find(name))
    file = preprocessor.networks[0].files[0].name
    network = BUILD[file]()
    layout = LAYOUT.get(file, lambda state: state)
    torch.save(layout(network.state_dict()), folder / file)
    return preprocessor, network


@pytest.mark.parametrize("name", THEIRS)
def test_hints_equal_those_of_controlnet_aux(name: str, tmp_path: Path) -> None:
    preprocessor, network = prepared(name, tmp_path)
    theirs = THEIRS[name](network, photo())
    ours = preprocessor(photo(), runtime=runtime(tmp_path))
    off = np.abs(ours.astype(int) - theirs.astype(int)).max(axis=2)
    levels = len(np.unique(ours))
    soft = preprocessor.output is Output.GRAY and "safe" not in name and "teed" not in name
    assert levels > (40 if soft else 1), f"the random network shows only {levels} levels"
    assert (off <= (1 if soft else 0)).mean() > 0.998
    if preprocessor.output is Output.BINARY:
        assert set(np.unique(ours)) == {0, 255}


@pytest.mark.parametrize(
    "name", ["softedge_hed", "scribble_pidinet", "softedge_anyline", "lineart_realistic", "lineart_anime", "mlsd"]
)
@pytest.mark.parametrize("size", [(63, 65)])
def test_odd_sizes_and_batches(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    preprocessor, _ = prepared(name, tmp_path)
    ready = runtime(tmp_path)
    batch = np.stack([photo(*size), photo(*size)[:, ::-1]])
    hints = preprocessor(batch, runtime=ready)
    assert hints.shape == (2, *size, 3)
    ready.cache.clear()
    singles = np.stack([preprocessor(image, runtime=ready) for image in batch])
    assert (np.abs(hints.astype(int) - singles) <= 1).mean() > 0.998
    k = 40 / min(size)
    assert preprocessor(batch[0], resolution=40, runtime=ready).shape[:2] == (round(size[0] * k), round(size[1] * k))


def test_safe_maps_have_three_levels(tmp_path: Path) -> None:
    for name in ("softedge_hedsafe", "softedge_teed"):
        preprocessor, _ = prepared(name, tmp_path)
        assert set(np.unique(preprocessor(photo(), runtime=runtime(tmp_path)))) <= {0, 127, 255}
    teed, _ = prepared("softedge_teed", tmp_path)
    assert set(np.unique(teed(photo(), runtime=runtime(tmp_path), steps=3))) <= {0, 85, 170, 255}
    assert len(np.unique(teed(photo(), runtime=runtime(tmp_path), steps=0))) > 10


def test_anyline_adds_light_and_drops_specks(tmp_path: Path) -> None:
    """The screen of both maps in floats; components of under 36 pixels, in two dimensions, are gone."""
    preprocessor, network = prepared("softedge_anyline", tmp_path)
    image = photo()
    speck = np.full((64, 128, 3), 255, np.uint8)
    speck[20:23, 20:23] = 0
    speck[50:52, 20:110] = 0
    for picture in (image, speck):
        base = detector("teed", "TEEDdetector")(network)(picture, 64, output_type="np")[..., 0] / 255
        fine = find("lineart_standard")(picture, sigma=2.0, threshold=3)[..., 0]
        count, labels = cv2.connectedComponents((fine > 0).astype(np.uint8), connectivity=4)
        for label in range(1, count):
            if (labels == label).sum() < 36:
                fine[labels == label] = 0
        expected = 255 * (1 - (1 - base) * (1 - fine / 255))
        ours = preprocessor(picture, runtime=runtime(tmp_path))[..., 0]
        assert np.abs(ours - expected).max() <= 1
    assert fine[50, 80] > 0
    assert fine[19:24, 19:24].max() == 0


def test_straight_lines_are_found_where_they_are() -> None:
    """A map with one line, from (10, 20) to (70, 20) in the picture; nothing raises on a map without any."""
    find_lines = __import__("controlstack.preprocessors.linearts", fromlist=["find_lines"]).find_lines
    planes = torch.zeros(9, 32, 64)
    planes[0] = -20
    planes[0, 10, 20] = 3
    planes[1:5, 10, 20] = torch.tensor([-15.0, 0, 15, 0])
    assert find_lines(planes, 0.1, 0.1) == [((10, 20), (70, 20))]
    assert find_lines(planes, 0.96, 0.1) == []
    assert find_lines(planes, 0.1, 31.0) == []
    assert find_lines(torch.full((9, 4, 4), -20.0), 0.1, 0.1) == []


def test_safetensors_are_preferred_and_strict(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    preprocessor, network = prepared("softedge_teed", tmp_path)
    ready = runtime(tmp_path)
    expected = preprocessor(photo(), runtime=ready, steps=0)
    (tmp_path / "7_model.pth").unlink()
    save_file(network.state_dict(), tmp_path / "7_model.safetensors")
    again = runtime(tmp_path)
    assert np.array_equal(preprocessor(photo(), runtime=again, steps=0), expected)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing key", "extra key", "shape", "code"])
def test_bad_files_are_named(damage: str, tmp_path: Path) -> None:
    preprocessor, network = prepared("softedge_teed", tmp_path)
    path, state = tmp_path / "7_model.pth", dict(network.state_dict())
    first = next(iter(state))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("<html>")
    elif damage == "code":
        torch.save({"state_dict": Path("a")}, path)
    else:
        changed = {
            "empty": {},
            "missing key": {key: value for key, value in state.items() if key != first},
            "extra key": {**state, "more": torch.zeros(1)},
            "shape": {**state, first: state[first][..., :1]},
        }[damage]
        torch.save(changed, path)
    with pytest.raises(DamagedModelError, match=r"7_model.pth"):
        preprocessor(photo(), runtime=runtime(tmp_path))


def test_the_package_itself_is_not_imported() -> None:
    code = f"""if True:
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
        sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
        from controlstack.preprocessors.peers import peer
        peer("teed.ted").TED(), peer("hed").ControlNetHED_Apache2(), peer("normalbae.nets.NNET").NNET
        print(sorted({{"controlnet_aux", "mediapipe", "timm", "torchvision", "matplotlib"}} & set(sys.modules)))
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
