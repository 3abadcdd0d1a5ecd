"""Many random failures, interrupts and graphs in a real ComfyUI: each is followed by the picture that came before."""

from __future__ import annotations

import random
from threading import Timer
from typing import Any

import pytest
from comfyui_host import Host, RunError
from comfyui_scene import Scene
from torch import Tensor

pytestmark = [pytest.mark.hosts, pytest.mark.campaign]

MODES = ("balanced", "prompt", "control")


def drawn(host: Host, chance: random.Random | None, *, failure: dict[str, Any] | None = None, steps: int = 4) -> Tensor:
    """A picture under one to three random units, or (None) without any."""
    scene = Scene(steps=steps)
    if chance is not None:
        units = None
        for _ in range(chance.randint(1, 3)):
            model = chance.choice((scene.ours, scene.theirs))(chance.choice(("canny", "depth")))
            settings = {"weight": round(chance.uniform(0.2, 2), 2), "mode": chance.choice(MODES)}
            units = scene.unit(model, scene.picture(chance.randint(0, 5)), units, **settings)
        scene.apply(units)
    if failure is not None:
        scene.model = scene.graph.add("TestFailure", model=scene.model, **failure)
    return scene.draw(host)


@pytest.mark.tries(3, 100)
def test_failures_leave_nothing_behind(comfyui: Host, times: int) -> None:
    uncontrolled = drawn(comfyui, None)
    for trial in range(times):
        before = drawn(comfyui, random.Random(trial))
        chance = random.Random(-trial)
        failure = {"how": chance.choice(("raise", "interrupt")), "call": chance.randint(1, 4), "token": trial}
        with pytest.raises(RunError, match=r"interrupted|asked for"):
            drawn(comfyui, random.Random(trial), failure=failure)
        assert (drawn(comfyui, None) == uncontrolled).all(), trial
        assert (drawn(comfyui, random.Random(trial)) == before).all(), trial


@pytest.mark.tries(3, 100)
def test_interrupts_leave_nothing_behind(comfyui: Host, times: int) -> None:
    uncontrolled, stopped = drawn(comfyui, None), 0
    for trial in range(times):
        timer = Timer(random.Random(trial).uniform(0, 1), comfyui.interrupt)
        timer.start()
        try:
            drawn(comfyui, random.Random(trial), steps=40)
        except RunError as error:
            stopped += "interrupted" in str(error)
        finally:
            timer.join()
        assert (drawn(comfyui, None) == uncontrolled).all(), trial
    assert stopped >= times // 5
    print(f"{stopped} of {times} runs were interrupted")


@pytest.mark.tries(10, 300)
def test_memory_does_not_grow(comfyui: Host, times: int) -> None:
    for warm in range(5):
        drawn(comfyui, random.Random(-warm), steps=1)
    before = comfyui.memory()
    for trial in range(times):
        drawn(comfyui, random.Random(trial), steps=1)
    grown = (comfyui.memory() - before) / times
    print(f"{times} prompts: resident memory grew by {grown / 1024:.1f} KiB a prompt")
    assert grown * min(times, 1000) < 256 << 20
