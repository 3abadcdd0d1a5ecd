"""Depth Anything, small and with random weights, against transformers' network on the same file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError, PreprocessorError
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.preprocessors.surfaces import depth_anything
from safetensors.torch import load_file, save_file
from skimage import data
from torch import nn

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "DepthAnythingForDepthEstimation"):
    pytest.skip("needs a transformers with Depth Anything, to compare with", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
READ = {"depth_anything": [5, 6, 7, 8], "depth_anything_v2": [2, 4, 6, 8]}  # of eight layers
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def photo(height: int, width: int) -> np.ndarray:
    return cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


def network(read: list[int]) -> nn.Module:
    backbone = transformers.Dinov2Config(
        hidden_size=128, num_hidden_layers=8, num_attention_heads=2, image_size=70, patch_size=14, out_indices=read,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=128, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=4, patch_size=14,
    )  # fmt: skip
    made = transformers.DepthAnythingForDepthEstimation(config)
    torch.manual_seed(0)
    for name, tensor in made.state_dict().items():
        if tensor.dim() > 1:
            tensor.normal_(0, (1.5 / max(1, tensor[0].numel())) ** 0.5)
        else:
            tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith(("weight", "lambda1")) else 0.0)
    return made.eval()


def prepared(name: str, folder: Path) -> tuple[Preprocessor, nn.Module, Runtime]:
    preprocessor = find(name)
    (each,) = preprocessor.networks
    file = replace(each.files[0], bytes=None, sha256="")
    made = network(READ[name])
    made.save_pretrained((folder / file.name).parent)
    runtime = Runtime(store=Store(folder, [folder / "peer"]), pool=Pool(PlainManager("cpu")))
    return replace(preprocessor, networks=(replace(each, files=(file,)),)), made, runtime


def theirs(made: Any, image: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(((image / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        return made(pixels).predicted_depth[0].numpy().astype(np.float64)


def levels(nearness: np.ndarray) -> np.ndarray:
    return (nearness - nearness.min()) / (nearness.max() - nearness.min()) * 255


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("size", [(70, 70), (70, 98), (28, 140)])
def test_hints_equal_those_of_transformers(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    preprocessor, made, runtime = prepared(name, tmp_path)
    image = photo(*size)
    hint = preprocessor(image, runtime=runtime)
    assert len(np.unique(hint)) > 100
    assert np.abs(hint[..., 0] - levels(theirs(made, image))).max() < 1
    assert {hint.min(), hint.max()} == {0, 255}


def test_any_size_and_batches_without_what_was_padded(tmp_path: Path) -> None:
    preprocessor, made, runtime = prepared("depth_anything_v2", tmp_path)
    image = photo(61, 75)
    padded = np.pad(image, ((0, 9), (0, 9), (0, 0)), mode="edge")
    expected = levels(theirs(made, padded)[:61, :75])
    assert np.abs(preprocessor(image, runtime=runtime)[..., 0] - expected).max() < 1
    assert preprocessor(image, resolution=40, runtime=runtime).shape == (40, 49, 3)
    runtime.cache.clear()
    both = preprocessor(np.stack([image, image[:, ::-1]]), runtime=runtime)
    assert np.abs(both[0, ..., 0] - expected).max() < 1


def test_large_pictures_are_looked_at_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessor, made, runtime = prepared("depth_anything_v2", tmp_path)
    smooth = cv2.GaussianBlur(photo(112, 168), (0, 0), 8)
    monkeypatch.setattr(depth_anything, "LARGEST", 56)
    hint = preprocessor(smooth, runtime=runtime)
    small = levels(theirs(made, cv2.resize(smooth, (84, 56), interpolation=cv2.INTER_AREA)))
    assert hint.shape == (112, 168, 3)
    assert np.abs(cv2.resize(hint[..., 0], (84, 56), interpolation=cv2.INTER_AREA) - small).mean() < 8


def by_the_authors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # noqa: C901  (names, one by one)
    """The names of the first checkpoints, from a file of transformers."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if key.startswith("backbone.encoder.layer."):
            block, rest = f"pretrained.blocks.{parts[3]}", ".".join(parts[4:])
            if rest.startswith("attention.attention."):
                if parts[6] == "query":
                    keys = [key.replace("query", part) for part in ("query", "key", "value")]
                    found[f"{block}.attn.qkv.{parts[7]}"] = torch.cat([state[each] for each in keys])
                continue
            new = {"attention.output.dense": "attn.proj", "layer_scale1.lambda1": "ls1.gamma",
                   "layer_scale2.lambda1": "ls2.gamma"}  # fmt: skip
            for old, name in new.items():
                rest = rest.replace(old, name)
            found[f"{block}.{rest}"] = tensor
        elif key.startswith("backbone"):
            new = {"backbone.embeddings.cls_token": "cls_token", "backbone.embeddings.mask_token": "mask_token",
                   "backbone.embeddings.position_embeddings": "pos_embed", "backbone.layernorm": "norm",
                   "backbone.embeddings.patch_embeddings.projection": "patch_embed.proj"}  # fmt: skip
            for old, name in new.items():
                key = key.replace(old, f"pretrained.{name}")
            found[key] = tensor
        elif key.startswith("neck.reassemble_stage"):
            kind = "projects" if parts[4] == "projection" else "resize_layers"
            found[f"depth_head.{kind}.{parts[3]}.{parts[5]}"] = tensor
        elif key.startswith("neck.convs"):
            found[f"depth_head.scratch.layer{int(parts[2]) + 1}_rn.weight"] = tensor
        elif key.startswith("neck.fusion_stage"):
            unit = {"projection": "out_conv", "residual_layer1": "resConfUnit1", "residual_layer2": "resConfUnit2"}
            rest = ".".join(parts[5:]).replace("convolution", "conv")
            found[f"depth_head.scratch.refinenet{4 - int(parts[3])}.{unit[parts[4]]}.{rest}"] = tensor
        else:
            name = {"conv1": "output_conv1", "conv2": "output_conv2.0", "conv3": "output_conv2.2"}[parts[1]]
            found[f"depth_head.scratch.{name}.{parts[2]}"] = tensor
    return found


def test_files_of_the_authors_are_found_and_understood(tmp_path: Path) -> None:
    """Where comfyui_controlnet_aux keeps it, read in place."""
    preprocessor, _, runtime = prepared("depth_anything_v2", tmp_path)
    expected = preprocessor(photo(70, 98), runtime=runtime)
    path = tmp_path / preprocessor.networks[0].files[0].name
    state = by_the_authors(load_file(path))
    assert len(state) < len(load_file(path))
    path.unlink()
    peer = tmp_path / "peer" / "depth-anything" / "Depth-Anything-V2-Small" / "depth_anything_v2_vits.pth"
    peer.parent.mkdir(parents=True)
    torch.save(state, peer)
    again = Runtime(store=runtime.store, pool=Pool(PlainManager("cpu")))
    assert runtime.store.find(preprocessor.networks[0].files[0]) == peer
    assert np.array_equal(preprocessor(photo(70, 98), runtime=again), expected)


def test_published_sizes() -> None:
    """What transformers' configurations say of both versions."""
    assert depth_anything.SPREAD == {12: (3, 6, 9, 12), 24: (5, 12, 18, 24)}
    for name in ("depth_anything", "depth_anything_base", "depth_anything_large", "depth_anything_v2"):
        assert find(name).networks[0].packages == ()
    licences = {
        name: find(name).networks[0].files[0].licence for name in ("depth_anything_v2", "depth_anything_v2_base")
    }
    assert licences["depth_anything_v2"] == "Apache-2.0"
    assert "not for commercial use" in licences["depth_anything_v2_base"]


@pytest.mark.parametrize("damage", ["other network", "missing", "shape", "text"])
def test_bad_files_are_named(damage: str, tmp_path: Path) -> None:
    preprocessor, _, runtime = prepared("depth_anything_v2", tmp_path)
    path = tmp_path / preprocessor.networks[0].files[0].name
    state = load_file(path)
    if damage == "text":
        path.write_text("<html>")
    else:
        key = "backbone.encoder.layer.3.mlp.fc1.weight"
        changed = {
            "other network": {"a": torch.zeros(1)},
            "missing": {name: each for name, each in state.items() if name != key},
            "shape": {**state, key: state[key][:5].clone()},
        }[damage]
        save_file(changed, path)
    with pytest.raises(DamagedModelError, match=r"model.safetensors"):
        preprocessor(photo(28, 28), runtime=runtime)


def test_missing_weights_name_the_file_and_the_folder(tmp_path: Path) -> None:
    runtime = Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))
    with pytest.raises(PreprocessorError, match=r"model.safetensors.*Depth-Anything-V2-Small-hf"):
        find("depth_anything_v2")(photo(28, 28), runtime=runtime)
