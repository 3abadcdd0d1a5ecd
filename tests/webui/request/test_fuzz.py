"""Whatever a client sends is a unit that can act, or one printable line that names the unit: never an error of Python.

Requests and poses walk the way on which the WebUI's routes send them. Hypothesis chooses what is sent, always the same.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from controlstack.core.errors import ControlError
from controlstack.pipelines.tiny_world import CONTROLS
from controlstack.preprocessors import offered
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from controlstack.scripts.webui.clients.api import render_poses
from controlstack.scripts.webui.host.cache import ModelCache
from controlstack.scripts.webui.host.files import ModelFiles
from controlstack.scripts.webui.request.arguments import SLOTS, units_of
from controlstack.scripts.webui.request.needs import Services
from controlstack.scripts.webui.request.passes import Passes
from controlstack.scripts.webui.request.preparing import prepare, write_text
from controlstack.scripts.webui.request.preprocessing import Preprocessing
from controlstack.scripts.webui.request.saying import SENTENCE, line
from controlstack.units.webui.fields import ALIASES, UnitArgs
from PIL import Image
from stand_ins import Settings, WebUI, webui_request

hypothesis = pytest.importorskip("hypothesis", reason="no hypothesis: it chooses what clients send")
some = hypothesis.strategies

SIDE = 64
EXAMPLES = hypothesis.settings(
    max_examples=300, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
SMALL = [each.id for each in offered() if not each.networks]
NUMBERS = some.one_of(
    some.floats(-1, 2), some.floats(allow_nan=True, allow_infinity=True), some.integers(-(10**400), 10**400),
    some.integers(-2, 300),
)  # fmt: skip
ODD = ["", " ", "0", "-1", "1e400", "nan", "\x1b[2J\n", "²", "9" * 5000]
WORDS = some.one_of(some.text(max_size=40), some.sampled_from(ODD))
LEAVES = some.one_of(some.none(), some.booleans(), NUMBERS, WORDS)
ANYTHING = some.recursive(
    LEAVES, lambda inner: some.lists(inner, max_size=4) | some.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


def picture(mode: str = "RGB", size: int = SIDE) -> str:
    buffer = io.BytesIO()
    levels = np.random.default_rng(size).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(levels).convert(mode).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


GOOD = picture()
FORMS = [GOOD, f"data:image/png;base64,{GOOD}", GOOD[: len(GOOD) // 2], picture("L"), picture("1", 8), "/etc/passwd"]
MASKS = some.sampled_from([GOOD, "", picture("L", 8)])
PICTURES = some.one_of(
    some.sampled_from(FORMS), some.fixed_dictionaries({"image": some.just(GOOD)}, optional={"mask": MASKS}), ANYTHING
)
BY_NAME = {
    "enabled": some.one_of(some.just(True), ANYTHING),
    "module": some.one_of(some.sampled_from([*SMALL, "auto"]), WORDS),
    "model": some.one_of(some.just("canny"), some.just("canny.safetensors"), WORDS),
    "image": PICTURES,
    "mask": PICTURES,
    "effective_region_mask": PICTURES,
    "curve": some.one_of(some.lists(some.tuples(NUMBERS, NUMBERS).map(list), max_size=3), ANYTHING),
    "block_weights": some.one_of(some.lists(NUMBERS, max_size=14), ANYTHING),
    "advanced_weighting": some.one_of(some.lists(NUMBERS, max_size=14), ANYTHING),
    "parameters": some.one_of(some.dictionaries(some.sampled_from(["low", "high", "sigma", "x"]), NUMBERS), ANYTHING),
}
NAMES = [*(each.name for each in fields(UnitArgs)), *ALIASES, "guessmode", "unknown"]
# Each unit has a few odd fields, so that many get far.
UNITS = some.fixed_dictionaries(
    {"enabled": some.just(True), "model": some.just("canny"), "image": some.just(GOOD)}
).flatmap(
    lambda good: some.lists(some.sampled_from(NAMES), max_size=3).flatmap(
        lambda names: some.fixed_dictionaries({name: BY_NAME.get(name, LEAVES | ANYTHING) for name in names}).map(
            lambda odd: {**good, **odd}
        )
    )
)


PEOPLE = some.lists(some.dictionaries(some.just("pose_keypoints_2d"), some.lists(NUMBERS, max_size=60)), max_size=2)
SIDES = NUMBERS | some.just(64)
FRAMES = some.fixed_dictionaries(
    {"canvas_width": SIDES, "canvas_height": SIDES}, optional={"people": PEOPLE, "animals": ANYTHING}
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    folder = tmp_path_factory.mktemp("weights")
    host: Any = WebUI()
    program: Any = Settings()
    preprocess = Preprocessing(Runtime(store=Store(folder), pool=Pool(PlainManager("cpu"))))
    return Services(
        host=host, program=program, files=ModelFiles([CONTROLS]), models=ModelCache(2**30), preprocess=preprocess
    )


def said(walk: Callable[[], object]) -> str:
    """Return what somebody is told, empty if nothing; errors of Python pass."""
    try:
        walk()
    except ControlError as error:
        text = line(error)
        assert text.isprintable() and len(text) <= SENTENCE
        return str(error)
    return ""


@hypothesis.given(unit=UNITS)
@EXAMPLES
def test_a_request_is_a_unit_or_a_line(services: Services, unit: dict[str, Any]) -> None:
    def walk() -> None:
        p = webui_request(SIDE, SIDE)
        units = write_text(services, p, units_of([{"enabled": False}, unit, *[None] * (SLOTS - 2)]))
        prepared = [prepare(services, p, each, index) for index, each in enumerate(units)]
        for each in Passes(prepared, p, services.host, lambda: (True,)).present.stack.units:
            assert each.hint.isfinite().all() and math.isfinite(each.weight)

    assert re.match("(unit 1[: ]|$)", said(walk))


@hypothesis.given(frames=ANYTHING | some.lists(FRAMES, max_size=2))
@EXAMPLES
def test_poses_are_pictures_or_a_line(frames: Any) -> None:
    said(functools.partial(render_poses, frames if isinstance(frames, list) else [frames]))
