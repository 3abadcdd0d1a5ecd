"""Marigold, tiny and with random weights, against the library's own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.core.errors import DamagedModelError
from controlstack.preprocessors import Preprocessor, find
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from safetensors.torch import load_file, save_file
from skimage import data

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
NAMES = {"depth_marigold": "MarigoldDepthPipeline", "normal_marigold": "MarigoldNormalsPipeline"}


def photo(height: int = 64, width: int = 64) -> np.ndarray:
    return cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


def components() -> dict[str, Any]:
    torch.manual_seed(0)
    parts = {
        "unet": diffusers.UNet2DConditionModel(
            in_channels=8, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16, attention_head_dim=4,
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=16
            )
        ),
    }  # fmt: skip
    for part in parts.values():
        for name, tensor in part.state_dict().items():
            if tensor.dim() > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith("weight") else 0.0)
        part.eval()
    parts["scheduler"] = diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    return parts


def prepared(name: str, folder: Path) -> tuple[Preprocessor, dict[str, Any], Runtime]:
    """The files as the hub has them, in half precision's names."""
    preprocessor, parts = find(name), components()
    repository = Path(preprocessor.networks[0].files[0].name).parents[1]
    for kind, part in parts.items():
        options = {} if kind == "scheduler" else {"variant": "fp16"}
        part.save_pretrained(folder / repository / kind, **options)
    return preprocessor, parts, Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))


def theirs(name: str, parts: dict[str, Any], image: np.ndarray, seed: int, **options: int) -> np.ndarray:
    pipeline = getattr(diffusers, NAMES[name])(
        **{key: part for key, part in parts.items() if key != "text_encoder"}, text_encoder=None, tokenizer=None
    )
    with torch.no_grad():
        pipeline.empty_text_embedding = parts["text_encoder"](torch.tensor([[49406, 49407]]))[0]
    pipeline.set_progress_bar_config(disable=True)
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / 255).float()
    generator = torch.Generator().manual_seed(seed)
    return pipeline(pixels, processing_resolution=0, generator=generator, **options).prediction[0]


def near_is_white(found: np.ndarray) -> np.ndarray:
    near = 1 - found[..., 0]
    return (near - near.min()) / (near.max() - near.min()) * 255


def red_is_left(found: np.ndarray) -> np.ndarray:
    return (found * np.array([-1, 1, 1]) + 1) / 2 * 255


@pytest.mark.parametrize(("name", "shown"), [("depth_marigold", near_is_white), ("normal_marigold", red_is_left)])
@pytest.mark.parametrize("options", [{"steps": 2, "ensemble": 1}, {"steps": 1, "ensemble": 3}])
def test_hints_equal_the_librarys_pipeline(
    name: str, shown: Callable[[np.ndarray], np.ndarray], options: dict[str, int], tmp_path: Path
) -> None:
    preprocessor, parts, runtime = prepared(name, tmp_path)
    told = {"num_inference_steps": options["steps"], "ensemble_size": options["ensemble"]}
    for seed in (0, 7):
        expected = shown(theirs(name, parts, photo(), seed, **told))
        hint = preprocessor(photo(), seed=seed, runtime=runtime, **options)
        assert len(np.unique(hint)) > 50
        off = np.abs(hint - (expected if expected.ndim == 3 else expected[..., None]))
        # runs are merged by an optimiser, which may stop elsewhere on another machine or version
        assert off.max() < 1 if options["ensemble"] == 1 else np.median(off) < 2


def test_seeds_sizes_and_batches(tmp_path: Path) -> None:
    preprocessor, _, runtime = prepared("depth_marigold", tmp_path)
    batch = np.stack([photo(50, 70), photo(50, 70)[:, ::-1]])
    hints = preprocessor(batch, seed=3, steps=1, runtime=runtime)
    assert hints.shape == (2, 50, 70, 3)
    runtime.cache.clear()
    assert np.array_equal(hints[1], preprocessor(batch[1], seed=3, steps=1, runtime=runtime))
    assert not np.array_equal(hints[1], preprocessor(batch[1], seed=4, steps=1, runtime=runtime))


def test_old_names_of_attention_are_understood(tmp_path: Path) -> None:
    preprocessor, _, runtime = prepared("depth_marigold", tmp_path)
    expected = preprocessor(photo(), runtime=runtime)
    path = tmp_path / preprocessor.networks[0].files[-1].name
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(path)
    for new, before in old.items():
        state = {key.replace(new, before): tensor for key, tensor in state.items()}
    assert any(".query." in key for key in state)
    save_file(state, path)
    again = Runtime(store=Store(tmp_path), pool=Pool(PlainManager("cpu")))
    assert np.array_equal(preprocessor(photo(), runtime=again), expected)


@pytest.mark.parametrize("number", range(7))
def test_bad_files_are_named(number: int, tmp_path: Path) -> None:
    preprocessor, _, runtime = prepared("depth_marigold", tmp_path)
    path = tmp_path / preprocessor.networks[0].files[number].name
    path.write_text('{"_class_name": "EulerDiscreteScheduler"}' if path.name.startswith("sched") else "<html>")
    with pytest.raises(DamagedModelError, match=path.name):
        preprocessor(photo(), runtime=runtime)
