"""Depth Anything: relative depth, fine and fast, on every host; near is white.

It is the first choice for depth, and hosts have versions of transformers from before it, so the network is our own; it
needs PyTorch alone. Sizes are read from a file's shapes. Files of the authors and of transformers are understood.
Sources: Yang et al., Depth Anything, and Depth Anything V2, 2024; Oquab et al., DINOv2, 2023, the encoder; Ranftl et
al., Vision transformers for dense prediction, 2021, the decoder.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares some functions incompletely; what they return is declared here instead.

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import DamagedModelError
from ..declaration import Output
from ..networks.loading import fill, read_state, to_array
from ..networks.network import Network, WeightFile
from ..networks.pretrained import normalised
from ..networks.weights import HUB
from ..perform import Preprocessor
from .depth import to_levels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..resize import Image

PATCH = 14  # pixels of a patch of DINOv2
LARGEST = 74 * PATCH  # short side in pixels up to which it looks; it was trained at 37 patches, and attention is square
SPREAD = {12: (3, 6, 9, 12), 24: (5, 12, 18, 24)}  # layers that version 2 reads, by how many there are
MEGABYTES = {"small": 99, "base": 390, "large": 1340}  # of a file, about
APACHE, NOT_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0: not for commercial use"
UNUSED = re.compile(r"mask_token$")  # of training
QUERY = re.compile(r"\.attention\.attention\.(query|key|value)\.")  # three layers of transformers are one of ours
NAMES = (  # of transformers, then of the authors -> ours
    (r"^backbone\.embeddings\.cls_token", "cls"),
    (r"^backbone\.embeddings\.position_embeddings", "positions"),
    (r"^backbone\.embeddings\.patch_embeddings\.projection", "patch"),
    (r"^backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense", r"blocks.\1.out"),
    (r"^backbone\.encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.scale\2"),
    (r"^backbone\.encoder\.layer\.(\d+)\.(mlp\.)?", r"blocks.\1."),
    (r"^backbone\.layernorm", "norm"),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.projection", r"project.\1"),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.resize", r"resize.\1"),
    (r"^neck\.convs", "reduce"),
    (r"^neck\.fusion_stage\.layers\.(\d)\.projection", r"fuse.\1.out"),
    (r"^neck\.fusion_stage\.layers\.(\d)\.residual_layer(\d)\.convolution(\d)", r"fuse.\1.unit\2.conv\3"),
    (r"^pretrained\.cls_token", "cls"),
    (r"^pretrained\.pos_embed", "positions"),
    (r"^pretrained\.patch_embed\.proj", "patch"),
    (r"^pretrained\.blocks\.(\d+)\.attn\.proj", r"blocks.\1.out"),
    (r"^pretrained\.blocks\.(\d+)\.ls(\d)\.gamma", r"blocks.\1.scale\2"),
    (r"^pretrained\.blocks\.(\d+)\.(?:mlp\.|attn\.)?", r"blocks.\1."),
    (r"^pretrained\.norm", "norm"),
    (r"^depth_head\.projects", "project"),
    (r"^depth_head\.resize_layers", "resize"),
    (r"^depth_head\.scratch\.layer1_rn", "reduce.0"),
    (r"^depth_head\.scratch\.layer2_rn", "reduce.1"),
    (r"^depth_head\.scratch\.layer3_rn", "reduce.2"),
    (r"^depth_head\.scratch\.layer4_rn", "reduce.3"),
    (r"^depth_head\.scratch\.refinenet4", "fuse.0"),
    (r"^depth_head\.scratch\.refinenet3", "fuse.1"),
    (r"^depth_head\.scratch\.refinenet2", "fuse.2"),
    (r"^depth_head\.scratch\.refinenet1", "fuse.3"),
    (r"\.out_conv\.", ".out."),
    (r"\.resConfUnit(\d)\.", r".unit\1."),
    (r"^depth_head\.scratch\.output_conv1", "head.conv1"),
    (r"^depth_head\.scratch\.output_conv2\.0", "head.conv2"),
    (r"^depth_head\.scratch\.output_conv2\.2", "head.conv3"),
)


def depth_anything(images: Image, network: nn.Module) -> NDArray[np.float32]:
    """Return inverse depth [B, H, W], in no unit."""
    import torch
    from torch.nn import functional

    pixels = normalised(images, network)
    with torch.inference_mode():
        inverse = network(_patches(pixels))
        return to_array(functional.interpolate(inverse, pixels.shape[-2:], mode="bilinear", align_corners=False))[:, 0]


def load(path: Path, *, spread: bool) -> nn.Module:
    """Return a file's network. spread: it reads layers from all depths (version 2), else the last four (version 1)."""
    import torch

    state = _ours(read_state(path))
    if missing := {"cls", "patch.weight", "project.0.weight", "head.conv2.weight"} - state.keys():
        raise DamagedModelError(f"{path} holds no Depth Anything: it misses {', '.join(sorted(missing))}")
    from .depth_anything_network import DepthAnything

    layers = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    read = SPREAD.get(layers, tuple(layers * part // 4 for part in (1, 2, 3, 4)))
    if not spread:
        read = tuple(range(layers - 3, layers + 1))
    with torch.device("meta"):
        network = DepthAnything({key: tuple(each.shape) for key, each in state.items()}, layers, read)
    return fill(network, state, path)


def _patches(pixels: Tensor) -> Tensor:
    """Return pixels [B, 3, h, w] at a size of whole patches, and not more of them than the network can use."""
    from torch.nn import functional

    height, width = pixels.shape[-2:]
    scale = min(1.0, LARGEST / min(height, width))
    size = tuple(max(1, round(side * scale / PATCH)) * PATCH for side in (height, width))
    if size == (height, width):
        return pixels
    return functional.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)


def _ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors by our names."""
    import torch

    named: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if UNUSED.search(key):
            continue
        if found := QUERY.search(key):
            whole = _name(key[: found.start()] + ".qkv." + key[found.end() :])
            parts.setdefault(whole, {})[found.group(1)] = tensor
        else:
            named[_name(key)] = tensor
    for whole, three in parts.items():
        if len(three) == 3:
            named[whole] = torch.cat([three[part] for part in ("query", "key", "value")])
    return named


def _name(key: str) -> str:
    for pattern, replacement in NAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _entry(kind: str, title: str, doc: str, repository: str, licence: str, **more: Any) -> Preprocessor:
    file = WeightFile(
        name=f"{repository}/model.safetensors",
        addresses=(f"{HUB}/{repository}/resolve/main/model.safetensors",),
        licence=licence,
        bytes=more.get("bytes"),
        megabytes=more["megabytes"],
        sha256=more.get("sha256", ""),
        found_as=more["found_as"],
    )
    return Preprocessor(
        id=kind,
        title=title,
        doc=doc,
        run=depth_anything,
        finish=to_levels,
        output=Output.GRAY,
        polarity="near is white",
        control_types=("Depth",),
        networks=(Network(id=kind, files=(file,), load=partial(load, spread=more["spread"]), memory=3000),),
        batchable=True,
        pad=PATCH,
    )


def _first(size: str, letter: str, kind: str, doc: str, sha256: str = "") -> Preprocessor:
    """Return one of version 1; `found_as` is where sd-webui-controlnet and comfyui_controlnet_aux put the files."""
    file = f"depth_anything_vit{letter}14.pth"
    found = f"depth_anything/{file}", f"LiheYoung/Depth-Anything/checkpoints/{file}"
    repository = f"LiheYoung/depth-anything-{size}-hf"
    return _entry(
        kind, f"Depth Anything V1 ({size})", doc, repository, APACHE, spread=False, found_as=found,
        megabytes=MEGABYTES[size], sha256=sha256,
    )  # fmt: skip


def _second(size: str, letter: str, kind: str, doc: str, licence: str, **more: Any) -> Preprocessor:
    """Return one of version 2; likewise."""
    name, file = f"Depth-Anything-V2-{size.title()}", f"depth_anything_v2_vit{letter}.pth"
    found = f"depth_anything_v2/{file}", f"depth-anything/{name}/{file}"
    return _entry(
        kind, f"Depth Anything V2 ({size})", doc, f"depth-anything/{name}-hf", licence, spread=True, found_as=found,
        megabytes=MEGABYTES[size], **more,
    )  # fmt: skip


LARGER, LARGEST_DOC = "The same with four times the weights.", "The same with thirteen times the weights."

DEPTH_ANYTHING_V2 = _second(
    "small", "s", "depth_anything_v2", "Fine and fast relative depth; the first choice.", APACHE,
    bytes=99_173_660, sha256="3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
)  # fmt: skip
DEPTH_ANYTHING_V2_BASE = _second("base", "b", "depth_anything_v2_base", LARGER, NOT_COMMERCIAL)
DEPTH_ANYTHING_V2_LARGE = _second("large", "l", "depth_anything_v2_large", LARGEST_DOC, NOT_COMMERCIAL)
DEPTH_ANYTHING = _first(
    "small", "s", "depth_anything", "Relative depth by the first version, softer than the second.",
    sha256="7997c812d8964a741eec21e6816ec2db1e442b5109ea2e7db26dcb03c9060ef0",
)  # fmt: skip
DEPTH_ANYTHING_BASE = _first("base", "b", "depth_anything_base", LARGER)
DEPTH_ANYTHING_LARGE = _first(
    "large", "l", "depth_anything_large", LARGEST_DOC,
    sha256="bc27360a3e6906e5ddd8f618e2dcde11362327361918b8f76793e42e25de31b3",
)  # fmt: skip
