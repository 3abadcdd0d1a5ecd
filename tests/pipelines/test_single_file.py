"""Checkpoints in one file: random pipelines in the layout of the original code, loaded without the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.core.errors import ControlError, HostError
from controlstack.models.naming import to_ldm
from controlstack.pipelines import single_file
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.drawing import generate
from controlstack.pipelines.request import Request
from controlstack.pipelines.schedulers import make_scheduler
from controlstack.pipelines.tokenizers import TABLE, make_tokenizer
from controlstack.training.start import load_frozen
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
WIDTH, HEADS = 64, 4  # of the prompt; of the U-Net's attention
WORDS = 49408  # CLIP's
METADATA = {"controlstack.heads": str(HEADS)}  # no shape tells it


def _randomise(network: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return network.eval()


def _clip(layers: int, act: str, pad: int, cls: type = CLIPTextModel, width: int = WIDTH) -> Any:
    config = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=width,
        bos_token_id=WORDS - 2,
        eos_token_id=WORDS - 1,
        pad_token_id=pad,
    )
    return _randomise(cls(config), width)


def _unet(**more: Any) -> Any:
    settings = {"block_out_channels": (32, 64), "attention_head_dim": HEADS, "cross_attention_dim": WIDTH}
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    blocks = {"down_block_types": down, "up_block_types": up}
    return _randomise(UNet2DConditionModel(sample_size=8, **{**settings, **blocks, **more}), 3)


def _vae(scaling: float) -> Any:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return _randomise(AutoencoderKL(block_out_channels=(32,) * 4, scaling_factor=scaling, **kinds), 4)


def _scheduler(prediction: str) -> DDIMScheduler:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, steps_offset=1, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction)


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers 5.6 dropped the prefix of the text model."""
    return {key.removeprefix("text_model."): value for key, value in state.items()}


def _open_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The names of OpenCLIP, with queries, keys and values in one matrix and the projection transposed."""
    whole = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    renamed: dict[str, Tensor] = {}
    for key, value in _bare(state).items():
        if key == "text_projection.weight":
            renamed["text_projection"] = value.T
        elif key in whole:
            renamed[whole[key]] = value
        elif "q_proj" in key:
            rows = [_bare(state)[key.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            renamed[_layer(key.replace("self_attn.q_proj.", "attn.in_proj_"))] = torch.cat(rows)
        elif "k_proj" not in key and "v_proj" not in key:
            for theirs, name in parts.items():
                key = key.replace(theirs, name)
            renamed[_layer(key.replace("self_attn", "attn"))] = value
    return {prefix + key: value for key, value in renamed.items()}


def _layer(key: str) -> str:
    return key.replace("encoder.layers", "transformer.resblocks")


@dataclass(frozen=True)
class Example:
    """A pipeline, and the same weights as a single file has them."""

    pipeline: Any
    state: dict[str, Tensor]


def _example(kind: str, folder: Path, autoencoder_names: Rename) -> Example:
    clip, filled = make_tokenizer(folder / "clip"), make_tokenizer(folder / "open", "!")
    parts: dict[str, Any] = {"scheduler": _scheduler("epsilon"), "vae": _vae(0.18215)}
    if kind == "sd1":
        parts |= {"unet": _unet(), "text_encoder": _clip(2, "quick_gelu", WORDS - 1), "tokenizer": clip}
        words = {single_file.CLIP + key: value for key, value in _bare(parts["text_encoder"].state_dict()).items()}
    elif kind == "sd2":
        whole = _clip(24, "gelu", 0)
        used = _clip(23, "gelu", 0)
        used.load_state_dict({key: value for key, value in whole.state_dict().items() if "layers.23." not in key})
        parts |= {"unet": _unet(use_linear_projection=True), "text_encoder": used, "tokenizer": filled}
        words = _open_clip(whole.state_dict(), single_file.OPEN_CLIP)
        words[single_file.OPEN_CLIP + "text_projection"] = torch.randn(WIDTH, WIDTH)  # there, and of no use
    else:
        return _example_xl(clip, filled, autoencoder_names)
    pipeline = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return Example(pipeline, words | _networks(pipeline, autoencoder_names))


def _example_xl(clip: Any, filled: Any, autoencoder_names: Rename) -> Example:
    first, second = _clip(2, "quick_gelu", WORDS - 1), _clip(10, "gelu", 0, CLIPTextModelWithProjection, 2 * WIDTH)
    unet = _unet(
        cross_attention_dim=3 * WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 2 * WIDTH,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=clip,
        tokenizer_2=filled,
        unet=unet,
        scheduler=_scheduler("epsilon"),
        add_watermarker=False,
    )
    words = {single_file.XL_CLIP + key: value for key, value in _bare(first.state_dict()).items()}
    return Example(
        pipeline,
        words | _open_clip(second.state_dict(), single_file.XL_OPEN_CLIP) | _networks(pipeline, autoencoder_names),
    )


def _networks(pipeline: Any, autoencoder_names: Rename) -> dict[str, Tensor]:
    unet = {single_file.UNET + key: value for key, value in to_ldm(pipeline.unet.state_dict()).items()}
    return unet | autoencoder_names(pipeline.vae.state_dict())


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def example(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, autoencoder_names: Rename
) -> Example:
    return _example(request.param, tmp_path_factory.mktemp("tokenizers"), autoencoder_names)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory, autoencoder_names: Rename) -> Example:
    return _example("sd1", tmp_path_factory.mktemp("tokenizers"), autoencoder_names)


def _save(state: Mapping[str, Tensor], path: Path, **metadata: str) -> Path:
    if path.suffix == ".ckpt":
        torch.save({"state_dict": dict(state)}, path)
        path.with_suffix(".json").write_text(f'{{"heads": "{HEADS}"}}')
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path, {**METADATA, **metadata})
    return path


def _picture(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.unet.float()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    given = {"width": 64, "height": 64, "num_inference_steps": 2, "output_type": "pt", "guidance_scale": 3.0}
    return pipeline("Two cats, naïve 3D!", negative_prompt="rain", latents=latents, **given).images


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_draws_what_its_pipeline_draws(example: Example, tmp_path: Path, suffix: str) -> None:
    path = _save(example.state, tmp_path / f"model{suffix}")
    loaded = load_base(path).pipeline
    assert type(loaded) is type(example.pipeline)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (part := getattr(example.pipeline, name, None)) is not None:
            own = getattr(loaded, name).state_dict()
            assert own.keys() == part.state_dict().keys()
            assert all(own[key].equal(value) for key, value in part.state_dict().items())
    assert _picture(loaded).equal(_picture(example.pipeline))
    frozen = load_frozen(path, torch.device("cpu")).unet.state_dict()  # a training reads it the same way
    assert all(frozen[key].equal(value) for key, value in example.pipeline.unet.state_dict().items())


def test_half_precision_is_kept(sd1: Example, tmp_path: Path) -> None:
    path = _save({key: value.half() for key, value in sd1.state.items()}, tmp_path / "half.safetensors")
    loaded = load_base(path, dtype=torch.float16).pipeline
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.float16}


PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # name -> (kind, settings, what must come out)
    "SD 1.5": ("SD1", {"cross_attention_dim": 768, "attention_head_dim": 8}, {"attention_head_dim": [8] * 4}),
    "SD 2.1": (
        "SD2",
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        {"attention_head_dim": [5, 10, 20, 20]},
    ),
    "SDXL": (
        "SDXL",
        {
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {"addition_time_embed_dim": 256, "transformer_layers_per_block": [1, 2, 10]},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_get_their_own_configuration(name: str) -> None:
    kind, settings, expected = PUBLISHED[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
    shapes = {key: tuple(value.shape) for key, value in to_ldm(unet.state_dict()).items()}
    config = single_file._unet(
        single_file.ControlNetConfig.from_shapes(shapes), getattr(single_file, kind), pooled=1280
    )
    assert {key: config[key] for key in expected} == expected
    with torch.device("meta"):
        again = UNet2DConditionModel.from_config(config)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in unet.state_dict().items()
    }
    assert again.config["attention_head_dim"] == list(expected.get("attention_head_dim", (5, 10, 20)))


@pytest.mark.parametrize(
    ("change", "metadata", "given", "expected"),
    [
        ({}, {}, None, "epsilon"),
        ({}, {}, "v_prediction", "v_prediction"),
        ({}, {"modelspec.prediction_type": "v"}, None, "v_prediction"),
        ({"v_pred": torch.zeros(1)}, {}, None, "v_prediction"),
        ({"v_pred": torch.zeros(1)}, {"modelspec.prediction_type": "epsilon"}, None, "epsilon"),
    ],
)
def test_a_file_says_what_it_predicts(
    sd1: Example, tmp_path: Path, change: dict[str, Tensor], metadata: dict[str, str], given: str | None, expected: str
) -> None:
    path = _save(sd1.state | change, tmp_path / "model.safetensors", **metadata)
    assert load_base(path, prediction=given).pipeline.scheduler.config["prediction_type"] == expected


@pytest.mark.parametrize(("spread", "expected"), [(0.01, "epsilon"), (0.2, "v_prediction")])
def test_sd2_shows_its_prediction_by_a_bias(tmp_path: Path, spread: float, expected: str) -> None:
    path = tmp_path / "model.safetensors"
    bias = torch.tensor([-spread, spread] * 8)
    save_file({single_file.TELLTALE: bias, single_file.OPEN_CLIP + "ln_final.bias": torch.zeros(1)}, path)
    assert single_file._predicted(path, single_file.read_header(path)) == expected


def test_a_schedule_without_signal_at_its_end_is_kept(sd1: Example, tmp_path: Path) -> None:
    path = _save(sd1.state | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, tmp_path / "model.safetensors")
    base = load_base(path)
    assert base.pipeline.scheduler.alphas_cumprod[-1] < 1e-6
    other = make_scheduler("euler", base.pipeline.scheduler.config)
    other.set_timesteps(5)
    assert other.timesteps[0] == 999


def test_other_schedulers_space_their_steps_as_for_a_published_folder(example: Example, tmp_path: Path) -> None:
    """Published folders of SDXL name a spacing; those of SD 1.x and SD 2.x leave it to the scheduler."""
    base = load_base(_save(example.state, tmp_path / "model.safetensors"))
    unipc = make_scheduler("unipc", base.pipeline.scheduler.config)
    xl = isinstance(base.pipeline, StableDiffusionXLPipeline)
    assert unipc.config["timestep_spacing"] == ("leading" if xl else "linspace")
    assert unipc.config["prediction_type"] == "epsilon"


def _without(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


def test_what_is_no_whole_checkpoint_is_refused(sd1: Example, tmp_path: Path) -> None:
    wide = single_file.UNET + "input_blocks.0.0.weight"
    lone = single_file.UNET + "out.2.bias"
    bad = {
        "no base model": _without(sd1.state, single_file.UNET),
        "no autoencoder": _without(sd1.state, single_file.VAE),
        "no text encoder": _without(sd1.state, single_file.CLIP),
        "reads 5 latent channels": {**sd1.state, wide: torch.zeros(32, 5, 3, 3)},
        "refiner": {**sd1.state, single_file.REFINER + "text_projection": torch.zeros(1)},
        "lacks some": {key: value for key, value in sd1.state.items() if key != lone},
    }
    for words, state in bad.items():
        with pytest.raises(HostError, match=words):
            load_base(_save(state, tmp_path / "model.safetensors"))


def test_an_inpainting_checkpoint_keeps_what_its_mask_keeps(sd1: Example, tmp_path: Path) -> None:
    wide = single_file.UNET + "input_blocks.0.0.weight"
    more = torch.randn(32, 5, 3, 3, generator=torch.Generator().manual_seed(5)) * 0.05
    state = {**sd1.state, wide: torch.cat([sd1.state[wide], more], dim=1)}
    base = load_base(_save(state, tmp_path / "model.safetensors"))
    unet = base.pipeline.unet
    assert (unet.config["in_channels"], unet.config["out_channels"]) == (9, 4)
    assert to_ldm(unet.state_dict())["input_blocks.0.0.weight"].equal(state[wide])
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    picture = np.full((64, 64, 3), 90, np.uint8)
    drawn = generate(base, Request(steps=2, width=64, height=64, image=picture, mask=mask)).images[0]
    assert (drawn[32:] == 90).all() and (drawn[:32] != 90).any()


def test_a_truncated_checkpoint_is_refused(sd1: Example, tmp_path: Path) -> None:
    path = _save(sd1.state, tmp_path / "model.safetensors")
    content = path.read_bytes()
    for length in (4, 1000, len(content) - 100):
        path.write_bytes(content[:length])
        with pytest.raises(ControlError, match=r"truncated|cannot be read"):
            load_base(path)


def test_words_become_the_ids_of_clip(tmp_path: Path) -> None:
    """The ids are those that OpenAI's CLIP gives."""
    tokenizer = make_tokenizer(tmp_path / "clip")
    ids = tokenizer("a photo of a cat", padding="max_length", max_length=77)["input_ids"]
    assert ids == [49406, 320, 1125, 539, 320, 2368, *[49407] * 71]
    filled = make_tokenizer(tmp_path / "open", "!")("cat", padding="max_length", max_length=77)["input_ids"]
    assert filled == [49406, 2368, 49407, *[0] * 74]
    assert len(tokenizer) == WORDS
    assert TABLE.is_file()


def test_loading_leaves_the_file_as_it_was(sd1: Example, tmp_path: Path) -> None:
    path = _save(sd1.state, tmp_path / "model.safetensors")
    load_base(path)
    assert load_file(path).keys() == sd1.state.keys()
    assert list(tmp_path.iterdir()) == [path]
