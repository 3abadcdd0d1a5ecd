"""Training over an SDXL base: two text encoders, sizes and pooled text as conditions of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import HostError
from controlstack.models.registry import load_control_model
from controlstack.training import commands
from controlstack.training.loop import loss_of, train
from controlstack.training.settings import Settings
from controlstack.training.start import start
from controlstack.training.words import Words, encode_words, words_of
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": (2, 4),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
}


def _randomise(network: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def xl(world: Path) -> Path:
    """A random SDXL-shaped base with the tiny world's tokenizer and autoencoder, and a sampler's noise scales."""
    part: Any = DiffusionPipeline.from_pretrained(world / "base", local_files_only=True)
    settings = {**part.text_encoder.config.to_dict(), "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    config = CLIPTextConfig(**settings)
    pipeline = StableDiffusionXLPipeline(
        vae=part.vae,
        text_encoder=_randomise(CLIPTextModel(config), 1),
        text_encoder_2=_randomise(CLIPTextModelWithProjection(config), 2),
        tokenizer=part.tokenizer,
        tokenizer_2=part.tokenizer,
        unet=_randomise(UNet2DConditionModel(**UNET), 3),
        scheduler=EulerDiscreteScheduler(steps_offset=1),
        add_watermarker=False,
    )
    pipeline.save_pretrained(world / "xl")
    return world / "xl"


@pytest.fixture
def settings_xl(settings: Settings, xl: Path) -> Settings:
    return replace(settings, base=xl, steps=2)


def _words(base: Any, prompts: list[str], size: tuple[int, int]) -> Words:
    return words_of(encode_words(base, prompts), size, torch.device("cpu"))


@torch.no_grad()
def test_words_are_those_of_the_pipeline(settings_xl: Settings) -> None:
    model = start(settings_xl).base
    words = _words(model, ["a red star on blue"], (96, 128))
    context, _, pooled, _ = model.encode_prompt("a red star on blue", do_classifier_free_guidance=False)
    assert words.added is not None
    assert torch.equal(words.context, context)
    assert torch.equal(words.added["text_embeds"], pooled)
    sizes = model._get_add_time_ids((96, 128), (0, 0), (96, 128), dtype=context.dtype, text_encoder_projection_dim=32)
    assert torch.equal(words.added["time_ids"], sizes)


@torch.no_grad()
def test_an_untrained_control_adds_exactly_nothing_to_sdxl(settings_xl: Settings) -> None:
    run = start(settings_xl)
    unet, words = run.base.unet, _words(run.base, ["a star", ""], (128, 128))
    x, time, hint = torch.randn(2, 4, 16, 16), torch.tensor([10, 600]), torch.rand(2, 3, 128, 128)
    plain = unet(x, time, words.context, added_cond_kwargs=words.added).sample
    assert run.plain(x, time, hint, words).equal(plain)
    other = unet(x, time, words.context, added_cond_kwargs={**words.added, "time_ids": words.added["time_ids"] + 9})
    assert not other.sample.equal(plain)


def test_the_copy_learns_from_the_vector_condition(settings_xl: Settings) -> None:
    run = start(settings_xl)
    list(train(run))  # now the zero convolutions are awake
    loss_of(run, run.examples.batch(0, 2, seed=0)).backward()
    grads = {name: parameter.grad for name, parameter in run.network.named_parameters()}
    assert grads
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values()), grads.keys()
    assert "label_emb.0.0.weight" in grads


def test_noise_has_the_scales_of_the_training_not_of_a_sampler(settings_xl: Settings) -> None:
    scheduler = start(settings_xl).base.scheduler
    noisy = scheduler.add_noise(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2), torch.tensor([999]))
    assert noisy.max() <= 1


def test_the_command_trains_and_draws_with_sdxl(settings_xl: Settings, tmp_path: Path) -> None:
    out = tmp_path / "xl.safetensors"
    given = f"train --base {settings_xl.base} --data {settings_xl.data} --out {out} --hint canny --steps 1 --batch 1"
    assert commands.main([*given.split(), "--samples", "1", "--sample-steps", "1"]) == 0
    assert (tmp_path / "xl.samples" / "000001.png").is_file()
    with safe_open(out, "pt") as file:
        assert file.metadata()["controlstack.head_channels"] == "16"
    assert load_control_model(out).base.label == UNET["projection_class_embeddings_input_dim"]


def test_a_folder_of_another_architecture_is_refused(settings: Settings, tmp_path: Path) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel(8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=8, **_plain_blocks())
    DDIMPipeline(unet, DDIMScheduler(steps_offset=1)).save_pretrained(tmp_path / "other")
    with pytest.raises(HostError, match="DDIMPipeline"):
        start(replace(settings, base=tmp_path / "other"))


def _plain_blocks() -> dict[str, Any]:
    return {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
