"""A network that a host has loaded is described from its shapes alone."""

from __future__ import annotations

import torch
from controlstack.models.naming import to_ldm
from controlstack.models.registry import outline
from diffusers import ControlNetModel, UNet2DConditionModel


def test_a_controlnet_is_described_as_its_file_would_be(theirs: ControlNetModel) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in to_ldm(theirs.state_dict()).items()}
    found = outline(shapes)
    assert found is not None
    assert found.base.context == theirs.config["cross_attention_dim"]
    assert found.base.blocks is not None
    assert len(found.points) == len(found.base.blocks) + 1 == len(found.soft_weights)
    assert found.soft_weights[1] / found.soft_weights[0] == 1 / 0.825


def test_other_networks_are_not_ours(unet: UNet2DConditionModel) -> None:
    assert outline({name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}) is None
    assert outline({"weight": tuple(torch.zeros(3).shape)}) is None
