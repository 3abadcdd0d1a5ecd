"""The prompt kinds; automatic ones come from a real captioning model, random but for its favourite word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.cli import main
from controlstack.core.errors import ControlError, HostError
from controlstack.pipelines.request import DEFAULT_PROMPT
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES
from controlstack.standalone.prompts import LONGEST, make_prompt
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "bright", "dark", "star")
PICTURE = np.full((40, 30, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP (Li et al. 2022), small; it says "star" as long as it may."""
    folder = tmp_path_factory.mktemp("captioner")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, **ids, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    config = BlipConfig(
        text_config={**text, "projection_dim": 16},
        vision_config={**size, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    model.text_decoder.cls.predictions.bias.data[WORDS.index("star")] = 50
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=True, bos_token="[DEC]")
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_kinds_of_prompts() -> None:
    assert make_prompt(None, None) == make_prompt("none", None) == ""
    assert make_prompt(None, "a cat") == make_prompt("user", "a cat") == "a cat"
    assert make_prompt("default", None) == DEFAULT_PROMPT
    assert make_prompt("user", "a cat", "sharp") == "a cat, sharp"
    assert make_prompt("none", None, "sharp") == "sharp"


def test_an_automatic_prompt_is_what_the_captioner_says(captioner: Path) -> None:
    said = make_prompt("automatic", None, "sharp", captioner, PICTURE)
    assert set(said.removesuffix(", sharp").split()) == {"star"}
    assert 1 < len(said.split()) <= LONGEST + 1


@pytest.mark.parametrize("given", ["unit", "image"])
def test_generate_describes_the_start_picture_else_that_of_the_first_unit(
    captioner: Path, tmp_path: Path, given: str
) -> None:
    picture = IMAGES / "scene-1.png"
    unit = f"image={picture},preprocessor=canny,model={CONTROLS / 'canny.safetensors'}"
    more = ["--unit", unit] if given == "unit" else ["--image", str(picture)]
    small = ["--steps", "2", "--width", "64", "--height", "64", "--output", str(tmp_path)]
    kind = ["--prompt-kind", "automatic", "--captioner", str(captioner), "--added-prompt", "sharp"]
    assert main(["generate", "--base", str(BASE), *more, *small, *kind]) == 0
    with Image.open(tmp_path / "00001.png") as drawn:
        prompt = json.loads(drawn.info["controlstack"])["prompt"]
    assert prompt.startswith("star star")
    assert prompt.endswith(", sharp")


def test_senseless_prompts_are_refused(captioner: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="--prompt"):
        make_prompt("user", None)
    with pytest.raises(HostError, match="'default'"):
        make_prompt("default", "a cat")
    with pytest.raises(ControlError, match="no captioning model"):
        make_prompt("automatic", None, "", tmp_path / "nowhere", PICTURE)
    with pytest.raises(HostError, match="--image"):
        make_prompt("automatic", None, "", captioner, None)
    with pytest.raises(HostError, match="captioning model"):
        make_prompt("automatic", None, "", tmp_path, PICTURE)
