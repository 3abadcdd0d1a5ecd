"""Ranges, bases, keyframes."""

from __future__ import annotations

import math

import pytest
from controlstack.core.errors import ScheduleError
from controlstack.core.schedule import Easing, Keyframe, RangeBasis, Schedule, fires_on, progress_at

TWENTY = [progress_at(i, 20) for i in range(20)]


@pytest.mark.parametrize(
    ("basis", "start", "end", "steps"),
    [
        (RangeBasis.STEPS, 0.0, 1.0, range(20)),
        (RangeBasis.STEPS, 0.0, 0.5, range(10)),
        (RangeBasis.STEPS, 0.2, 0.8, range(4, 16)),
        (RangeBasis.STEPS, 0.0, 0.0, range(0)),
        (RangeBasis.STEPS, 0.96, 1.0, range(0)),
        # measured on sd-webui-controlnet: the counter lags by one and both ends count
        (RangeBasis.WEBUI, 0.0, 1.0, range(20)),
        (RangeBasis.WEBUI, 0.0, 0.5, range(12)),
        (RangeBasis.WEBUI, 0.2, 1.0, range(5, 20)),
        (RangeBasis.WEBUI, 0.25, 0.75, range(6, 17)),
        (RangeBasis.WEBUI, 0.05, 1.0, range(2, 20)),
        (RangeBasis.WEBUI, 0.0, 0.0, range(2)),
        (RangeBasis.WEBUI, 0.5, 0.5, range(11, 12)),
        (RangeBasis.WEBUI, 0.99, 1.0, range(0)),
    ],
)
def test_range_fires_on_these_of_twenty_steps(basis: RangeBasis, start: float, end: float, steps: range) -> None:
    assert fires_on(Schedule(start=start, end=end, basis=basis), TWENTY) == tuple(steps)


def test_noise_basis_reads_the_noise_and_includes_both_ends() -> None:
    schedule = Schedule(start=0.25, end=0.5, basis=RangeBasis.NOISE)
    noise = [0.0, 0.24, 0.25, 0.4, 0.5, 0.51]
    steps = [progress_at(i, 6, noise=value) for i, value in enumerate(noise)]
    assert fires_on(schedule, steps) == (2, 3, 4)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 20, 30, 50])
def test_two_halves_make_a_whole(count: int) -> None:
    steps = [progress_at(i, count) for i in range(count)]
    for cut in (k / count for k in range(count + 1)):
        first = fires_on(Schedule(start=0.0, end=cut), steps) if cut < 1 else tuple(range(count))
        second = fires_on(Schedule(start=cut, end=1.0), steps)
        assert sorted((*first, *second)) == list(range(count))


def test_keyframes_interpolate_and_hold_outside() -> None:
    schedule = Schedule(keyframes=(Keyframe(at=0.25, weight=0.0), Keyframe(at=0.75, weight=2.0)))
    at = {value: schedule.multiplier({RangeBasis.STEPS: value}) for value in (0.0, 0.25, 0.5, 0.75, 0.9)}
    assert at == {0.0: 0.0, 0.25: 0.0, 0.5: 1.0, 0.75: 2.0, 0.9: 2.0}


@pytest.mark.parametrize(
    ("easing", "half", "quarter"),
    [
        (Easing.HOLD, 0.0, 0.0),
        (Easing.LINEAR, 0.5, 0.25),
        (Easing.EASE_IN, 0.25, 0.0625),
        (Easing.EASE_OUT, 0.75, 0.4375),
        (Easing.EASE_IN_OUT, 0.5, (1 - math.sqrt(0.5)) / 2),
    ],
)
def test_easing(easing: Easing, half: float, quarter: float) -> None:
    schedule = Schedule(keyframes=(Keyframe(at=0.0, weight=0.0, easing=easing), Keyframe(at=1.0, weight=1.0)))
    assert schedule.multiplier({RangeBasis.STEPS: 0.5}) == pytest.approx(half)
    assert schedule.multiplier({RangeBasis.STEPS: 0.25}) == pytest.approx(quarter)


def test_keyframes_do_not_reach_outside_the_range() -> None:
    schedule = Schedule(start=0.5, keyframes=(Keyframe(at=0.0, weight=1.0),))
    assert schedule.multiplier({RangeBasis.STEPS: 0.4}) == 0.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": 0.6, "end": 0.4}, "after its end"),
        ({"start": -0.1}, "expected 0 to 1"),
        ({"end": 1.5}, "expected 0 to 1"),
        ({"start": float("nan")}, "expected 0 to 1"),
        ({"keyframes": (Keyframe(at=0.5, weight=1), Keyframe(at=0.5, weight=2))}, "rising order"),
        ({"keyframes": (Keyframe(at=0.5, weight=1), Keyframe(at=0.1, weight=2))}, "rising order"),
    ],
)
def test_senseless_schedules_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        Schedule(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"at": 1.2, "weight": 1.0}, {"at": 0.5, "weight": float("inf")}])
def test_senseless_keyframes_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ScheduleError):
        Keyframe(**settings)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_step_outside_the_run_is_refused(index: int) -> None:
    with pytest.raises(ScheduleError, match="does not exist"):
        progress_at(index, 4)
