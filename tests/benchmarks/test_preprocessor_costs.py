"""The measurement of preprocessors runs, at a size at which it costs nothing; what it finds is no test's business."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("preprocessors")


def test_programs_take_turns(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LEAST", 0.0)
    order: list[str] = []
    found = benchmark.in_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == ["a", "b"] * 3
    assert found.keys() == {"a", "b"}


def test_every_row_is_measured(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LEAST", 0.0)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    rows = [row for batch in (1, 2) for row in benchmark.plain(64, batch)]
    assert [row["name"] for row in rows] == list(benchmark.PLAIN) * 2
    assert all("ours" in row for row in rows)
    assert "cv2" in rows[0]
    lines = benchmark.table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1


def test_the_crowd_is_three_people(benchmark: ModuleType) -> None:
    from controlstack.preprocessors.poses.people import find_people

    heat, fields = benchmark.crowd()
    assert len(find_people(heat, fields, (512, 512), (184, 184))) == 3
