"""Which file a path means: folders of diffusers, of the Hugging Face cache and of trainings; and what others are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from controlstack.core.errors import DamagedModelError, ModelError, UnsupportedModelError
from controlstack.models.registry import inspect, load_control_model
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

NAME = "diffusion_pytorch_model"
CONFIG = {"_class_name": "ControlNetModel", "attention_head_dim": 4, "norm_num_groups": 32}
Save = Callable[..., Path]


@pytest.fixture
def kind() -> str:
    return "SD"  # one network is enough for these


@pytest.fixture
def folder(theirs: ControlNetModel, tmp_path: Path) -> Path:
    """A folder of diffusers, with one file of weights."""
    folder = tmp_path / "canny"
    folder.mkdir()
    save_file(dict(theirs.state_dict()), folder / f"{NAME}.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def _loads(path: Path, name: str) -> None:
    assert (inspect(path).missing, inspect(path).settings["heads"]) == ((), "4")
    assert load_control_model(path).name == name


@pytest.mark.parametrize("variant", ["", ".fp16", ".bf16", ".non_ema"])
def test_variants_of_a_folder(folder: Path, variant: str) -> None:
    (folder / f"{NAME}.safetensors").rename(folder / f"{NAME}{variant}.safetensors")
    _loads(folder, "canny")


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_pickles_in_a_folder(folder: Path, theirs: ControlNetModel, variant: str) -> None:
    (folder / f"{NAME}.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / f"{NAME}{variant}.bin")
    _loads(folder, "canny")


def test_one_file_of_another_name(folder: Path) -> None:
    (folder / f"{NAME}.safetensors").rename(folder / "weights.safetensors")
    _loads(folder, "canny")
    shutil.copy(folder / "weights.safetensors", folder / "more.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="2 models"):
        inspect(folder)


def _shard(folder: Path, theirs: ControlNetModel, variant: str = "") -> Path:
    """The weights in two parts with an index."""
    state: dict[str, Tensor] = dict(theirs.state_dict())
    names = [f"{NAME}{variant}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    weight_map = {name: names[i % 2] for i, name in enumerate(state)}
    for part in names:
        save_file({name: each for name, each in state.items() if weight_map[name] == part}, folder / part)
    (folder / f"{NAME}.safetensors").unlink()
    end = f".index{variant}.json" if variant else ".index.json"
    index = folder / f"{NAME}.safetensors{end}"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_one_model(folder: Path, theirs: ControlNetModel, variant: str) -> None:
    _shard(folder, theirs, variant)
    _loads(folder, "canny")


def test_one_shard_means_the_whole(folder: Path, theirs: ControlNetModel) -> None:
    _shard(folder, theirs)
    assert inspect(folder / f"{NAME}-00001-of-00002.safetensors").missing == ()


def test_a_missing_shard_is_named(folder: Path, theirs: ControlNetModel) -> None:
    _shard(folder, theirs)
    (folder / f"{NAME}-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedModelError, match="00002-of-00002"):
        inspect(folder)


@pytest.mark.parametrize("table", [{}, [], *({"weight_map": odd} for odd in ({}, 3, {"a": 3}, {"a": "../../x"}))])
def test_an_index_without_sense_is_refused(folder: Path, theirs: ControlNetModel, table: object) -> None:
    _shard(folder, theirs).write_text(json.dumps(table))
    with pytest.raises(ModelError) as caught:
        inspect(folder)
    assert str(caught.value).isprintable()


def test_a_weight_that_two_shards_hold_is_refused(folder: Path, theirs: ControlNetModel) -> None:
    _shard(folder, theirs)
    shutil.copy(folder / f"{NAME}-00001-of-00002.safetensors", folder / f"{NAME}-00002-of-00002.safetensors")
    with pytest.raises(DamagedModelError, match="as another part does"):
        inspect(folder)


@pytest.mark.parametrize("says", [True, False], ids=["refs", "one snapshot"])
def test_the_cache_of_the_hub(folder: Path, tmp_path: Path, says: bool) -> None:
    hub = tmp_path / "models--somebody--canny"
    (hub / "snapshots").mkdir(parents=True)
    folder.rename(hub / "snapshots" / "abc123")
    if says:
        (hub / "refs").mkdir()
        (hub / "refs" / "main").write_text("abc123")
        (hub / "snapshots" / "fff").mkdir()
    _loads(hub, hub.name)


def test_snapshots_that_nothing_chooses_from_are_refused(folder: Path, tmp_path: Path) -> None:
    hub = tmp_path / "models--somebody--canny"
    for name in ("a", "b"):
        (hub / "snapshots" / name).mkdir(parents=True)
    with pytest.raises(ModelError, match="2 snapshots"):
        inspect(hub)


def test_a_checkpoint_of_a_training_and_a_pipeline_hold_a_control(folder: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-500", "pipeline"):
        (tmp_path / name).mkdir()
        shutil.copytree(folder, tmp_path / name / "controlnet")
        (tmp_path / name / "optimizer.bin").write_bytes(b"x")
        _loads(tmp_path / name, name)


def test_the_folder_of_a_base_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UnsupportedModelError, match=r"base model \(StableDiffusionPipeline\)"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    "config", [{"architectures": ["CLIPTextModel"]}, {"_class_name": "CLIPTextModel"}, {"model_type": "CLIPTextModel"}]
)
def test_the_folder_of_another_network_is_named(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="folder of CLIPTextModel"):
        inspect(tmp_path)


def test_pictures_and_pages_are_named(tmp_path: Path) -> None:
    for suffix, word in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WebP"), (".gif", "GIF")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"a{suffix}")
        with pytest.raises(UnsupportedModelError, match=word):
            inspect(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\n<html>", "web page"),
        (b'{"_class_name": "StableDiffusionPipeline"}', r"a text \(JSON\)"),
        (b"a list of files, one a line\n" * 9, "it is a text"),
        (b"\x08\x07\x12\x07pytorch" + bytes(90), "ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"Entry not found", "Hugging Face"),
    ],
)
def test_what_a_download_left_is_named(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"canny{suffix}"
    path.write_bytes(content)
    for use in (inspect, load_control_model):
        with pytest.raises(ModelError, match=words):
            use(path)


def test_a_file_under_another_name_is_told_its_name(theirs: ControlNetModel, save: Save) -> None:
    path = save(dict(theirs.state_dict()))
    path = path.rename(path.with_suffix(".pth"))
    with pytest.raises(DamagedModelError, match=r"rename it to 'model\.safetensors'"):
        inspect(path)
    for new in (True, False):
        torch.save(theirs.state_dict(), path.with_suffix(".safetensors"), _use_new_zipfile_serialization=new)
        with pytest.raises(DamagedModelError, match="PyTorch file"):
            inspect(path.with_suffix(".safetensors"))


def test_names_of_files_and_weights_are_printed_safely(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nb.safetensors"
    save_file({"\x1b[2J\ncontrolstack: all is well" + "x" * 10**6: torch.ones(1)}, path)
    with pytest.raises(UnsupportedModelError) as caught:
        inspect(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
