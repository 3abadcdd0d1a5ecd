"""Every network at its published size, with random weights where none ship: stored, loaded and run.

    python -m pytest -m full_size tests/preprocessors/test_full_size_networks.py

The number of parameters tells that the sizes are the published ones (papers, model cards and sizes of files, in
millions). ONNX files are graphs of our own with the inputs and outputs of the published ones. No environment needs to
have all packages: what is greyed out is skipped, with the reason that users read. Depth Pro takes three minutes on one
core, since it looks at 35 windows of any picture, and 7 GB of memory; the others take seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.preprocessors import Output, Preprocessor, find
from controlstack.preprocessors.lines.manga import MangaLines
from controlstack.preprocessors.networks.loading import _without_chance
from controlstack.preprocessors.networks.network import Network, missing_packages
from controlstack.preprocessors.networks.peers import peer
from controlstack.preprocessors.networks.weights import OPENPOSE_BODY, OPENPOSE_FACE, OPENPOSE_HAND
from controlstack.preprocessors.regions.anime_face_network import FaceParts
from controlstack.preprocessors.regions.mobile_sam import build as mobile_sam
from controlstack.preprocessors.registry import REGISTRY
from controlstack.preprocessors.surfaces.depth import _build_zoe
from controlstack.preprocessors.surfaces.normals import BAE
from torch import nn

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ImportWarning"
)
NOISE = 2**20  # random numbers that are drawn; large networks repeat them, since drawing all would take minutes
HALF = 300  # millions of parameters from which files hold half precision, as the published ones do


def swin(**sizes: Any) -> Any:
    out = ["stage1", "stage2", "stage3", "stage4"]
    return library().SwinConfig(depths=[2, 2, 18, 2], image_size=384, out_features=out, **sizes)


def library() -> Any:
    return pytest.importorskip("transformers")


def oneformer(labels: int, queries: int) -> nn.Module:
    large = swin(embed_dim=192, num_heads=[6, 12, 24, 48], window_size=12)
    config = library().OneFormerConfig(
        backbone_config=large, num_labels=labels, num_queries=queries, is_training=False, encoder_feedforward_dim=1024
    )
    return library().OneFormerForUniversalSegmentation(config)


def mask2former() -> nn.Module:
    small = swin(embed_dim=96, num_heads=[3, 6, 12, 24], window_size=7)
    return library().Mask2FormerForUniversalSegmentation(
        library().Mask2FormerConfig(backbone_config=small, num_labels=150)
    )


def depth_anything(width: int, heads: int, layers: int, read: list[int], neck: list[int], fusion: int) -> nn.Module:
    backbone = library().Dinov2Config(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers, image_size=518, patch_size=14,
        out_indices=read, reshape_hidden_states=False,
    )  # fmt: skip
    return library().DepthAnythingForDepthEstimation(
        library().DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=width, neck_hidden_sizes=neck, fusion_hidden_size=fusion
        )
    )


def depth_pro() -> nn.Module:
    large = {"model_type": "dinov2", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24,
             "image_size": 384, "patch_size": 16}  # fmt: skip
    config = library().DepthProConfig(
        image_model_config=large, patch_model_config=large, fov_model_config=large, use_fov_model=True
    )
    return library().DepthProForDepthEstimation(config)


def detector() -> nn.Module:
    return library().RTDetrForObjectDetection(library().RTDetrConfig())


def vitpose() -> nn.Module:
    backbone = library().VitPoseBackboneConfig(out_indices=[12])
    config = library().VitPoseConfig(backbone_config=backbone, use_simple_decoder=True, num_labels=17)
    return library().VitPoseForPoseEstimation(config)


def sam2() -> nn.Module:
    return library().Sam2Model(library().Sam2Config())


def drawing() -> nn.Module:
    """The U-Net of Stable Diffusion 2, which also sees the picture."""
    return pytest.importorskip("diffusers").UNet2DConditionModel(
        in_channels=8, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )


def coding() -> nn.Module:
    widths = (128, 256, 512, 512)
    return pytest.importorskip("diffusers").AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths, layers_per_block=2, latent_channels=4, sample_size=768,
    )  # fmt: skip


def reading() -> nn.Module:
    config = library().CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu",
        projection_dim=512,
    )  # fmt: skip
    return library().CLIPTextModel(config)


def bae() -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):
        return peer("normalbae.nets.NNET").NNET(BAE)


def anime() -> nn.Module:
    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return peer("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm)


def lama() -> nn.Module:
    from spandrel.architectures.LaMa import LaMa

    return LaMa(in_nc=4, out_nc=3)


Build = Callable[[], nn.Module]
Store = Callable[[Network, Path], None]


def hub(build: Build, millions: float, doubt: float = 0.0) -> Store:
    """A configuration and a file of tensors, as transformers keeps them; or the tensors alone, if no more is read.

    `doubt` is the bias of classes: random detectors would see hundreds of people.
    """

    def store(network: Network, folder: Path) -> None:
        made = filled(build, millions)
        for name, tensor in made.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                tensor.data.sub_(doubt)
        path = folder / network.files[-1].name
        path.parent.mkdir(parents=True)
        if len(network.files) == 2:
            made.config.save_pretrained(path.parent)
        save(made, path)

    return store


def marigold(network: Network, folder: Path) -> None:
    """Seven files: a scheduler, and configuration and tensors of three networks."""
    paths = [folder / file.name for file in network.files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    steps = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    paths[0].write_text(json.dumps(steps))
    for number, (build, millions) in enumerate(((reading, 340.4), (drawing, 865.9), (coding, 83.7))):
        made = filled(build, millions)
        made.config.save_pretrained(paths[2 * number + 1].parent) if number == 0 else made.save_config(
            paths[2 * number + 1].parent
        )
        save(made, paths[2 * number + 2])


def tensors(build: Build, millions: float, layout: Callable[[dict[str, Any]], Any] = dict) -> Store:
    """One file of tensors."""

    def store(network: Network, folder: Path) -> None:
        torch.save(layout(state_of(filled(build, millions))), folder / network.files[0].name)

    return store


def graph(points: int, size: tuple[int, int]) -> Store:
    """An ONNX file that reads a batch of pictures of a size and says at which of two bins for a pixel points are."""

    def store(network: Network, folder: Path) -> None:
        helper = pytest.importorskip("onnx").helper
        rows, columns = size
        cells = rows // 32 * (columns // 32)
        nodes = [
            helper.make_node("Conv", ["input", "look"], ["seen"], strides=[32, 32]),
            helper.make_node("Reshape", ["seen", "flat"], ["cells"]),
            helper.make_node("MatMul", ["cells", "columns"], ["across"]),
            helper.make_node("MatMul", ["cells", "rows"], ["down"]),
            helper.make_node("Sigmoid", ["across"], ["simcc_x"]),
            helper.make_node("Sigmoid", ["down"], ["simcc_y"]),
        ]
        constants = {
            "look": noise(points, 3, 32, 32), "flat": np.array([0, 0, -1]), "columns": noise(cells, 2 * columns),
            "rows": noise(cells, 2 * rows),
        }  # fmt: skip
        outputs = {"simcc_x": ["batch", points, 2 * columns], "simcc_y": ["batch", points, 2 * rows]}
        save_graph(folder / network.files[0].name, nodes, constants, ("input", ["batch", 3, *size]), outputs)

    return store


def yolox(network: Network, folder: Path) -> None:
    """640 x 640 pixels, and 85 numbers for each cell of three grids."""
    helper = pytest.importorskip("onnx").helper
    nodes = []
    for stride in (8, 16, 32):
        nodes += [
            helper.make_node("Conv", ["images", f"look{stride}"], [f"seen{stride}"], strides=[stride, stride]),
            helper.make_node("Reshape", [f"seen{stride}", "flat"], [f"cells{stride}"]),
        ]
    nodes += [
        helper.make_node("Concat", ["cells8", "cells16", "cells32"], ["all"], axis=2),
        helper.make_node("Transpose", ["all"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Split", ["rows", "parts"], ["places", "logits"], axis=2),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["places", "scores"], ["output"], axis=2),
    ]
    looks = {f"look{stride}": noise(85, 3, stride, stride) / 60 for stride in (8, 16, 32)}
    constants = {**looks, "flat": np.array([0, 85, -1]), "parts": np.array([4, 81])}
    path = folder / network.files[0].name
    save_graph(path, nodes, constants, ("images", [1, 3, 640, 640]), {"output": [1, 8400, 85]})


def shipped(network: Network, folder: Path) -> None:
    """Versions of mediapipe up to 0.10.21 bring their network; it is found there."""
    pytest.importorskip("mediapipe.modules", reason="needs mediapipe up to 0.10.21, which brings its network")


HED = tensors(lambda: peer("hed").ControlNetHED_Apache2(), 14.7)
PIDINET = tensors(lambda: peer("pidi.model").pidinet(), 0.71)
TEED = tensors(lambda: peer("teed.ted").TED(), 0.059)
LINEART = tensors(lambda: peer("lineart").Generator(3, 1, 3), 4.29)
MIDAS = tensors(lambda: peer("midas.midas.dpt_depth").DPTDepthModel(path=None, backbone="vitb_rn50_384"), 123.1)
BODY = tensors(lambda: peer("open_pose.model").bodypose_model(), OPENPOSE_BODY.bytes / 4e6)
HAND = tensors(lambda: peer("open_pose.model").handpose_model(), OPENPOSE_HAND.bytes / 4e6)
FACE = tensors(lambda: peer("open_pose.face").FaceNet(), OPENPOSE_FACE.bytes / 4e6)
SMALL = hub(lambda: depth_anything(384, 6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64), 24.8)
BASE = hub(lambda: depth_anything(768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128), 97.5)
LARGE = hub(lambda: depth_anything(1024, 16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256), 335.3)
NETWORKS: dict[str, tuple[Store, ...]] = {
    "softedge_hed": (HED,),
    "softedge_hedsafe": (HED,),
    "scribble_hed": (HED,),
    "softedge_teed": (TEED,),
    "softedge_anyline": (TEED,),
    "softedge_pidinet": (PIDINET,),
    "softedge_pidisafe": (PIDINET,),
    "scribble_pidinet": (PIDINET,),
    "t2ia_sketch_pidi": (PIDINET,),
    "lineart_realistic": (LINEART,),
    "lineart_coarse": (LINEART,),
    "lineart_anime": (tensors(anime, 54.4),),
    "lineart_anime_denoise": (tensors(MangaLines, 43.1),),
    "mlsd": (tensors(lambda: peer("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large(), 1.54),),
    "depth_anything_v2": (SMALL,),
    "depth_anything_v2_base": (BASE,),
    "depth_anything_v2_large": (LARGE,),
    "depth_anything": (SMALL,),
    "depth_anything_base": (BASE,),
    "depth_anything_large": (LARGE,),
    "depth_pro": (hub(depth_pro, 951.9),),
    "depth_marigold": (marigold,),
    "normal_marigold": (marigold,),
    "depth_midas": (MIDAS,),
    "normal_midas": (MIDAS,),
    "depth_zoe": (tensors(_build_zoe, 345.0),),
    "depth_leres": (
        tensors(lambda: peer("leres.leres.multi_depth_model_woauxi").RelDepthModel(backbone="resnext101"), 115.4),
    ),
    "normal_bae": (tensors(bae, 72.0),),
    "dw_openpose_full": (yolox, graph(133, (384, 288))),
    "animal_openpose": (yolox, graph(17, (256, 256))),
    "rtmpose": (yolox, graph(26, (256, 192))),
    "vitpose": (hub(detector, 42.9, doubt=5), hub(vitpose, 86.0)),
    "openpose_mediapipe": (shipped,),
    "openpose": (BODY,),
    "openpose_hand": (BODY, HAND),
    "openpose_face": (BODY, FACE),
    "openpose_faceonly": (BODY, FACE),
    "openpose_full": (BODY, HAND, FACE),
    "mediapipe_face": (shipped,),
    "seg_ofade20k": (hub(lambda: oneformer(150, 250), 219.0),),
    "seg_ofcoco": (hub(lambda: oneformer(133, 150), 219.0),),
    "seg_m2fade20k": (hub(mask2former, 69.0),),
    "seg_sam2": (hub(sam2, 31.4),),  # 38.9 with what videos need
    "mobile_sam": (tensors(mobile_sam, 10.1),),
    "seg_anime_face": (tensors(FaceParts, 1.55),),
    "inpaint_only+lama": (tensors(lama, 51.1),),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "seg_sam2": {"points": 2},
    "mobile_sam": {"points": 2},
    "depth_marigold": {"steps": 1},
    "normal_marigold": {"steps": 1},
}
ELSEWHERE = {"instant_id_face_keypoints"}  # InsightFace's files are ONNX, which encoders/test_faces.py makes small
UNSURE = (  # untrained networks may show nothing, or one class everywhere; the face is small here
    "seg_sam2", "mobile_sam", "seg_ofade20k", "mediapipe_face",
)  # fmt: skip


def test_none_is_left_out() -> None:
    pictures = {each.id for each in REGISTRY if each.networks and each.output is not Output.EMBEDDING}
    assert pictures == {*NETWORKS, *ELSEWHERE}


@pytest.mark.full_size
@pytest.mark.parametrize("name", NETWORKS)
def test_it_runs_at_its_published_size(
    name: str, networks: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "full_size" not in request.config.option.markexpr:
        pytest.skip("full-size networks are only made with -m full_size: up to 3 GB on the disk, 7 GB of memory")
    preprocessor = networks.unsigned(find(name))
    if reason := missing_packages(preprocessor.networks):
        pytest.skip(reason)
    for network, store in zip(preprocessor.networks, NETWORKS[name], strict=True):
        store(network, tmp_path)
    hint = made(preprocessor, networks, tmp_path)
    channels = 4 if preprocessor.output is Output.MASKED else 3
    assert (hint.shape[2], hint.dtype) == (channels, np.uint8)
    if not preprocessor.finds_poses and name not in UNSURE:
        assert len(np.unique(hint)) > 1


def made(preprocessor: Preprocessor, networks: Any, folder: Path) -> np.ndarray:
    image = networks.photo(96, 128)
    mask = {"mask": cv2.inRange(image[..., 0], 0, 127)} if preprocessor.takes_mask else {}
    try:
        return preprocessor(image, runtime=networks.runtime(folder), **mask, **OPTIONS.get(preprocessor.id, {}))
    finally:
        for path in folder.rglob("*"):  # they would fill the disk
            if path.is_file():
                path.unlink()


def filled(build: Build, millions: float) -> nn.Module:
    """A network of random weights that keep the size of what flows through."""
    with _without_chance():
        network = build()
    count = sum(each.numel() for each in network.parameters()) / 10**6
    assert count == pytest.approx(millions, rel=0.03)
    drawn = torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        statistics = (pair for pair in network.named_buffers() if pair[0].endswith(("running_mean", "running_var")))
        for name, tensor in (*network.named_parameters(), *statistics):
            fill(name, tensor, drawn)
    return network.half() if count > HALF else network


def fill(name: str, tensor: torch.Tensor, drawn: torch.Tensor) -> None:
    repeated = drawn.repeat(-(-tensor.numel() // NOISE))[: tensor.numel()].view(tensor.shape)
    if name.endswith("running_var"):
        tensor.copy_(repeated.abs() + 0.5)
    elif tensor.dim() > 1:
        tensor.copy_(repeated * (1.5 / tensor[0].numel()) ** 0.5)
    else:
        tensor.copy_(repeated * 0.05 + (1.0 if name.endswith(("weight", "lambda1")) else 0.0))


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.contiguous() for key, tensor in network.state_dict().items()}


def save(network: nn.Module, path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(state_of(network), path)
    else:
        network.save_pretrained(path.parent, max_shard_size="100GB")
        for written in path.parent.glob("*.safetensors"):
            written.rename(path)


def noise(*shape: int) -> np.ndarray:
    """For a product over all axes but the first or, with two axes, over the first."""
    inputs = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
    return (np.random.default_rng(0).normal(0, 2 / inputs**0.5, shape)).astype(np.float32)


def save_graph(
    path: Path, nodes: list[Any], constants: dict[str, Any], given: tuple[str, list[Any]], outputs: dict[str, list[Any]]
) -> None:
    onnx = pytest.importorskip("onnx")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "random", [onnx.helper.make_tensor_value_info(given[0], kind, given[1])],
        [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
