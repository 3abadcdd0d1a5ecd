"""Folders of base models as they are found: with other variants of the weights, missing parts, damage, other kinds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import ControlError, HostError
from controlstack.pipelines.bases import Base, Offload, load_base, load_pipeline, native_side
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.tiny_world import BASE
from controlstack.training.start import load_frozen
from safetensors.torch import load_file, save_file

NETWORKS = ("unet", "vae", "text_encoder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base"))


def _weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def _rename(folder: Path, part: str, variant: str) -> None:
    file = _weights(folder, part)
    file.rename(file.with_suffix(f".{variant}.safetensors"))


def _edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def _without(folder: Path, part: str) -> None:
    state = load_file(_weights(folder, part))
    del state[max(state)]
    save_file(state, _weights(folder, part))


def _picture(base: Base) -> Any:
    return generate(base, Request(prompt="a red star", steps=2, width=64, height=64)).images


def test_the_variant_that_is_there_is_loaded(folder: Path, tiny: Base) -> None:
    for part, variant in zip(NETWORKS, ("fp16", "non_ema", "fp16"), strict=True):
        _rename(folder, part, variant)
    (folder / "unet" / "LICENSE").write_text("")  # a name without a dot
    assert (_picture(load_base(folder)) == _picture(tiny)).all()


def test_the_plain_weights_go_first(folder: Path, tiny: Base) -> None:
    file = _weights(folder, "unet")
    other = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
    save_file(other, file.with_suffix(".fp16.safetensors"))
    assert (_picture(load_base(folder)) == _picture(tiny)).all()


def test_shards_of_a_variant_are_loaded(folder: Path, tiny: Base) -> None:
    file = _weights(folder, "unet")
    file.unlink()
    tiny.pipeline.unet.save_pretrained(folder / "unet", variant="fp16", max_shard_size="200KB")
    assert len(list((folder / "unet").glob("*.fp16-*-of-*.safetensors"))) > 1
    assert (_picture(load_base(folder)) == _picture(tiny)).all()


def test_a_folder_of_the_hubs_cache_is_its_snapshot(tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--name"
    shutil.copytree(BASE, cached / "snapshots" / "abc")
    assert native_side(cached) == native_side(BASE)
    ours, theirs = (load_pipeline(path, torch.float32).unet.state_dict() for path in (BASE, cached))
    assert all(theirs[name].equal(each) for name, each in ours.items())
    shutil.copytree(BASE, cached / "snapshots" / "def")
    with pytest.raises(ControlError, match="does not say which one"):
        native_side(cached)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_network_has_the_dtype_that_was_asked_for(folder: Path, dtype: torch.dtype) -> None:
    pipeline = load_pipeline(folder, dtype)
    assert {parameter.dtype for part in NETWORKS for parameter in getattr(pipeline, part).parameters()} == {dtype}


def test_a_folder_without_its_safety_checker_is_loaded(folder: Path, tiny: Base) -> None:
    _edit(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        requires_safety_checker=True,
    )
    assert (_picture(load_base(folder)) == _picture(tiny)).all()
    for name in ("safety_checker", "feature_extractor"):  # as after a download of the configuration files
        (folder / name).mkdir()
    assert load_base(folder).pipeline.safety_checker is None


def test_a_safety_checker_that_is_there_is_kept(folder: Path, tiny: Base) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16}, text_config=small, projection_dim=8
    )
    StableDiffusionSafetyChecker(config).save_pretrained(folder / "safety_checker")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    _edit(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],  # what transformers called it once
    )
    assert isinstance(load_base(folder).pipeline.safety_checker, StableDiffusionSafetyChecker)


def test_a_folder_saved_by_another_pipeline_is_a_base(folder: Path, tiny: Base) -> None:
    _edit(folder / "model_index.json", _class_name="StableDiffusionImg2ImgPipeline")
    assert (_picture(load_base(folder)) == _picture(tiny)).all()


def test_an_sdxl_folder_is_loaded(tmp_path: Path, xl: Base) -> None:
    xl.pipeline.save_pretrained(tmp_path, variant="fp16")
    assert (_picture(load_base(tmp_path)) == _picture(xl)).all()
    _edit(tmp_path / "model_index.json", force_zeros_for_empty_prompt=False)
    assert load_base(tmp_path).pipeline.config["force_zeros_for_empty_prompt"] is False
    shutil.rmtree(tmp_path / "tokenizer_2")
    with pytest.raises(HostError, match="without tokenizer_2"):
        load_base(tmp_path)


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{f"{part} cut": (f"the {part} of", lambda d, p=part: _cut(_weights(d, p))) for part in NETWORKS},
    **{f"{part} lacks a weight": (f"the {part} of .* lacks 1", lambda d, p=part: _without(d, p)) for part in NETWORKS},
    **{f"{part} without weights": ("file of weights", lambda d, p=part: _weights(d, p).unlink()) for part in NETWORKS},
    **{
        f"{part} without its configuration": (r"config\.json", lambda d, p=part: (d / p / "config.json").unlink())
        for part in NETWORKS
    },
    **{
        f"no {part}": (f"without {part}", lambda d, p=part: shutil.rmtree(d / p))
        for part in (*NETWORKS, "tokenizer", "scheduler")
    },
    "no words": (r"vocab\.json", lambda d: (d / "tokenizer" / "vocab.json").unlink()),
    "no noise schedule": ("scheduler", lambda d: (d / "scheduler" / "scheduler_config.json").unlink()),
    "depth": ("5 latent channels .*depth", lambda d: _edit(d / "unet" / "config.json", in_channels=5)),
    "edits": ("8 latent channels .*edits", lambda d: _edit(d / "unet" / "config.json", in_channels=8)),
    "channels as text": ("reads 4 latent", lambda d: _edit(d / "unet" / "config.json", in_channels="4")),
    "another shape": ("the unet of", lambda d: _edit(d / "unet" / "config.json", cross_attention_dim=32)),
    "an index that is a list": ("no table", lambda d: (d / "model_index.json").write_text("[]")),
    "an index that is no JSON": ("is no JSON", lambda d: (d / "model_index.json").write_text("{")),
    "another network": ("SomeUNet", lambda d: _edit(d / "model_index.json", unet=["diffusers", "SomeUNet"])),
    "a pipeline for an autoencoder": (
        "DiffusionPipeline",
        lambda d: _edit(d / "model_index.json", vae=["diffusers", "DiffusionPipeline"]),
    ),
    "a pipeline for a scheduler": (
        "which is none",
        lambda d: _edit(d / "model_index.json", scheduler=["diffusers", "DiffusionPipeline"]),
    ),
    "another encoder": (
        "T5EncoderModel",
        lambda d: _edit(d / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_loaded_is_one_sentence_for_drawing_and_training(folder: Path, name: str) -> None:
    words, break_it = BROKEN[name]
    break_it(folder)
    for load in (load_base, lambda path: load_frozen(path, torch.device("cpu"))):
        with pytest.raises(ControlError, match=words) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    _edit(folder / "model_index.json", unet=["mine", "Mine"], _class_name=["mine", "Mine"])
    for place in (folder, folder / "unet"):
        (place / "mine.py").write_text("raise SystemExit('the code in the folder has run')")
    with pytest.raises(HostError, match="is not run"):
        load_base(folder)


def test_the_native_size_is_read_without_weights(folder: Path, tmp_path: Path) -> None:
    for part in NETWORKS:
        _weights(folder, part).unlink()
    assert native_side(folder) == 128
    _edit(folder / "unet" / "config.json", sample_size=None)
    assert native_side(folder) == 512
    with pytest.raises(HostError, match="nowhere"):
        native_side(tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["mps", "nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_a_short_sentence(device: str) -> None:
    with pytest.raises(HostError, match=f"device '{device}'") as caught:
        load_base(BASE, device=device)
    assert len(str(caught.value)) < 400


def test_a_device_of_its_own_choice_draws(tiny: Base) -> None:
    base = load_base(BASE, device="auto")
    assert isinstance(base, Base) and base.offload is Offload.NONE
    assert np.abs(_picture(base).astype(int) - _picture(tiny)).max() <= 3
