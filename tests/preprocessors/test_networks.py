"""Networks with random weights in the files' real layout, against the detectors of controlnet-aux on the same weights.

They run where controlnet-aux is installed (`pip install --no-deps controlnet-aux==0.0.10`, with einops and timm).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError, PreprocessorError
from controlstack.preprocessors import Output, Preprocessor, find
from controlstack.preprocessors.lines.linearts import find_lines
from controlstack.preprocessors.lines.manga import MangaLines
from controlstack.preprocessors.networks.peers import peer
from controlstack.preprocessors.regions.anime_face import FACE_COLOURS
from controlstack.preprocessors.regions.anime_face_network import FaceParts
from controlstack.preprocessors.regions.mobile_sam import build, paint
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "controlnet_aux", "einops", "huggingface_hub"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def hed(tools: Any) -> nn.Module:
    network = tools.randomise(peer("hed").ControlNetHED_Apache2())
    network.norm.data.fill_(120)
    for block in range(1, 6):
        projection = getattr(network, f"block{block}").projection
        projection.weight.data.mul_(0.03)
        projection.bias.data.fill_(2.5)
    return network


def anime() -> nn.Module:
    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return peer("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm)


def manga(tools: Any) -> nn.Module:
    network = tools.randomise(MangaLines(), 0.7)
    last = network.conv15.model[2]
    with torch.inference_mode():
        drawn = network(torch.rand(1, 1, 64, 64) * 255)
    last.weight.data.mul_(40 / drawn.std())
    last.bias.data.fill_(128 - float(drawn.mean()) * 40 / float(drawn.std()))
    return network


BUILD: dict[str, Callable[[Any], nn.Module]] = {
    "ControlNetHED.pth": hed,
    "table5_pidinet.pth": lambda tools: tools.randomise(peer("pidi.model").pidinet()),
    "7_model.pth": lambda tools: tools.randomise(peer("teed.ted").TED(), 0.6),
    "MTEED.pth": lambda tools: tools.randomise(peer("teed.ted").TED(), 0.6),
    "sk_model.pth": lambda tools: tools.randomise(peer("lineart").Generator(3, 1, 3), 0.5),
    "sk_model2.pth": lambda tools: tools.randomise(peer("lineart").Generator(3, 1, 3), 0.4),
    "netG.pth": lambda tools: tools.randomise(anime(), 0.5),
    "mlsd_large_512_fp32.pth": lambda tools: tools.randomise(peer("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()),
    "erika.pth": manga,
}
LAYOUT: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "table5_pidinet.pth": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "netG.pth": lambda state: {f"module.{key}": value for key, value in state.items()},
}


def theirs(tools: Any, module: str, name: str, *networks: Any, **settings: Any) -> np.ndarray:
    """What a detector of controlnet-aux makes of the photo."""
    sizes = {"detect_resolution": 64} if name == "TEEDdetector" else {"detect_resolution": 64, "image_resolution": 64}
    return tools.detector(module, name)(*networks)(tools.photo(), **sizes, output_type="np", **settings)


THEIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "softedge_hed": ("hed", "HEDdetector", {}),
    "softedge_hedsafe": ("hed", "HEDdetector", {"safe": True}),
    "scribble_hed": ("hed", "HEDdetector", {"scribble": True}),
    "softedge_pidinet": ("pidi", "PidiNetDetector", {}),
    "softedge_pidisafe": ("pidi", "PidiNetDetector", {"safe": True}),
    "scribble_pidinet": ("pidi", "PidiNetDetector", {"scribble": True}),
    "t2ia_sketch_pidi": ("pidi", "PidiNetDetector", {"apply_filter": True}),
    "softedge_teed": ("teed", "TEEDdetector", {}),
    "lineart_realistic": ("lineart", "LineartDetector", {"coarse": False}),
    "lineart_coarse": ("lineart", "LineartDetector", {"coarse": True}),
    "lineart_anime": ("lineart_anime", "LineartAnimeDetector", {}),
    "mlsd": ("mlsd", "MLSDdetector", {"thr_v": 0.1, "thr_d": 0.1}),
}


def prepared(tools: Any, name: str, folder: Path) -> tuple[Preprocessor, nn.Module]:
    """A preprocessor whose file lies in the folder, and the network that was saved."""
    if name != "lineart_anime_denoise":
        tools.needs(*PACKAGES)
    file = find(name).networks[0].files[0].name
    network = BUILD[file](tools)
    return tools.stored(find(name), network, folder, LAYOUT.get(file, dict)), network


@pytest.mark.parametrize("name", THEIRS)
def test_hints_equal_those_of_controlnet_aux(name: str, networks: Any, tmp_path: Path) -> None:
    preprocessor, network = prepared(networks, name, tmp_path)
    module, kind, settings = THEIRS[name]
    given = (network, network) if kind == "LineartDetector" else (network,)
    expected = theirs(networks, module, kind, *given, **settings)
    ours = preprocessor(networks.photo(), runtime=networks.runtime(tmp_path))
    off = np.abs(ours.astype(int) - expected.astype(int)).max(axis=2)
    levels = len(np.unique(ours))
    soft = preprocessor.output is Output.GRAY and "safe" not in name and "teed" not in name
    assert levels > (40 if soft else 1), f"the random network shows only {levels} levels"
    assert (off <= (1 if soft else 0)).mean() > 0.998
    if preprocessor.output is Output.BINARY:
        assert set(np.unique(ours)) == {0, 255}


@pytest.mark.parametrize(
    "name",
    [
        "softedge_hed",
        "scribble_pidinet",
        "softedge_anyline",
        "lineart_realistic",
        "lineart_anime",
        "lineart_anime_denoise",
        "mlsd",
    ],
)
@pytest.mark.parametrize("size", [(63, 65)])
def test_odd_sizes_and_batches(name: str, size: tuple[int, int], networks: Any, tmp_path: Path) -> None:
    preprocessor, _ = prepared(networks, name, tmp_path)
    ready = networks.runtime(tmp_path)
    batch = np.stack([networks.photo(*size), networks.photo(*size)[:, ::-1]])
    hints = preprocessor(batch, runtime=ready)
    assert hints.shape == (2, *size, 3)
    ready.cache.clear()
    singles = np.stack([preprocessor(image, runtime=ready) for image in batch])
    assert (np.abs(hints.astype(int) - singles) <= 1).mean() > 0.998
    k = 40 / min(size)
    assert preprocessor(batch[0], resolution=40, runtime=ready).shape[:2] == (round(size[0] * k), round(size[1] * k))


def test_safe_maps_have_three_levels(networks: Any, tmp_path: Path) -> None:
    for name in ("softedge_hedsafe", "softedge_teed"):
        preprocessor, _ = prepared(networks, name, tmp_path)
        assert set(np.unique(preprocessor(networks.photo(), runtime=networks.runtime(tmp_path)))) <= {0, 127, 255}
    teed, _ = prepared(networks, "softedge_teed", tmp_path)
    assert set(np.unique(teed(networks.photo(), runtime=networks.runtime(tmp_path), steps=3))) <= {0, 85, 170, 255}
    assert len(np.unique(teed(networks.photo(), runtime=networks.runtime(tmp_path), steps=0))) > 10


def test_anyline_adds_light_and_drops_specks(networks: Any, tmp_path: Path) -> None:
    """The screen of both maps in floats; components of under 36 pixels, in two dimensions, are gone."""
    preprocessor, network = prepared(networks, "softedge_anyline", tmp_path)
    image = networks.photo()
    speck = np.full((64, 128, 3), 255, np.uint8)
    speck[20:23, 20:23] = 0
    speck[50:52, 20:110] = 0
    for picture in (image, speck):
        base = networks.detector("teed", "TEEDdetector")(network)(picture, 64, output_type="np")[..., 0] / 255
        fine = find("lineart_standard")(picture, sigma=2.0, threshold=3)[..., 0]
        count, labels = cv2.connectedComponents((fine > 0).astype(np.uint8), connectivity=4)
        for label in range(1, count):
            if (labels == label).sum() < 36:
                fine[labels == label] = 0
        expected = 255 * (1 - (1 - base) * (1 - fine / 255))
        ours = preprocessor(picture, runtime=networks.runtime(tmp_path))[..., 0]
        assert np.abs(ours - expected).max() <= 1
    assert fine[50, 80] > 0
    assert fine[19:24, 19:24].max() == 0


def test_straight_lines_are_found_where_they_are() -> None:
    """A map with one line, from (10, 20) to (70, 20) in the picture; nothing raises on a map without any."""
    planes = torch.zeros(9, 32, 64)
    planes[0] = -20
    planes[0, 10, 20] = 3
    planes[1:5, 10, 20] = torch.tensor([-15.0, 0, 15, 0])
    assert find_lines(planes, 0.1, 0.1) == [((10, 20), (70, 20))]
    assert find_lines(planes, 0.96, 0.1) == []
    assert find_lines(planes, 0.1, 31.0) == []
    assert find_lines(torch.full((9, 4, 4), -20.0), 0.1, 0.1) == []


def test_safetensors_are_preferred_and_strict(networks: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    preprocessor, network = prepared(networks, "softedge_teed", tmp_path)
    ready = networks.runtime(tmp_path)
    expected = preprocessor(networks.photo(), runtime=ready, steps=0)
    (tmp_path / "7_model.pth").unlink()
    save_file(network.state_dict(), tmp_path / "7_model.safetensors")
    again = networks.runtime(tmp_path)
    assert np.array_equal(preprocessor(networks.photo(), runtime=again, steps=0), expected)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing key", "extra key", "shape", "code"])
def test_bad_files_are_named(damage: str, networks: Any, tmp_path: Path) -> None:
    preprocessor, network = prepared(networks, "softedge_teed", tmp_path)
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
        preprocessor(networks.photo(), runtime=networks.runtime(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error_and_no_black_hint(value: float, networks: Any, tmp_path: Path) -> None:
    preprocessor, network = prepared(networks, "lineart_anime_denoise", tmp_path)
    network.conv15.model[2].bias.data.fill_(value)
    preprocessor = networks.stored(preprocessor, network, tmp_path)
    with pytest.raises(PreprocessorError, match="no numbers"):
        preprocessor(networks.photo(), runtime=networks.runtime(tmp_path))


def test_the_package_itself_is_not_imported(networks: Any) -> None:
    networks.needs(*PACKAGES)
    code = f"""if True:
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("controlstack", {str(ROOT / "__init__.py")!r})
        sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
        from controlstack.preprocessors.networks.peers import peer
        peer("teed.ted").TED(), peer("hed").ControlNetHED_Apache2(), peer("normalbae.nets.NNET").NNET
        print(sorted({{"controlnet_aux", "mediapipe", "timm", "torchvision", "matplotlib"}} & set(sys.modules)))
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(("size", "name"), [((511, 513), "softedge_teed"), ((64, 4096), "softedge_teed")])
def test_unusual_sizes_keep_their_size(size: tuple[int, int], name: str, networks: Any, tmp_path: Path) -> None:
    preprocessor, _ = prepared(networks, name, tmp_path)
    hint = preprocessor(networks.photo(*size), runtime=networks.runtime(tmp_path), steps=0)
    assert hint.shape == (*size, 3)
    assert len(np.unique(hint[-8:, -8:])) > 1


def test_a_second_call_loads_nothing_and_a_cached_one_computes_nothing(networks: Any, tmp_path: Path) -> None:
    preprocessor, _ = prepared(networks, "softedge_teed", tmp_path)
    ready = networks.runtime(tmp_path)
    first = preprocessor(networks.photo(), runtime=ready)
    with ready.ready(preprocessor.networks[0]) as network:
        other = preprocessor(networks.photo()[:, ::-1], runtime=ready)
        assert not np.array_equal(first[:, ::-1], other)
        with ready.ready(preprocessor.networks[0]) as again:
            assert again is network
        assert isinstance(network, nn.Module)
        for parameter in network.parameters():
            parameter.zero_()
    assert np.array_equal(preprocessor(networks.photo(), runtime=ready), first)
    ready.cache.clear()
    assert not np.array_equal(preprocessor(networks.photo(), runtime=ready), first)


def test_manga_lines_are_built_as_their_weights(networks: Any, tmp_path: Path) -> None:
    """43.1 million numbers; black on white comes out as white on black, from grey pixels of 0 to 255."""
    preprocessor, network = prepared(networks, "lineart_anime_denoise", tmp_path)
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_100_147
    state = network.state_dict()
    assert state["block4.model.11.conv1.model.2.weight"].shape == (384, 384, 3, 3)
    assert state["block5.model.0.shortcut.model.0.weight"].shape == (192, 384, 1, 1)
    assert state["conv15.model.2.weight"].shape == (1, 16, 1, 1)
    image = networks.photo()
    grey = torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[None, None].float()
    with torch.inference_mode():
        expected = (255 - network(grey)[0, 0]).clamp(0, 255).numpy()
    ours = preprocessor(image, runtime=networks.runtime(tmp_path))[..., 0]
    assert np.abs(ours - expected).max() <= 1
    assert len(np.unique(ours)) > 40


def test_regions_are_painted_from_the_seed_small_ones_on_top() -> None:
    large, small = np.ones((8, 9), bool), np.zeros((8, 9), bool)
    small[2:4, 3:5] = True
    painted = paint([small, large], (8, 9), 0)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 2
    assert (painted[2:4, 3:5] == painted[2, 3]).all()
    assert np.array_equal(painted, paint([small, large], (8, 9), 0))
    assert not np.array_equal(painted, paint([small, large], (8, 9), 1))
    assert not paint([], (8, 9), 0).any()


def test_segments_equal_those_of_controlnet_aux_and_timm_keeps_its_models(networks: Any, tmp_path: Path) -> None:
    """Random weights that find something: the masks' score is one, and their logits are large."""
    networks.needs(*PACKAGES, "timm", "torchvision")
    import timm

    before = timm.create_model("tiny_vit_5m_224", pretrained=False).__class__.__module__
    sam = find("mobile_sam").networks[0]
    network = networks.randomise(build(), 0.9)
    network.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(4)
    for shaping in network.mask_decoder.output_hypernetworks_mlps:
        for tensor in (shaping.layers[-1].weight, shaping.layers[-1].bias):
            tensor.data.mul_(1000)
    preprocessor = networks.stored(find("mobile_sam"), network, tmp_path)
    image = networks.photo()
    hint = preprocessor(image, runtime=networks.runtime(tmp_path), points=2, seed=3)
    generator = peer("segment_anything.automatic_mask_generator").SamAutomaticMaskGenerator
    with torch.inference_mode():
        masks = generator(network, points_per_side=2).generate(image)
    assert sam.id == "mobile_sam"
    assert len(masks) > 0
    assert np.array_equal(hint, paint([each["segmentation"] for each in masks], image.shape[:2], 3))
    assert timm.create_model("tiny_vit_5m_224", pretrained=False).__class__.__module__ == before


def test_parts_of_an_anime_face_have_their_colours(networks: Any, tmp_path: Path) -> None:
    networks.needs("torchvision")
    network = networks.randomise(FaceParts())
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_554_255
    preprocessor = networks.stored(find("seg_anime_face"), network, tmp_path)
    image = networks.photo()
    with torch.inference_mode():
        parts = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).argmax(dim=1)[0]
    hint = preprocessor(image, runtime=networks.runtime(tmp_path))
    assert len(parts.unique()) > 2
    for part, colour in enumerate(FACE_COLOURS):
        assert (hint[parts == part] == colour).all()
