"""The page about preprocessors says what the registry says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from controlstack.preprocessors import REGISTRY, Preprocessor, offered
from controlstack.preprocessors.document import DOCS, PICTURES, files_of, has_picture, page, picture_path, write
from controlstack.preprocessors.images import read_image

LIMIT = 20_000  # bytes of a picture
SHOWN = [each for each in REGISTRY if has_picture(each)]


def test_the_page_is_up_to_date() -> None:
    written = (DOCS / "preprocessors.md").read_text(encoding="utf-8")
    assert written == page(), "run python -m controlstack.preprocessors.document"


@pytest.mark.parametrize("preprocessor", SHOWN, ids=lambda each: each.id)
def test_every_picture_is_there_and_small(preprocessor: Preprocessor) -> None:
    path = DOCS / picture_path(preprocessor)
    assert path.stat().st_size <= LIMIT
    assert read_image(path).shape == read_image(DOCS / PICTURES / "source.jpg").shape


def test_no_picture_is_left_over() -> None:
    expected = {picture_path(each).name for each in SHOWN} | {"source.jpg", "face_mesh.json"}
    assert {path.name for path in (DOCS / PICTURES).iterdir()} == expected


def test_one_call_writes_everything(tmp_path: Path) -> None:
    (tmp_path / PICTURES).mkdir(parents=True)
    source = PICTURES / "source.jpg"
    (tmp_path / source).write_bytes((DOCS / source).read_bytes())
    write(tmp_path)
    assert (tmp_path / "preprocessors.md").read_text(encoding="utf-8") == page()
    for preprocessor in SHOWN:
        fresh, shown = (read_image(root / picture_path(preprocessor)).astype(int) for root in (tmp_path, DOCS))
        assert np.abs(fresh - shown).mean() < 4, preprocessor.id  # other versions of cv2 round differently


@pytest.mark.parametrize("preprocessor", [each for each in offered() if each.networks], ids=lambda each: each.id)
def test_the_help_page_of_a_node_names_its_licence(preprocessor: Preprocessor) -> None:
    told = (DOCS.parent / "web" / "docs" / "ControlStackPreprocess.md").read_text(encoding="utf-8").splitlines()
    lines = [line for line in told if line.startswith("Weights, ")]
    licensed = [line for line in lines if preprocessor.id in line.rpartition(": ")[2].rstrip(".").split(", ")]
    assert len(licensed) == 1 and all(file.licence in licensed[0] for file in files_of(preprocessor.networks))
