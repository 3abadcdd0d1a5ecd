"""The recipe of Uni-ControlNet: it starts as a copy of the base, learns to read its hints, and writes its own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from controlstack.core.errors import ControlError
from controlstack.core.schedule import progress_at
from controlstack.core.step import Step
from controlstack.models.files.loading import read_header
from controlstack.models.kinds.unions import OPTION
from controlstack.models.registry import identify, load_control_model
from controlstack.training.loop import train
from controlstack.training.options import kind_of
from controlstack.training.recipes.uni import UniRecipe
from controlstack.training.results.model import write_model
from controlstack.training.settings import Settings
from controlstack.training.start import start
from diffusers import UNet2DConditionModel
from uni_shapes import local_adapter

Made = Callable[..., Settings]


def test_a_uni_controlnet_starts_as_the_base_s_encoder(settings: Settings, of_family: Made) -> None:
    """Its normalisations read the hints, and are the base's own until they have learned to."""
    run, copy = start(of_family("uni-controlnet")), start(settings)
    x, time = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    context = torch.randn(2, 7, run.base.unet.config["cross_attention_dim"])
    step = Step(x=x, timestep=time, context=context, cond=(True, True), progress=progress_at(0, 1))
    hint = torch.rand(1, 3, 64, 64)
    answers = []
    for each, told in ((run, {OPTION: "depth"}), (copy, {})):
        model = each.recipe.model(each.network, each.base.unet, each.settings).bind(told)
        for zero in (*each.network.zero_convs, each.network.middle_block_out):
            zero[0].weight.data.copy_(torch.eye(len(zero[0].weight))[..., None, None])
        answers.append(list(model(step, model.prepare(hint), model.encode(context), model.points)))
    for (_, one), (_, other) in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_trained_uni_controlnet_is_a_file_of_the_family(of_family: Made, tmp_path: Path) -> None:
    run = start(of_family("uni-controlnet", steps=3, warm_up=0))
    list(train(run))
    (path,) = write_model(run, tmp_path / "uni.safetensors")
    model = load_control_model(path)
    assert identify(read_header(path)).id == "uni-controlnet"
    for name, weight in model.network.state_dict().items():
        assert weight.equal(run.network.state_dict()[name])
    assert any(each.weight.any() for each in model.network.feature_extractor.zero_convs)  # what reads the hints learns
    again = start(of_family("uni-controlnet", start=path))
    assert all(again.network.state_dict()[name].equal(each) for name, each in run.network.state_dict().items())


def test_over_sd15_it_is_as_large_as_the_published_one(settings: Settings) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        network = UniRecipe().create(unet, settings)
    shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    assert shapes == local_adapter((320, 640, 1280, 1280), 768, (192, 256, 384, 512))


@pytest.mark.parametrize(
    ("family", "text", "words"),
    [
        ("uni-controlnet", "content=canny", "expected KIND=SOURCE with one of auto, canny, mlsd, .*, segmentation "),
        ("uni-controlnet", "tile=canny", "--kind is 'tile=canny', expected KIND=SOURCE"),
        ("lllite", "canny=canny", "--kind is of another family than lllite"),
    ],
)
def test_a_family_learns_its_own_kinds(family: str, text: str, words: str) -> None:
    with pytest.raises(ControlError, match=words):
        kind_of(text, family)
