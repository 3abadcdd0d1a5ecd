"""What happens around networks, with small ones in the place of the real: sizes, batches, padding, errors, order.

Each of these is a complaint about other programs that offer the same networks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import MissingDependencyError, PreprocessorError
from controlstack.preprocessors import REGISTRY, Output, Parameter, Preprocessor, find
from controlstack.preprocessors.networks.network import Network
from controlstack.preprocessors.networks.peers import peer
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.perform import Runtime
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(255, 257), (32, 2048), (16, 16), (65, 63)]
SLOW = {"normal_marigold", "openpose_face", "openpose_hand", "openpose_faceonly"}  # at large sizes; siblings are not
TINY: dict[str, tuple[Any, ...]] = {}  # id of a preprocessor -> what makes networks that are called as its real ones
ELSEWHERE = {  # what is tested in a file of its own
    "mobile_sam": "test_networks.py",  # its network is asked by controlnet-aux's own code, as it is there
    "openpose_mediapipe": "poses/test_holistic.py",  # with the networks that its package brings
    **dict.fromkeys(
        (
            "clip_vision",
            "clip_l_image",
            "clip_h",
            "clip_h_states",
            "clip_g",
            "revision_clipvision",
            "revision_ignore_prompt",
        ),
        "encoders/test_clip.py",  # these give no pictures
    ),
    **dict.fromkeys(
        ("face_id", "face_id_raw", "face_id_plus", "instant_id_face_embedding", "instant_id_face_keypoints"),
        "encoders/test_faces.py",
    ),
}


def stands_for(*names: str) -> Any:
    def remember(kind: type[nn.Module]) -> type[nn.Module]:
        TINY.update(dict.fromkeys(names, (kind,)))
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


@stands_for("lineart_realistic", "lineart_coarse", "lineart_anime", "depth_leres")
@stands_for(*(each.id for each in REGISTRY if each.id.startswith("depth_anything")))
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
        self.maps[1].bias.data.sub_(0.1)  # few peaks, for noise takes time

    def forward(self, pixels: Tensor) -> Any:
        return [each(pixels) for each in self.maps]


@stands_for("depth_midas", "normal_midas")
class Midas(Tiny):
    """Without a channel."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels)[:, 0]


@stands_for("depth_pro")
class Pro(Tiny):
    config = SimpleNamespace(patch_size=16)

    def forward(self, pixels: Tensor) -> Any:
        return SimpleNamespace(predicted_depth=self.layer(pixels)[:, 0])


class Hand(Tiny):
    """Maps at an eighth of the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 22, 8, stride=8)

    def forward(self, pixels: Tensor) -> Any:
        return self.maps(pixels)


class Face(Hand):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 71, 8, stride=8)

    def forward(self, pixels: Tensor) -> Any:
        return [self.maps(pixels)]


class Boxes:
    """What YOLOX says of a picture: two boxes of people and two of cats, where its brightness wants them."""

    size = 64, 64

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        raw = np.full((1, 84, 85), -20.0, np.float32)
        raw[0, :, 4] = 0
        for cell, kind in ((9, 0), (30, 0), (12, 15), (40, 15)):
            raw[0, cell, :4] = batch[0, 0, 8:16, 8:16].mean() / 60, 0, 1.2, 1.2
            raw[0, cell, [4, 5 + kind]] = 1
        return [raw]


class Bins:
    """Points of a box, where its rows and columns are brightest."""

    size = 64, 48

    def __init__(self, points: int) -> None:
        self.points = points

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        across, down = 1 + abs(batch.mean(axis=(1, 2))), 1 + abs(batch.mean(axis=(1, 3)))
        bins = [np.repeat(each, 2, axis=1)[:, None] for each in (across, down)]
        return [np.stack([np.roll(each[:, 0], 7 * point, 1) for point in range(self.points)], 1) for each in bins]


class Detector(Tiny):
    """RT-DETR: three boxes."""

    def forward(self, pixels: Tensor) -> Any:
        logits = torch.tensor([[[2.0, 0.0], [3.0, 0.0], [-5.0, 0.0]]]).repeat(len(pixels), 1, 1)
        boxes = torch.tensor([[[0.3, 0.5, 0.5, 0.8], [0.7, 0.5, 0.4, 0.9], [0.5, 0.5, 0.1, 0.1]]])
        return SimpleNamespace(logits=logits, pred_boxes=boxes * (0.9 + 0.1 * pixels.mean()))


class Heat(Tiny):
    """ViTPose: maps at a quarter of the crop."""

    config = SimpleNamespace(backbone_config=SimpleNamespace(image_size=(64, 48)))

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 17, 4, stride=4)

    def forward(self, pixels: Tensor) -> Any:
        return SimpleNamespace(heatmaps=torch.sigmoid(self.maps(pixels)))


TINY |= {
    "openpose": (Body,),
    "openpose_hand": (Body, Hand),
    "openpose_face": (Body, Face),
    "openpose_faceonly": (Body, Face),
    "openpose_full": (Body, Hand, Face),
    "dw_openpose_full": (Boxes, partial(Bins, 133)),
    "rtmpose": (Boxes, partial(Bins, 26)),
    "animal_openpose": (Boxes, partial(Bins, 17)),
    "vitpose": (Detector, Heat),
}


class Mesh:
    """A face whose points lie on a spiral, as large as the picture is bright."""

    def __call__(self, image: np.ndarray, faces: int, confidence: float) -> list[np.ndarray]:
        turn = np.linspace(0, 20, 478)
        radius = (0.42 + 0.03 * image[:8, :8].mean() / 255 * (2 - confidence)) * np.linspace(0.2, 1, 478)
        face = 0.5 + np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
        return [face, face * 0.9][:faces]


TINY["mediapipe_face"] = (Mesh,)


@stands_for("seg_ofade20k", "seg_ofcoco", "seg_m2fade20k")
class Queries(Tiny):
    """A class and a mask for each of many queries."""

    planes = 20
    config = SimpleNamespace(task_seq_len=77)

    def forward(self, pixels: Tensor, _task: Tensor | None = None) -> Any:
        masks = self.layer(nn.functional.avg_pool2d(pixels, 4))
        chosen = torch.eye(134)[None, :20].repeat(len(pixels), 1, 1) * 9
        return SimpleNamespace(class_queries_logits=chosen, masks_queries_logits=masks * 5)


@stands_for("seg_sam2")
class Masks(Tiny):
    config = SimpleNamespace(prompt_encoder_config=SimpleNamespace(image_size=64))

    def get_image_embeddings(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels)

    def forward(self, *, image_embeddings: Tensor, input_points: Tensor, **_others: Any) -> Any:
        """Disks around the points, of sizes that follow the picture."""
        rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        x, y = input_points[0, :, 0].T / 4
        apart = torch.hypot(rows - y[:, None, None], columns - x[:, None, None])
        sizes = torch.tensor([1.5, 3.0, 6.0]) + image_embeddings.mean()
        masks = 40 * (sizes[None, :, None, None] - apart[:, None])
        scores = torch.linspace(0.7, 1, len(masks))[:, None].expand(-1, 3)
        return SimpleNamespace(pred_masks=masks[None], iou_scores=scores[None])


@stands_for("seg_anime_face")
class Parts(Tiny):
    planes = 7


@stands_for("inpaint_only+lama")
class Filling(Tiny):
    channels, planes = 4, 3

    def forward(self, pixels: Tensor, hole: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(torch.cat([pixels, hole], dim=1)))


def marigold() -> nn.Module:
    """A small U-Net and autoencoder of diffusers', whose pipeline asks them."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    unet.register_buffer("empty", torch.zeros(1, 2, 16))
    unet.scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    return nn.ModuleDict({"unet": unet, "vae": vae}).eval().requires_grad_(False)


TINY |= {"depth_marigold": (marigold,), "normal_marigold": (marigold,)}


def tiny(name: str, network: Any = None) -> Preprocessor:
    """The preprocessor on small networks, without files and packages; `network` takes the place of the first."""
    preprocessor = find(name)
    made = [make() for make in TINY[name]]
    if network is not None:
        made[0] = network
    small = [Network(id=f"tiny {id(each)}", files=(), load=partial(_same, each)) for each in made]
    return replace(preprocessor, networks=tuple(small))


def _same(network: object) -> object:
    return network


def call(preprocessor: Preprocessor, image: np.ndarray, runtime: Runtime | None, **settings: Any) -> np.ndarray:
    """With a mask where one is needed: a rectangle in the middle."""
    if preprocessor.takes_mask:
        height, width = image.shape[-3:-1]
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 4 * 3 + 1, width // 4 : width // 4 * 3 + 1] = 255
        settings = {"mask": mask, **settings}
    return preprocessor(image, runtime=runtime, **settings)


def channels(preprocessor: Preprocessor) -> int:
    return 4 if preprocessor.output is Output.MASKED else 3


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)[:height, :width])


def test_every_network_has_a_small_one() -> None:
    """A preprocessor that is added to the registry must be added above."""
    assert {each.id for each in REGISTRY if each.networks} == {*TINY, *ELSEWHERE}


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in TINY for size in (SIZES[2:] if name in SLOW else SIZES)]
)
def test_hints_have_the_size_and_kind_that_is_declared(
    name: str, size: tuple[int, int], networks: Any, tmp_path: Path
) -> None:
    """controlnet-aux rounds to multiples of 64, which changes the aspect by up to 3 %."""
    preprocessor = tiny(name)
    hint = call(preprocessor, picture(*size), networks.runtime(tmp_path))
    assert hint.shape == (*size, channels(preprocessor))
    assert hint.dtype == np.uint8
    if preprocessor.output in (Output.GRAY, Output.BINARY):
        assert (hint == hint[..., :1]).all()
    if preprocessor.output is Output.BINARY:
        assert set(np.unique(hint)) <= {0, 255}


@pytest.mark.parametrize("name", TINY)
def test_the_short_side_becomes_the_resolution(name: str, networks: Any, tmp_path: Path) -> None:
    preprocessor = tiny(name)
    hint = call(preprocessor, picture(48, 64), networks.runtime(tmp_path), resolution=72)
    assert hint.shape == ((72, 96) if preprocessor.resizes else (48, 64)) + (channels(preprocessor),)


@pytest.mark.parametrize("name", TINY)
def test_a_batch_is_what_its_pictures_are(name: str, networks: Any, tmp_path: Path) -> None:
    ready = networks.runtime(tmp_path)
    batch = np.stack([picture(80, 90, seed) for seed in range(3)])
    preprocessor = tiny(name)
    hints = call(preprocessor, batch, ready)
    ready.cache.clear()
    for image, hint in zip(batch, hints, strict=True):
        alone = call(preprocessor, image, ready).astype(int)
        assert (np.abs(alone - hint) <= 1).mean() > 0.999
    assert not np.array_equal(hints[0], hints[1])


@pytest.mark.parametrize("name", TINY)
def test_cold_and_warm_are_the_same(name: str, networks: Any, tmp_path: Path) -> None:
    """The memory of hints, the one of networks, and the state of random numbers change nothing."""
    ready, preprocessor, image = networks.runtime(tmp_path), tiny(name), picture(72, 80)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    cold = call(preprocessor, image, ready)
    assert torch.equal(before, torch.get_rng_state())
    warm = call(preprocessor, image, ready)
    assert ready.cache.hits == 1
    torch.manual_seed(2)
    ready.cache.clear()
    assert np.array_equal(cold, warm)
    assert np.array_equal(cold, call(preprocessor, image, ready))
    assert np.array_equal(cold, call(tiny(name), image, networks.runtime(tmp_path)))


@pytest.mark.parametrize("name", [name for name in TINY if not find(name).deterministic])
def test_the_seed_matters_where_it_is_declared_to(name: str, networks: Any, tmp_path: Path) -> None:
    ready, preprocessor, image = networks.runtime(tmp_path), tiny(name), picture(72, 80)
    zero, one = (call(preprocessor, image, ready, seed=seed) for seed in (0, 1))
    assert not np.array_equal(zero, one)
    assert np.array_equal(zero, call(preprocessor, image, ready))


PARAMETERS = [(each.id, parameter) for each in REGISTRY if each.networks for parameter in each.parameters]
each_parameter = pytest.mark.parametrize(
    ("name", "parameter"), PARAMETERS, ids=[f"{name} {parameter.name}" for name, parameter in PARAMETERS]
)


@each_parameter
def test_both_ends_of_a_range_work(name: str, parameter: Parameter, networks: Any, tmp_path: Path) -> None:
    assert parameter.minimum <= parameter.default <= parameter.maximum
    assert parameter.step > 0
    if name in ELSEWHERE:
        return
    preprocessor, ready = tiny(name), networks.runtime(tmp_path)
    most = min(parameter.maximum, 3) if parameter.name in ("steps", "ensemble") else parameter.maximum  # of time
    for value in (parameter.minimum, most):
        settings: dict[str, Any] = {parameter.name: value}
        assert call(preprocessor, picture(72, 80), ready, **settings).shape == (72, 80, channels(preprocessor))


@each_parameter
@pytest.mark.parametrize("bad", ["below", "above", float("nan"), float("inf"), "3", None, True, [1]])
def test_bad_values_name_the_range(name: str, parameter: Parameter, bad: object, networks: Any, tmp_path: Path) -> None:
    """Before anything is loaded: no weights are there."""
    value = {"below": parameter.minimum - 1, "above": parameter.maximum + 1}.get(bad) if isinstance(bad, str) else bad
    settings: dict[str, Any] = {parameter.name: bad if value is None else value}
    with pytest.raises(PreprocessorError) as caught:
        call(find(name), picture(33, 7), networks.runtime(tmp_path), **settings)
    for part in (name, parameter.name, f"{parameter.minimum:g} to {parameter.maximum:g}"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", TINY)
def test_an_interrupt_leaves_nothing(name: str, networks: Any, tmp_path: Path) -> None:
    """No hint in the memory, no network that counts as used; the next call is as if nothing had been."""

    class Stopped(BaseException):
        pass

    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:  # before it begins, before the first picture, before the second
            raise Stopped

    plain = networks.runtime(tmp_path)
    ready = replace(plain, check_interrupt=check, pool=Pool(Tight("cpu")))
    preprocessor, batch = tiny(name), np.stack([picture(72, 80, seed) for seed in range(2)])
    with pytest.raises(Stopped):
        call(preprocessor, batch, ready)
    assert ready.cache.bytes == 0
    ready.pool.unload()
    assert ready.pool.names == ()
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(call(preprocessor, batch, ready), call(preprocessor, batch, plain))


class Tight(PlainManager):
    """Memory for one picture at a time."""

    def free_memory(self) -> int:
        return 1


class Position(nn.Module):
    """Says how far right a pixel is, however wide the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.arange(pixels.shape[3]).float().expand(len(pixels), 1, *pixels.shape[2:]) + self.anywhere

    infer = forward


class FlatPosition(Position):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels)[:, 0]


@pytest.mark.parametrize("name", ["depth_midas", "depth_leres"])
def test_padding_does_not_enter_the_range(name: str, networks: Any, tmp_path: Path) -> None:
    """The extremes lie in the picture, not in the columns that were added to fill a cell."""
    network = FlatPosition() if name == "depth_midas" else Position()
    hint = tiny(name, network)(picture(20, 70), runtime=networks.runtime(tmp_path))[0, :, 0]
    first, last = (hint[0], hint[-1]) if name == "depth_midas" else (hint[-1], hint[0])
    assert (first, last) == (0, 255)


class Broken(nn.Module):
    """Fails as a network without memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))

    size = 64, 64

    def forward(self, *_given: Any, **_named: Any) -> Tensor:
        raise RuntimeError("out of memory")

    infer = forward


@pytest.mark.parametrize("name", TINY)
def test_a_failure_is_an_error_and_no_black_hint(name: str, networks: Any, tmp_path: Path) -> None:
    """M-LSD of other programs catches everything and shows black."""
    ready = networks.runtime(tmp_path)
    broken = Broken()
    broken.config = getattr(TINY[name][0], "config", None)
    broken.get_image_embeddings = broken.forward
    parts = nn.ModuleDict({"unet": marigold()["unet"], "vae": broken}) if "marigold" in name else broken
    diffusers_first = "marigold" in name  # it asks for attributes before it computes
    with pytest.raises((RuntimeError, AttributeError), match=None if diffusers_first else "out of memory"):
        call(tiny(name, parts), picture(32, 32), ready)
    assert call(tiny(name), picture(32, 32), ready).shape[:2] == (32, 32)


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
    preprocessor = find("mlsd")
    bare = replace(preprocessor, networks=tuple(replace(each, packages=()) for each in preprocessor.networks))
    with pytest.raises(PreprocessorError) as error:
        bare(picture(8, 8), runtime=networks.runtime(tmp_path))
    for part in ("mlsd_large_512_fp32.pth", "6,341,481 bytes", "5696f168eb2c30d4", str(tmp_path), "huggingface.co"):
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
        (None, r"another version than 0\.0\.10"),
        ("import nothing_like_it", r"nothing_like_it.*install\.py"),
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
