"""Networks of transformers, small and with random weights, against the library's own call; and palettes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError, MissingDependencyError, PreprocessorError
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks import network as network_module
from controlstack.preprocessors.networks.network import Network, get_packages, missing_packages
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.preprocessors.regions import palettes
from controlstack.preprocessors.regions.segmentation import classes
from skimage import data
from torch import nn
from torch.nn import functional

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def photo(height: int, width: int) -> np.ndarray:
    return cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


def randomise(network: nn.Module, gain: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():  # tables of places
            continue
        if tensor.dim() > 1:
            tensor.normal_(0, gain * (1.5 / max(1, tensor[0].numel())) ** 0.5)
        else:
            tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith(("weight", "lambda1", "running_var")) else 0.0)
    return network.eval()


def depth_pro() -> nn.Module:
    part = {"model_type": "dinov2", "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2}  # fmt: skip
    return transformers.DepthProForDepthEstimation(
        transformers.DepthProConfig(
            patch_size=32, fusion_hidden_size=8, intermediate_hook_ids=[1, 0], intermediate_feature_dims=[8, 8],
            scaled_images_ratios=[0.25, 0.5, 1], scaled_images_overlap_ratios=[0.0, 0.5, 0.25],
            scaled_images_feature_dims=[8, 8, 8], merge_padding_value=1, use_fov_model=True, num_fov_head_layers=0,
            image_model_config=dict(part), patch_model_config=dict(part), fov_model_config=dict(part),
        )
    )  # fmt: skip


def swin() -> Any:
    return transformers.SwinConfig(
        embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


SMALL = {"mask_feature_size": 32, "feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16,
         "dim_feedforward": 16, "encoder_layers": 1, "num_attention_heads": 2, "num_queries": 10}  # fmt: skip


def oneformer(labels: int) -> nn.Module:
    small = {**SMALL, "conv_dim": 32, "mask_dim": 32, "decoder_layers": 2, "text_encoder_width": 32}
    return transformers.OneFormerForUniversalSegmentation(
        transformers.OneFormerConfig(backbone_config=swin(), num_labels=labels, is_training=False, **small)
    )


def mask2former(labels: int = 150) -> nn.Module:
    return transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(backbone_config=swin(), num_labels=labels, decoder_layers=3, **SMALL)
    )


BUILD: dict[str, Callable[[], nn.Module]] = {
    "depth_pro": lambda: randomise(depth_pro()),
    "seg_ofade20k": lambda: randomise(oneformer(150), 3.0),
    "seg_ofcoco": lambda: randomise(oneformer(133), 3.0),
    "seg_m2fade20k": lambda: randomise(mask2former(), 3.0),
}


def unsigned(preprocessor: Preprocessor) -> Preprocessor:
    """The same with files of any content, since no real weights are here."""
    networks = tuple(
        replace(each, files=tuple(replace(file, bytes=None, sha256="") for file in each.files))
        for each in preprocessor.networks
    )
    return replace(preprocessor, networks=networks)


def prepared(name: str, folder: Path) -> tuple[Preprocessor, nn.Module, Runtime]:
    """A preprocessor whose files lie in the folder as the library writes them, and the network."""
    preprocessor = unsigned(find(name))
    network = BUILD[name]()
    config, tensors = (folder / file.name for file in preprocessor.networks[0].files)
    network.save_pretrained(config.parent)
    written = config.parent / "model.safetensors"
    if tensors != written:
        torch.save(network.state_dict(), tensors)
        written.unlink()
    return preprocessor, network, Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


def pixels(image: np.ndarray, mean: Any = MEAN, deviation: Any = DEVIATION) -> torch.Tensor:
    return torch.from_numpy(((image / 255 - mean) / deviation).transpose(2, 0, 1)[None]).float()


def levels(nearness: torch.Tensor) -> np.ndarray:
    array = nearness.numpy().astype(np.float64)
    return (array - array.min()) / (array.max() - array.min()) * 255


@pytest.mark.skipif(not hasattr(transformers, "DepthProConfig"), reason="needs transformers 4.49")
@torch.no_grad()
def test_depth_pro_equals_the_librarys_call(tmp_path: Path) -> None:
    preprocessor, network, runtime = prepared("depth_pro", tmp_path)
    image = photo(100, 140)
    square = functional.interpolate(pixels(image, 0.5, 0.5), (128, 128), mode="bilinear")
    inverse = network(square).predicted_depth
    metric = 1 / functional.interpolate(inverse[:, None], (100, 140), mode="bilinear").clamp(1e-4, 1e4)
    expected = levels(1 / metric[0, 0])
    hint = preprocessor(image, runtime=runtime)
    assert len(np.unique(hint)) > 100
    assert np.abs(hint[..., 0] - expected).max() < 1
    whole = sum(each.numel() for each in network.parameters())
    with runtime.ready(preprocessor.networks[0]) as loaded:
        assert isinstance(loaded, nn.Module)
        assert sum(each.numel() for each in loaded.parameters()) == whole - sum(
            each.numel() for name, each in network.named_parameters() if name.startswith("fov_model.")
        )
    assert runtime.pool.bytes < 4 * whole  # nobody asks for the focal length


@torch.no_grad()
@pytest.mark.parametrize(("name", "table"), [("seg_ofade20k", "ade20k"), ("seg_ofcoco", "coco")])
def test_oneformer_equals_the_librarys_call(name: str, table: str, tmp_path: Path) -> None:
    preprocessor, network, runtime = prepared(name, tmp_path)
    image = photo(64, 96)
    task = torch.zeros(1, 77)
    task[0, :7] = torch.tensor([49406, 518, 10549, 533, 29119, 1550, 49407])  # "the task is semantic" by CLIP
    found = network(pixels(image), task)
    votes = torch.einsum(
        "bqc,bqhw->bchw", found.class_queries_logits.softmax(-1)[..., :-1], found.masks_queries_logits.sigmoid()
    )
    labels = functional.interpolate(votes, (64, 96), mode="bilinear").argmax(1)[0].numpy()
    assert len(np.unique(labels)) > 1
    hint = preprocessor(image, runtime=runtime)
    assert (hint == getattr(palettes, table)()[labels]).mean() > 0.995  # two classes may tie


@pytest.mark.parametrize("name", ["seg_ofade20k", "seg_m2fade20k"])
def test_files_of_older_libraries_lack_a_layer_that_nobody_asks(name: str, tmp_path: Path) -> None:
    """The published files were written before the backbone had a last norm, which the backbone's maps never pass."""
    preprocessor, _, runtime = prepared(name, tmp_path)
    tensors = tmp_path / preprocessor.networks[0].files[1].name
    whole = preprocessor(photo(64, 96), runtime=runtime)
    state = torch.load(tensors, weights_only=True)
    torch.save({key: each for key, each in state.items() if ".swin.layernorm." not in key}, tensors)
    runtime.pool.unload()
    runtime.cache.clear()
    assert np.array_equal(preprocessor(photo(64, 96), runtime=runtime), whole)
    torch.save({key: each for key, each in state.items() if ".layernorm_before." not in key}, tensors)
    with pytest.raises(DamagedModelError, match="layernorm_before"):
        preprocessor(photo(64, 96), runtime=runtime)


def test_mask2former_and_batches(tmp_path: Path) -> None:
    preprocessor, _, runtime = prepared("seg_m2fade20k", tmp_path)
    batch = np.stack([photo(50, 70), photo(50, 70)[:, ::-1]])
    hints = preprocessor(batch, runtime=runtime)
    assert hints.shape == (2, 50, 70, 3)
    known = {tuple(colour) for colour in palettes.ade20k().tolist()}
    assert {tuple(colour) for colour in hints.reshape(-1, 3).tolist()} <= known
    runtime.cache.clear()
    singles = np.stack([preprocessor(image, runtime=runtime) for image in batch])
    assert (hints == singles).mean() > 0.99


def test_the_class_with_most_votes_wins() -> None:
    """Three queries: two vote for class 1 on the left, one for class 2 everywhere, nobody for none."""
    queries = torch.full((1, 3, 4), -9.0)
    queries[0, 0, 1] = queries[0, 1, 1] = queries[0, 2, 2] = 9
    masks = torch.full((1, 3, 2, 4), -9.0)
    masks[0, :2, :, :2] = 1
    masks[0, 2] = 1
    assert classes(queries, masks, (2, 4)).tolist() == [[[1, 1, 2, 2]] * 2]


def test_palettes_are_those_that_models_were_trained_with() -> None:
    ade, coco = palettes.ade20k(), palettes.coco()
    assert (ade.shape, coco.shape) == ((150, 3), (133, 3))
    named = {0: (120, 120, 120), 1: (180, 120, 120), 2: (6, 230, 230), 3: (80, 50, 50), 4: (4, 200, 3),
             5: (120, 120, 80), 9: (4, 250, 7), 12: (150, 5, 61), 20: (0, 102, 200), 149: (92, 0, 255)}  # fmt: skip
    for index, colour in named.items():
        assert tuple(ade[index]) == colour
    assert len(np.unique(ade, axis=0)) == 149
    assert ade[6].tolist() == ade[48].tolist() == [140, 140, 140]
    assert tuple(coco[0]) == (220, 20, 60)
    assert tuple(coco[132]) == (250, 141, 255)
    assert len(np.unique(coco, axis=0)) == 133


@pytest.mark.parametrize(
    ("table", "digest"),
    [
        ("ade20k", "ce475c9151035eff51f4cf27fd7d906959b1480f6d15b9423ae2417c1b23a0ed"),
        ("coco", "efcc320916d0acb3f51547ec72e0c0218aafc04dc222894062fb087f5233dbc2"),
    ],
)
def test_every_colour_of_a_palette_is_right(table: str, digest: str) -> None:
    """Digests of the tables of mmsegmentation (150 classes) and detectron2 (133), as sd-webui-controlnet has them."""
    assert hashlib.sha256(getattr(palettes, table)().tobytes()).hexdigest() == digest


def test_every_class_gets_its_colour() -> None:
    """All 150 at once: class k wins at pixel k."""
    queries = torch.full((1, 150, 151), -20.0)
    queries[0, range(150), range(150)] = 20
    masks = torch.full((1, 150, 1, 150), -20.0)
    masks[0, range(150), 0, range(150)] = 20
    assert np.array_equal(palettes.ade20k()[classes(queries, masks, (1, 150)).numpy()[0, 0]], palettes.ade20k())


@pytest.mark.parametrize("damage", ["config", "other config", "tensors"])
def test_bad_files_are_named(damage: str, tmp_path: Path) -> None:
    preprocessor, _, runtime = prepared("seg_m2fade20k", tmp_path)
    config, tensors = (tmp_path / file.name for file in preprocessor.networks[0].files)
    if damage == "config":
        config.write_text("<html>")
    elif damage == "other config":
        told = json.loads(config.read_text())
        config.write_text(json.dumps({**told, "mask_feature_size": 64}))
    else:
        tensors.write_bytes(tensors.read_bytes()[:999])
    with pytest.raises(DamagedModelError, match=r"config.json|pytorch_model.bin"):
        preprocessor(photo(28, 28), runtime=runtime)


def test_missing_weights_name_the_file_and_the_folder(tmp_path: Path) -> None:
    runtime = Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))
    with pytest.raises(PreprocessorError, match=r"config.json.*mask2former-swin-small"):
        find("seg_m2fade20k")(photo(28, 28), runtime=runtime)
    assert str(tmp_path / "facebook" / "mask2former-swin-small-ade-semantic") in find("seg_m2fade20k").missing(runtime)


def test_packages_that_are_missing_or_old_are_named(tmp_path: Path) -> None:
    def network(*packages: str) -> Network:
        return Network(id="n", files=(), load=str, packages=packages)

    assert missing_packages([network("transformers>=4.1", "numpy>=1.26", "torch")]) == ""
    old = missing_packages([network("transformers>=99.1.2")])
    assert old.startswith("it needs transformers>=99.1.2, but transformers ")
    assert "pip" not in old  # a host may rely on the version that it has
    assert missing_packages([network("no_such"), network("no_such")]) == f"it needs no_such: {get_packages()}"
    assert missing_packages([network("no_such>=2.0")]) == f"it needs no_such>=2.0: {get_packages()}"
    preprocessor = replace(find("seg_m2fade20k"), networks=(network("no_such>=2.0"),))
    with pytest.raises(MissingDependencyError, match="no_such"):
        preprocessor(photo(28, 28), runtime=Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu"))))


def test_a_package_that_is_added_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are kept, for lists of all preprocessors ask often, until pip's folder changes."""
    networks = [Network(id="x", files=(), load=lambda: None, packages=("just_added",))]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(network_module, "_site", lambda: tmp_path)
    assert "it needs just_added" in missing_packages(networks)
    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", asked.append)
        assert "it needs just_added" in missing_packages(networks)
    assert asked == []
    (tmp_path / "just_added.py").touch()
    os.utime(tmp_path, ns=(0, 10**18))  # some file systems count changes in whole seconds
    importlib.invalidate_caches()
    assert missing_packages(networks) == ""


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    from controlstack.preprocessors.networks.pretrained import load_pretrained

    with pytest.raises(MissingDependencyError, match="cannot make NoSuchNetwork"):
        load_pretrained(tmp_path / "config.json", tmp_path / "model.safetensors", name="NoSuchNetwork")
