"""The measures on the weights that papers use, where a folder holds them; CONTROLSTACK_MEASURES names it.

It holds `clip` (openai/clip-vit-large-patch14 as transformers saves it), `aesthetic.pth` (LAION's linear head for it),
`inception.pth` (torch-fidelity's) and `alexnet.pth` (torchvision's).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from controlstack.training.evaluation.measures.clip import Aesthetic, ClipScore, load_clip, load_head
from controlstack.training.evaluation.measures.frechet import INCEPTION, Fid, inception
from controlstack.training.evaluation.measures.lpips import load_lpips
from controlstack.training.evaluation.measures.measure import Sample
from skimage import data

pytestmark = pytest.mark.weights
FILES = ("clip/config.json", "aesthetic.pth", "inception.pth", "alexnet.pth")


@pytest.fixture(scope="module")
def folder() -> Path:
    named = os.environ.get("CONTROLSTACK_MEASURES")
    if named is None or not all((Path(named) / each).is_file() for each in FILES):
        pytest.skip(f"CONTROLSTACK_MEASURES names no folder with {', '.join(FILES)}")
    return Path(named)


def test_clip_knows_an_astronaut_and_people_like_the_picture(folder: Path) -> None:
    clip = load_clip(folder / "clip", torch.device("cpu"))
    score = ClipScore(clip)
    right, wrong = (
        score.add(Sample(data.astronaut(), prompt=words))["clip_score"]
        for words in ("a photo of an astronaut", "a photo of a horse")
    )
    assert 0.35 > right > wrong + 0.05
    assert (
        3
        < Aesthetic(clip, load_head(folder / "aesthetic.pth", clip.width)).add(Sample(data.astronaut()))["aesthetic"]
        < 8
    )


def test_fid_of_a_set_and_itself_is_0_and_of_noise_large(folder: Path) -> None:
    pytest.importorskip("torch_fidelity")
    pictures = [data.astronaut(), data.chelsea(), data.coffee()]
    noise = [np.random.default_rng(k).integers(0, 256, (299, 299, 3), dtype=np.uint8) for k in range(3)]
    found = []
    for drawn in (pictures, noise):
        measure = Fid(inception(folder / "inception.pth"), INCEPTION)
        for real, other in zip(pictures, drawn, strict=True):
            measure.refer(real)
            measure.add(Sample(other))
        found.append(measure.result()["fid"])
    assert found[0] == pytest.approx(0, abs=1e-2)
    assert found[1] > 100


def test_lpips_sees_a_shift_less_than_another_picture(folder: Path) -> None:
    distance = load_lpips(folder / "alexnet.pth")
    cat = data.chelsea()[:256, :256]
    assert distance(cat, np.roll(cat, 1, axis=1)) < distance(cat, data.coffee()[:256, :256]) / 3
