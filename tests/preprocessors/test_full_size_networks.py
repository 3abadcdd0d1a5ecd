"""Networks that no package ships, made at their published sizes with random weights, stored, loaded and run.

    python -m pytest -m full_size tests/preprocessors/test_full_size_networks.py

The number of parameters tells that the sizes are the published ones (papers and model cards, in millions). Depth Pro
and Marigold are left out: they need many minutes and more memory than most machines have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.preprocessors import find
from controlstack.preprocessors.networks.network import Network
from torch import nn

transformers = pytest.importorskip("transformers", reason="needs transformers")
pytestmark = pytest.mark.full_size


@pytest.fixture(autouse=True)
def asked_for(request: pytest.FixtureRequest) -> None:
    if "full_size" not in request.config.option.markexpr:
        pytest.skip("full-size networks are only made with -m full_size: up to 3 GB on the disk, 5 GB of memory")


def swin(**sizes: Any) -> Any:
    out = ["stage1", "stage2", "stage3", "stage4"]
    return transformers.SwinConfig(depths=[2, 2, 18, 2], image_size=384, out_features=out, **sizes)


def oneformer(labels: int, queries: int) -> nn.Module:
    large = swin(embed_dim=192, num_heads=[6, 12, 24, 48], window_size=12)
    config = transformers.OneFormerConfig(
        backbone_config=large, num_labels=labels, num_queries=queries, is_training=False, encoder_feedforward_dim=1024
    )
    return transformers.OneFormerForUniversalSegmentation(config)


def mask2former() -> nn.Module:
    small = swin(embed_dim=96, num_heads=[3, 6, 12, 24], window_size=7)
    return transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(backbone_config=small, num_labels=150)
    )


def depth_anything(width: int, heads: int, layers: int, read: list[int], neck: list[int], fusion: int) -> nn.Module:
    backbone = transformers.Dinov2Config(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers, image_size=518, patch_size=14,
        out_indices=read, reshape_hidden_states=False,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=width, neck_hidden_sizes=neck, fusion_hidden_size=fusion
        )
    )


def vitpose() -> nn.Module:
    backbone = transformers.VitPoseBackboneConfig(out_indices=[12])
    config = transformers.VitPoseConfig(backbone_config=backbone, use_simple_decoder=True, num_labels=17)
    return transformers.VitPoseForPoseEstimation(config)


SMALL = (384, 6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64)
BASE = (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128)
LARGE = (1024, 16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256)
NETWORKS: dict[str, tuple[tuple[Callable[[], nn.Module], float], ...]] = {
    "depth_anything_v2": ((lambda: depth_anything(*SMALL), 24.8),),
    "depth_anything_v2_base": ((lambda: depth_anything(*BASE), 97.5),),
    "depth_anything_v2_large": ((lambda: depth_anything(*LARGE), 335.3),),
    "vitpose": (
        (lambda: transformers.RTDetrForObjectDetection(transformers.RTDetrConfig()), 42.9),
        (vitpose, 86.0),
    ),
    "seg_m2fade20k": ((mask2former, 69.0),),
    "seg_ofade20k": ((lambda: oneformer(150, 250), 219.0),),
    "seg_ofcoco": ((lambda: oneformer(133, 150), 219.0),),
    "seg_sam2": ((lambda: transformers.Sam2Model(transformers.Sam2Config()), 31.4),),  # 38.9 with what videos need
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_runs_at_its_published_size(name: str, networks: Any, tmp_path: Path) -> None:
    preprocessor = networks.unsigned(find(name))
    for network, (build, millions) in zip(preprocessor.networks, NETWORKS[name], strict=True):
        store(network, build, millions, tmp_path)
    options = {"points": 2} if name == "seg_sam2" else {}
    image = networks.photo(96, 128)
    hint = preprocessor(image, runtime=networks.runtime(tmp_path), **options)
    assert hint.shape == (96, 128, 3)
    assert hint.dtype == np.uint8


def store(network: Network, build: Callable[[], nn.Module], millions: float, folder: Path) -> None:
    torch.manual_seed(0)
    made = build()
    count = sum(each.numel() for each in made.parameters()) / 10**6
    assert count == pytest.approx(millions, rel=0.03)
    target = folder / Path(network.files[-1].name).parent
    target.mkdir(parents=True, exist_ok=True)
    if len(network.files) == 2:
        made.config.save_pretrained(target)
    path = folder / network.files[-1].name
    if path.suffix == ".bin":
        torch.save(made.state_dict(), path)
    else:
        made.save_pretrained(target, max_shard_size="100GB")
