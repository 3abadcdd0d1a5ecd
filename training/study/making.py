"""The page of a study, and its key: only the key knows which picture is whose, so the page stays blind for everybody.

The page holds its pictures and its program, and needs nothing else. Which pair comes when, and what is left and what
right, is drawn anew for each person, in the browser.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import HintError
from ...preprocessors.folders import list_pictures
from ...preprocessors.images import read_image
from ..evaluation.own.page import data_uri

DATA = "/*data*/"  # in the template
LEAST = 2  # methods
SIDE = 512  # pixels of a picture's short side
SHOWN = 3  # names in a message


def make_study(
    methods: Mapping[str, Path], hints: Path | None, questions: Sequence[str], limit: int, seed: int
) -> tuple[str, dict[str, Any]]:
    """Return (page, key). methods: folders of pictures with the same names. hints: a folder shown beside the pairs.

    HintError where folders do not fit together.
    """
    items = items_of(methods, hints, limit)
    rng = np.random.default_rng(seed)
    names = [(method, item) for item in items for method in methods]
    numbers = [int(number) for number in rng.permutation(len(names))]
    ids = {name: f"p{number}" for name, number in zip(names, numbers, strict=True)}
    trials = [
        {"pair": sorted((ids[one, item], ids[other, item])), "question": question, "item": index}
        for index, item in enumerate(items)
        for one, other in combinations(methods, 2)
        for question in range(len(questions))
    ]
    order = [int(number) for number in rng.permutation(len(trials))]
    numbered = {f"t{k}": trials[place] for k, place in enumerate(order)}
    pictures = {ids[method, item]: read_image(_find(methods[method], item)) for method, item in names}
    uris = {name: data_uri(picture, SIDE) for name, picture in sorted(pictures.items())}
    study = hashlib.sha256(json.dumps([numbered, uris, list(questions)]).encode()).hexdigest()[:16]
    shown = {str(k): data_uri(read_image(_find(hints, item)), SIDE) for k, item in enumerate(items)} if hints else {}
    data = {"study": study, "questions": list(questions), "trials": numbered, "pictures": uris, "hints": shown}
    key = {
        "study": study,
        "methods": list(methods),
        "questions": list(questions),
        "pictures": {ids[name]: {"method": name[0], "item": name[1]} for name in names},
        "trials": numbered,
    }
    return _page(data), key


def items_of(methods: Mapping[str, Path], hints: Path | None, limit: int) -> list[str]:
    """Return the names of the pictures, without suffix, that all folders have. HintError where one lacks some."""
    if len(methods) < LEAST:
        raise HintError(f"a study compares {LEAST} folders or more, got {len(methods)}: give NAME=FOLDER for each")
    folders = {**methods, **({} if hints is None else {"the hints": hints})}
    stems = {name: _stems(name, folder) for name, folder in folders.items()}
    first = next(iter(stems))
    wanted = sorted(stems[first])[: limit or None]
    for name, found in stems.items():
        if missing := [stem for stem in wanted if stem not in found]:
            raise HintError(
                f"'{folders[name]}' lacks {len(missing)} of the {len(wanted)} pictures of '{folders[first]}' "
                f"({', '.join(missing[:SHOWN])}): pictures of the same thing need the same name"
            )
    return wanted


def _stems(name: str, folder: Path) -> set[str]:
    if not folder.is_dir():
        raise HintError(f"{name} is '{folder}', which is no folder: give one of pictures")
    found = {path.stem for path in list_pictures(folder).files}
    if not found:
        raise HintError(f"{name} is '{folder}', which holds no picture")
    return found


def _find(folder: Path, stem: str) -> Path:
    return next(path for path in list_pictures(folder).files if path.stem == stem)


def _page(data: Mapping[str, Any]) -> str:
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    # "<" inside a script could end it
    return template.replace(DATA, json.dumps(data).replace("<", "\\u003c"))
