"""A tiny CLIP with random weights, as a folder of transformers, and pictures to judge."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from controlstack.pipelines.tiny_world import BASE
from controlstack.training.tiny.scenes import write_dataset


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP of transformers with the tiny world's words."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTextConfig,
        CLIPTokenizer,
        CLIPVisionConfig,
    )

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    tokens = len(tokenizer)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=tokens, max_position_embeddings=16, bos_token_id=tokens - 2, eos_token_id=tokens - 1, **small
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five examples of the tiny world."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 5, seed=1)
    return folder


@pytest.fixture
def drawn(tmp_path: Path, data: Path) -> Path:
    """A picture for each example, by its name: the example's own, a little brighter."""
    folder = tmp_path / "given"
    folder.mkdir()
    for path in sorted((data / "image").iterdir()):
        brighter = np.clip(cv2.imread(str(path)).astype(int) + 10, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / path.name), brighter)
    return folder
