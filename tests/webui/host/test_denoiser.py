"""What the WebUI's denoiser announces: progress in every basis, and which rows are cond."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from controlstack.core.schedule import RangeBasis
from controlstack.scripts.webui.host.unet.denoiser import Denoising, order_of, pictures_of


def scheduled(model: Any, x: Any, sigmas: Any) -> None: ...
def counted(model: Any, x: Any, sigma_min: float, sigma_max: float, n: int) -> None: ...
def free(model: Any, x: Any, sigma_min: float, sigma_max: float, rtol: float = 0.05) -> None: ...


def sampler(function: Callable[..., None], **options: Any) -> SimpleNamespace:
    return SimpleNamespace(func=function, config=SimpleNamespace(options=options))


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (sampler(scheduled), 1),
        (sampler(scheduled, second_order=True), 2),
        (sampler(counted), 1),
        (sampler(free), None),
        (None, 1),
        (SimpleNamespace(func="name", config=None), 1),
    ],
)
def test_evaluations_of_a_step(given: Any, order: int | None) -> None:
    assert order_of(given) == order


def steps(given: Any, noises: list[float], total: int) -> list[float]:
    denoising, seen = Denoising(), []
    for noise in noises:
        denoising.announce(2, 1, 0, total, given)
        seen.append(denoising.progress(lambda noise=noise: noise)[RangeBasis.STEPS])
    return seen


def test_steps_are_counted_without_looking_at_the_noise() -> None:
    def refuse() -> float:
        raise AssertionError("that would wait for the device")

    denoising = Denoising()
    denoising.announce(2, 1, 0, 4, sampler(scheduled))
    assert denoising.progress(refuse)[RangeBasis.STEPS] == 0


def test_two_evaluations_are_one_step() -> None:
    assert steps(sampler(scheduled, second_order=True), [0.0] * 7, 4) == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75]


def test_a_sampler_of_its_own_steps_is_where_its_noise_is() -> None:
    """It begins in the middle of the schedule here, and goes back once."""
    assert steps(sampler(free), [0.5, 0.625, 0.375, 0.75, 1.0], 3) == [0, 0.25, 0, 0.5, 1]
    assert steps(sampler(free), [1.0, 1.0], 3) == [0, 0]


@pytest.mark.parametrize(
    ("calls", "rows"),
    [
        ((4,), [True, True, False, False]),
        ((2, 2), [True, True, False, False]),
        ((1, 1, 2), [True, True, False, False]),
        ((2,), [True, True]),
        ((4, 4), [True, True, False, False] * 2),
    ],
)
def test_cond_rows_come_first_however_they_are_called(calls: tuple[int, ...], rows: list[bool]) -> None:
    denoising = Denoising()
    denoising.announce(4, 2, 0, 3)
    assert [row for count in calls for row in denoising.take(count)] == rows


def test_every_picture_has_one_uncond_row() -> None:
    assert pictures_of((True, True, False, False), 4) == (0, 1, 0, 1)
    assert pictures_of((True, True, False), 3) == (0, 0, 0)
    assert pictures_of((True, True), 2) is None


def test_rows_of_different_tiles_show_different_pictures() -> None:
    assert pictures_of((True, True, False, False) * 2, 4) == (0, 1, 0, 1, 4, 5, 4, 5)


def test_rows_that_are_picked_out_of_the_batch_are_known_by_their_numbers() -> None:
    denoising = Denoising()
    denoising.announce(6, 3, 0, 1)
    denoising.expect(6)
    assert denoising.flags((1, 2, 4, 5)) == (True, True, False, False)
    denoising.announce(6, 3, 0, 1)
    for cond in (True, False):  # handed over apart
        denoising.expect(3)
        assert denoising.flags((0, 2)) == (cond, cond)
