"""Regional Prompter beside units: where its regions have one prompt, units draw what they draw without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webui_host
from test_webui_reference import asked
from webui_effects import PACKS, draw
from webui_host import Drawing, Host
from webui_oracle import Wanted
from webui_units import unit

PROMPT = "a cat"
UNITS = {
    "no": (),
    "canny": (unit(),),
    "two": (unit(), unit(1, "depth", weight=0.6)),
    "ControlNeXt": (unit(file="next", weight=0.4),),
    "IP-Adapter": (unit(file="adapter", module="ip-adapter_clip_h"),),
    "style": (unit(file="style", module="t2ia_style_clipvision"),),
    "reference": (asked("reference_only"),),
    "heads": (unit(file="heads"),),
}


@pytest.fixture(scope="module")
def regional(webui_path: Path, every_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running WebUI with our extension, the test families and Regional Prompter."""
    theirs = webui_host.find_regional()
    if theirs is None:
        pytest.skip("no Regional Prompter: set WEBUI_REGIONAL_PATH to a folder of sd-webui-regional-prompter")
    base, extensions = tmp_path_factory.mktemp("regional"), (webui_host.ROOT, theirs)
    with webui_host.started(webui_path, base, every_models, extensions, packs=PACKS) as host:
        yield host


def regions(way: str) -> dict[str, list[Any]]:
    """Two columns of one width, in the order of its arguments."""
    matrix = ["Matrix", "Columns", "Mask", "Prompt", "1,1", "0.2"]
    return {"Regional Prompter": [True, False, *matrix, *(False,) * 3, way, "", "0", "0", "0.4", "", "0", "0", False]}


def far(one: Drawing, other: Drawing) -> int:
    """How far two pictures are from each other, in levels of 255, at their worst."""
    return int(np.abs(one.pictures[0].astype(int) - other.pictures[0]).max())


@pytest.mark.parametrize("way", ["Attention", "Latent"])
@pytest.mark.parametrize("name", UNITS)
def test_units_beside_it(regional: Host, way: str, name: str) -> None:
    """It evaluates the prompts apart, and each region of its own (Attention: each attention, Latent: the network)."""
    units: tuple[Wanted, ...] = UNITS[name]
    wanted = draw(regional, *units, prompt=PROMPT)
    both = f"{PROMPT} BREAK {PROMPT}"
    found = draw(regional, *units, prompt=both, scripts=regions(way))
    assert len(found.evaluations) > len(wanted.evaluations)
    assert far(found, wanted) <= 1
    assert not units or far(found, draw(regional, prompt=both, scripts=regions(way))) > 20
    assert far(found, draw(regional, *units, prompt=f"{PROMPT} BREAK a red dog", scripts=regions(way))) > 20
    assert far(draw(regional, *units, prompt=PROMPT), wanted) == 0
