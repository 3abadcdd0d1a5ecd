"""What happens around networks, with small ones in the place of the real: sizes, batches, padding, errors, order.

Each of these is a complaint about other programs that offer the same networks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import MissingDependencyError, PreprocessorError
from controlstack.preprocessors import REGISTRY, Preprocessor, find
from controlstack.preprocessors.networks.network import Network
from controlstack.preprocessors.networks.peers import peer
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(511, 513), (64, 4096), (16, 16), (65, 63)]
TINY: dict[str, type[nn.Module]] = {}  # id of a preprocessor -> a network that is called as its real one


def stands_for(*names: str) -> Any:
    def remember(kind: type[nn.Module]) -> type[nn.Module]:
        TINY.update(dict.fromkeys(names, kind))
        return kind

    return remember


class Tiny(nn.Module):
    """One convolution; `channels` in, `planes` out."""

    channels, planes = 3, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(self.channels, self.planes, 3, padding=1)
        self.layer.weight.data.mul_(self.gain)

    gain = 1.0

    def forward(self, pixels: Tensor) -> Any:
        return self.layer(pixels)


@stands_for("softedge_hed", "softedge_hedsafe", "scribble_hed", "softedge_teed", "softedge_anyline")
class Edges(Tiny):
    gain = 0.03

    def forward(self, pixels: Tensor) -> Any:
        return [self.layer(pixels), self.layer(nn.functional.avg_pool2d(pixels, 2))]


@stands_for("softedge_pidinet", "softedge_pidisafe", "scribble_pidinet", "t2ia_sketch_pidi")
class Pidi(Tiny):
    gain = 8.0

    def forward(self, pixels: Tensor) -> Any:
        return [None, torch.sigmoid(self.layer(pixels))]


@stands_for("lineart_realistic", "lineart_coarse", "lineart_anime", "depth_midas", "normal_midas", "depth_leres")
class Plain(Tiny):
    def forward(self, pixels: Tensor) -> Any:
        return self.layer(pixels)


@stands_for("lineart_anime_denoise")
class Manga(Tiny):
    channels = 1


@stands_for("mlsd")
class Lines(Tiny):
    channels, planes, gain = 4, 9, 5.0

    def forward(self, pixels: Tensor) -> Any:
        return self.layer(nn.functional.avg_pool2d(pixels, 2))


@stands_for("depth_zoe")
class Zoe(Tiny):
    def infer(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels)


@stands_for("normal_bae")
class Bae(Tiny):
    planes = 4

    def forward(self, pixels: Tensor) -> Any:
        return [[torch.tanh(self.layer(pixels))]]


class Body(Tiny):
    """Fields and maps at an eighth of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, count, 8, stride=8) for count in (38, 19))
        for each in self.maps:
            each.weight.data.normal_(0, 0.05)

    def forward(self, pixels: Tensor) -> Any:
        return [each(pixels) for each in self.maps]


TINY["openpose"] = Body


def tiny(name: str, network: nn.Module | None = None) -> Preprocessor:
    """The preprocessor on a small network, without files and packages."""
    preprocessor, made = find(name), network or TINY[name]()
    if name in ("depth_midas", "normal_midas"):
        made = _Squeezed(made)
    small = Network(id=f"tiny {id(made)}", files=(), load=lambda: made)
    return replace(preprocessor, networks=(small,))


class _Squeezed(nn.Module):
    """MiDaS has no channel."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        return self.inner(pixels)[:, 0]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)[:height, :width])


def test_every_network_of_controlnet_aux_has_a_small_one() -> None:
    """A preprocessor that is added to the registry must be added above."""
    modules = ("softedge", "linearts", "depth", "normals")
    own = [each for each in REGISTRY if each.networks and _module_of(each) in modules]
    assert {each.id for each in own} <= set(TINY)


def _module_of(preprocessor: Preprocessor) -> str:
    run = preprocessor.run
    return getattr(run, "func", run).__module__.rpartition(".")[2]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", TINY)
def test_hints_have_the_size_of_the_picture(name: str, size: tuple[int, int], networks: Any, tmp_path: Path) -> None:
    """controlnet-aux rounds to multiples of 64, which changes the aspect by up to 3 %."""
    hint = tiny(name)(picture(*size), runtime=networks.runtime(tmp_path))
    assert hint.shape == (*size, 3)
    assert hint.dtype == np.uint8


@pytest.mark.parametrize("name", TINY)
def test_the_short_side_becomes_the_resolution(name: str, networks: Any, tmp_path: Path) -> None:
    hint = tiny(name)(picture(48, 64), runtime=networks.runtime(tmp_path), resolution=72)
    assert hint.shape == (72, 96, 3)


@pytest.mark.parametrize("name", TINY)
def test_a_batch_is_what_its_pictures_are(name: str, networks: Any, tmp_path: Path) -> None:
    ready = networks.runtime(tmp_path)
    batch = np.stack([picture(60, 90, seed) for seed in range(3)])
    preprocessor = tiny(name)
    hints = preprocessor(batch, runtime=ready)
    ready.cache.clear()
    for image, hint in zip(batch, hints, strict=True):
        alone = preprocessor(image, runtime=ready).astype(int)
        assert (np.abs(alone - hint) <= 1).mean() > 0.999
    assert not np.array_equal(hints[0], hints[1])


@pytest.mark.parametrize("name", TINY)
def test_cold_and_warm_are_the_same(name: str, networks: Any, tmp_path: Path) -> None:
    ready, preprocessor, image = networks.runtime(tmp_path), tiny(name), picture(40, 50)
    cold = preprocessor(image, runtime=ready)
    warm = preprocessor(image, runtime=ready)
    ready.cache.clear()
    assert np.array_equal(cold, warm)
    assert np.array_equal(cold, preprocessor(image, runtime=ready))


class Position(nn.Module):
    """Says how far right a pixel is, however wide the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.arange(pixels.shape[3]).float().expand(len(pixels), 1, *pixels.shape[2:]) + self.anywhere

    infer = forward


@pytest.mark.parametrize("name", ["depth_midas", "depth_leres"])
def test_padding_does_not_enter_the_range(name: str, networks: Any, tmp_path: Path) -> None:
    """The extremes lie in the picture, not in the columns that were added to fill a cell."""
    hint = tiny(name, Position())(picture(20, 70), runtime=networks.runtime(tmp_path))[0, :, 0]
    first, last = (hint[0], hint[-1]) if name == "depth_midas" else (hint[-1], hint[0])
    assert (first, last) == (0, 255)


class Broken(nn.Module):
    """Fails as a network without memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, _pixels: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    infer = forward


@pytest.mark.parametrize("name", TINY)
def test_a_failure_is_an_error_and_no_black_hint(name: str, networks: Any, tmp_path: Path) -> None:
    """M-LSD of other programs catches everything and shows black."""
    ready = networks.runtime(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        tiny(name, Broken())(picture(32, 32), runtime=ready)
    assert tiny(name)(picture(32, 32), runtime=ready).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("lineart_realistic", {"sk_model.pth"}),
        ("lineart_coarse", {"sk_model2.pth"}),
        ("openpose", {"body_pose_model.pth"}),
        ("openpose_hand", {"body_pose_model.pth", "hand_pose_model.pth"}),
        ("openpose_faceonly", {"body_pose_model.pth", "facenet.pth"}),
        ("depth_leres", {"res101.pth"}),
        ("normal_midas", {"dpt_hybrid-midas-501f0c75.pt"}),
    ],
)
def test_only_what_is_used_is_needed(name: str, files: set[str]) -> None:
    """controlnet-aux loads every file that any option of a detector needs."""
    assert {file.name for network in find(name).networks for file in network.files} == files


def test_missing_weights_are_said_in_full(networks: Any, tmp_path: Path) -> None:
    preprocessor = find("softedge_hed")
    bare = replace(preprocessor, networks=tuple(replace(each, packages=()) for each in preprocessor.networks))
    with pytest.raises(PreprocessorError) as error:
        bare(picture(8, 8), runtime=networks.runtime(tmp_path))
    for part in ("ControlNetHED.pth", "29,444,406 bytes", "5ca93762ffd68a29", str(tmp_path), "huggingface.co"):
        assert part in str(error.value)


def test_no_digest_is_invented() -> None:
    """A digest is 64 hexadecimal digits or absent, a licence is always stated, an address always https."""
    files = {file for each in REGISTRY for network in each.networks for file in network.files}
    assert len(files) > 15
    for file in files:
        assert file.sha256 == "" or (len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef")), file.name
        assert file.licence, file.name
        assert all(address.startswith("https://") for address in file.addresses), file.name
    known = [file.sha256 for file in files if file.sha256]
    assert len(known) == len(set(known))


def test_a_new_mediapipe_and_arguments_do_no_harm(networks: Any, tmp_path: Path) -> None:
    """controlnet-aux cannot be imported beside it, sets an environment variable, and LeReS reads `sys.argv`."""
    networks.needs("controlnet_aux", "einops", "huggingface_hub")
    (tmp_path / "mediapipe.py").write_text("tasks = None\n", encoding="utf-8")
    code = f"""if True:
        import importlib.util, os, sys
        sys.path.insert(0, {str(tmp_path)!r})
        sys.argv = ["host", "--listen", "--api"]
        spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
        sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
        from controlstack.preprocessors.networks.peers import peer
        import torch
        with torch.device("meta"):
            peer("hed").ControlNetHED_Apache2(), peer("open_pose.model").bodypose_model()
            peer("leres.leres.multi_depth_model_woauxi").DepthModel("resnext101_stride32x8d")
        print("KMP_DUPLICATE_LIB_OK" in os.environ, "controlnet_aux" in sys.modules)
    """
    clean = {key: value for key, value in os.environ.items() if key != "KMP_DUPLICATE_LIB_OK"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    assert found.stdout.strip() == "False False", found.stderr


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, r"another version; pip install controlnet-aux==0\.0\.10 --no-deps"),
        ("import nothing_like_it", "pip install nothing_like_it"),
    ],
)
def test_another_controlnet_aux_is_said(
    content: str | None, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that its version does not have, and one that needs what is not installed."""
    (tmp_path / "controlnet_aux").mkdir()
    (tmp_path / "controlnet_aux" / "__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    if content is not None:
        (tmp_path / "controlnet_aux" / "old_net.py").write_text(content + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [each for each in sys.modules if "_controlnet_aux" in each or each == "controlnet_aux"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match=advice):
        peer("old_net")
    for name in [each for each in sys.modules if "_controlnet_aux" in each]:
        del sys.modules[name]
