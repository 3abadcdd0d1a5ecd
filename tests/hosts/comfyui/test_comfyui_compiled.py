"""Units on a base model that the host's own node compiles: as on the one that is not, at every step.

dynamo alone is at work, by its backend that compiles nothing, so no compiler is needed.
"""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_host import Host
from comfyui_scene import Scene, difference
from torch import Tensor

TOLERANCE = 1e-4  # of the latents' range
MIDDLE: dict[str, Any] = {"start": 0.25, "end": 0.75, "basis": "steps", "weight": 3.0}


def drawn(host: Host, *, compiled: bool, kind: str | None, **said: Any) -> Tensor:
    scene = Scene(steps=4)
    if kind is not None:
        control = scene.ours("canny") if kind == "canny" else scene.graph.add(
            "TestFamily", model=scene.model, kind=kind
        )  # fmt: skip
        scene.apply(scene.unit(control, scene.picture(), **said))
    if compiled:
        scene.model = scene.graph.add("TestCompiled", model=scene.model, backend="eager")
    return scene.draw(host)


def check(host: Host, kind: str, **said: Any) -> None:
    wanted = drawn(host, compiled=False, kind=kind, **said)
    assert difference(wanted, drawn(host, compiled=False, kind=None)) > 10 * TOLERANCE
    assert difference(drawn(host, compiled=True, kind=kind, **said), wanted) <= TOLERANCE


@pytest.mark.parametrize("said", [MIDDLE, {"reuse": "0 2"}], ids=["in a range", "reused"])
def test_residuals_reach_a_compiled_model(comfyui: Host, said: dict[str, Any]) -> None:
    check(comfyui, "canny", **said)


@pytest.mark.parametrize("kind", ["cross out", "query tap"])
def test_what_acts_inside_reaches_a_compiled_model_in_its_range_alone(comfyui: Host, kind: str) -> None:
    """The node lets dynamo look at nothing in the options of a call, where patches are."""
    check(comfyui, kind, **MIDDLE)
