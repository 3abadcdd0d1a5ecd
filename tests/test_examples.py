"""The example workflows, which ComfyUI shows by the names of their files, in their order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "example_workflows").glob("*.json"))
LARGEST = 400 * 700  # area of a node, in the page's pixels
DARK = 30  # of 255: below it a picture says nothing in a list


def test_titles_are_numbered_words() -> None:
    assert [path.stem.split(" ")[0] for path in EXAMPLES] == [str(number) for number in range(1, len(EXAMPLES) + 1)]
    assert all("_" not in path.stem and path.stem[2].isupper() for path in EXAMPLES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_has_a_picture_and_no_oversized_node(path: Path) -> None:
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert np.asarray(picture.convert("L")).mean() > DARK
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    assert not [node["type"] for node in nodes if node["size"][0] * node["size"][1] > LARGEST]
