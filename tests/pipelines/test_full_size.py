"""SD 1.5 at its full size, with random weights: what a user's command does with real files, on the CPU.

    python -m pytest -m full_size -s tests/pipelines/test_full_size.py

It writes 5 GB into pytest's temporary folder, removes them again, and needs about 8 GB of memory and some minutes.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.cli import main
from controlstack.models.naming import to_ldm
from controlstack.pipelines import single_file
from controlstack.pipelines.tiny_world import IMAGES
from controlstack.pipelines.tokenizers import make_tokenizer
from controlstack.training.recipes.copies import copy_of_encoder
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.full_size
SPREAD = 0.02  # of the random weights; small enough that no activation overflows
SIDE = 256


@pytest.fixture(scope="module")
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, autoencoder_names: Any
) -> Iterator[dict[str, Path]]:
    """SD 1.5 as a folder and as one file, and a ControlNet for it, all in fp16."""
    if "full_size" not in request.config.option.markexpr:
        pytest.skip("full-size models are only made with -m full_size: 5 GB on the disk, 8 GB of memory, minutes")
    folder = tmp_path_factory.mktemp("full")
    unet = _half(UNet2DConditionModel, sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    control = folder / "control.safetensors"
    with torch.device("meta"):
        copy = copy_of_encoder(UNet2DConditionModel.from_config(unet.config))
    save_file(_random(copy, seed=2).state_dict(), control)
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=_half(AutoencoderKL, **_published_autoencoder()),
        text_encoder=_random(CLIPTextModel(_published_text_encoder()), seed=3),
        tokenizer=make_tokenizer(folder / "tokenizer"),
        scheduler=DDIMScheduler(**single_file.SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "base")
    # As the published folder has it: nothing about what SD 1.5 does not prescribe.
    schedule = {"_class_name": "DDIMScheduler", **single_file.SCHEDULE}
    (folder / "base" / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    tensors = autoencoder_names(pipeline.vae.state_dict())
    tensors |= {single_file.UNET + key: value for key, value in to_ldm(unet.state_dict()).items()}
    words = pipeline.text_encoder.state_dict()
    tensors |= {single_file.CLIP + key.removeprefix("text_model."): value for key, value in words.items()}
    save_file(tensors, folder / "base.safetensors")
    del pipeline, unet, copy, tensors, words
    gc.collect()
    yield {"folder": folder / "base", "file": folder / "base.safetensors", "control": control}
    shutil.rmtree(folder)


def test_a_folder_and_one_file_of_full_size_draw_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    drawn = [_draw(files, kind, tmp_path / kind) for kind in ("folder", "file")]
    assert np.array_equal(*drawn)


def _draw(files: dict[str, Path], kind: str, folder: Path) -> np.ndarray:
    """The picture that the command writes; what else it writes is checked."""
    unit = f"image={IMAGES / 'scene-1.png'},preprocessor=canny,model={files['control']},weight=0.8,end=0.5"
    small = ["--steps", "2", "--width", str(SIDE), "--height", str(SIDE), "--seed", "7", "--prompt", "a red star"]
    begin = time.monotonic()
    code = main(["generate", "--base", str(files[kind]), "--unit", unit, *small, "--output", str(folder)])
    print(f"\n{kind}: {time.monotonic() - begin:.0f} s, peak {_peak():.1f} GB")
    assert code == 0
    with Image.open(folder / "00001.png") as image:
        said = json.loads(image.info["controlstack"])
        assert image.size == (SIDE, SIDE)
        picture = np.asarray(image)
    assert picture.std() > 10
    assert (said["seed"], said["steps"], said["prompt"]) == (7, 2, "a red star")
    assert (said["units"][0]["fired"], said["units"][0]["steps"]) == (1, 2)
    return picture


def _peak() -> float:
    """Most memory that this process has used so far, in GB; Linux counts KiB, macOS bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _half(cls: Any, **config: Any) -> Any:
    with torch.device("meta"):
        network = cls(**config)
    return _random(network, seed=1)


def _random(network: nn.Module, seed: int) -> Any:
    """Random weights in fp16 in place of shapes; the scales of the norms are 1."""
    network = network.to(torch.float16)
    if any(parameter.is_meta for parameter in network.parameters()):
        network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.data.uniform_(-SPREAD, SPREAD, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data.fill_(1.0)
    return network.eval().requires_grad_(False)


def _published_autoencoder() -> dict[str, Any]:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512, **kinds}


def _published_text_encoder() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
