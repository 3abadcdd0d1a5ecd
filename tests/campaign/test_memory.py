"""Many requests with other units, models and sizes: nothing of one is left when the next begins."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

import controlstack as cs
import pytest
import torch
from controlstack.pipelines.tiny_world import BASE, CONTROLS, IMAGES

pytestmark = pytest.mark.campaign

SIDES = (64, 96, 128)


def live() -> int:
    """Return the bytes of all tensors that anything in this process still holds, those of one storage once."""
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if type(each) is torch.Tensor or type(each) is torch.nn.Parameter:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def draw(base: Any, chance: random.Random) -> None:
    side = chance.choice(SIDES)
    units = [
        cs.unit(
            IMAGES / f"scene-{chance.randint(1, 3)}.png",
            CONTROLS / f"{chance.choice(('canny', 'depth', 'color'))}.safetensors",
            preprocessor=chance.choice(("canny", "none", "color", "blur_gaussian")),
            weight=chance.uniform(0.1, 2),
            size=(side, side),
        )
        for _ in range(chance.randint(0, 3))
    ]
    cs.generate(base, "a star", units=units, steps=1, width=side, height=side, seed=chance.randint(0, 99))


@pytest.mark.tries(12, 1_000)
def test_requests_leave_no_tensor_behind(times: int) -> None:
    base = cs.load_base(BASE, device="cpu")
    for warm in range(3):
        draw(base, random.Random(-warm))
    before, resident = live(), _resident()
    for trial in range(times):
        draw(base, random.Random(trial))
    assert live() == before
    print(f"{times} requests: resident memory grew by {(_resident() - resident) / times:.1f} KiB a request")


def _resident() -> float:
    """Return the resident memory of this process in KiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((float(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0.0)
