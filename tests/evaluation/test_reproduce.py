"""The experiments run, go on where they were stopped, and their page says what was measured and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack import cli
from controlstack.core.errors import HostError
from controlstack.preprocessors.images import read_image
from controlstack.training.reproduce import trainings
from controlstack.training.reproduce.command import NAMES
from controlstack.training.reproduce.curves import draw_curves, half_way, largest_jump
from controlstack.training.reproduce.experiments import ablation, conditions, controlnext, data_size, prompts, sudden
from controlstack.training.reproduce.experiments.asked import CONFLICTING, FULL, INSUFFICIENT, NONE, prompts_of
from controlstack.training.reproduce.page import DIFFERS, HOLDS
from controlstack.training.reproduce.registry import EXPERIMENTS
from controlstack.training.reproduce.run import collected, reproduce, text_of, write_page
from controlstack.training.reproduce.sizes import FULL as FULL_SIZES
from controlstack.training.reproduce.sizes import QUICK, TOY
from controlstack.training.reproduce.trainings import trained
from controlstack.training.reproduce.world import World
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


def silent(_text: str) -> None:
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """All experiments, at toy size."""
    made = World(tmp_path_factory.mktemp("reproduced"), TOY)
    reproduce(made, (), silent)
    return made


def test_every_experiment_leaves_numbers_and_pictures(world: World) -> None:
    results = collected(world)
    assert tuple(results["experiments"]) == NAMES == tuple(each.name for each in EXPERIMENTS)
    for name, found in results["experiments"].items():
        assert found["measured"]
        assert found["pictures"]
        for picture in found["pictures"]:
            assert read_image(world.folder / "results" / picture).std() > 1, name


def test_the_page_is_made_of_the_numbers_beside_it(world: World, tmp_path: Path) -> None:
    write_page(world, tmp_path / "papers.md")
    text = (tmp_path / "papers.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "papers.json").read_text(encoding="utf-8"))
    assert text == text_of(results)
    for each in EXPERIMENTS:
        assert f"## {each.title}" in text
        for picture in results["experiments"][each.name]["pictures"]:
            assert f"(images/{picture})" in text
            assert (tmp_path / "images" / picture).is_file()
    assert "made at the sizes *toy*" in text
    accuracy = results["experiments"]["conditions"]["measured"]["canny + color"]["colour_accuracy"]
    assert f"{accuracy:.3f}" in text


def test_what_is_there_is_not_run_again(world: World) -> None:
    said: list[str] = []
    reproduce(world, (), said.append)
    assert said == [f"{each.name}: is there" for each in EXPERIMENTS]


def test_a_folder_of_other_sizes_is_refused(world: World) -> None:
    with pytest.raises(HostError, match="holds a run at other sizes"):
        reproduce(World(world.folder, QUICK), (), silent)


def test_the_committed_page_is_made_of_its_numbers() -> None:
    page = ROOT / "docs" / "papers.md"
    if not page.is_file():
        pytest.skip("docs/papers.md is not made: controlstack reproduce --out reproduced --page docs/papers.md")
    results = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8") == text_of(results)
    for found in results["experiments"].values():
        for picture in found["pictures"]:
            assert (page.parent / "images" / picture).is_file()


def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, TOY)
    save = trainings.Run.save

    def save_and_die(run: Any, path: Path) -> None:
        save(run, path)
        raise MemoryError

    whole = trained(world, "whole", silent, seed=5)
    with monkeypatch.context() as patched:
        patched.setattr(trainings.Run, "save", save_and_die)
        with pytest.raises(MemoryError):
            trained(world, "stopped", silent, seed=5)
    assert (world.folder / "trainings" / "stopped" / "control.state").is_file()
    again = trained(world, "stopped", silent, seed=5)
    ours, theirs = load_file(again.path), load_file(whole.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (again.steps, again.looks, again.losses) == (whole.steps, whole.looks, whole.losses)
    assert whole.steps == [0, 1, 2]
    assert whole.learnable > whole.of_base == 0


def test_the_other_base_draws_other_colours(world: World) -> None:
    measured = collected(world)["experiments"]["transfer"]["measured"]
    assert set(measured) == {
        "its own base", "other base, no control", "other base, as it is", "other base, carried over"
    }  # fmt: skip
    assert (world.folder / "other-base" / "model_index.json").is_file()


def test_prompts_are_of_four_kinds(world: World) -> None:
    captions = [scene.caption for scene in world.trial.scenes]
    assert prompts_of(world, NONE) == ([""] * 2, 1.0)
    assert prompts_of(world, FULL)[0] == captions
    assert prompts_of(world, CONFLICTING)[0] == captions[::-1]
    for said, scene in zip(prompts_of(world, INSUFFICIENT)[0], world.trial.scenes, strict=True):
        assert scene.ground in said
        assert not any(shape.kind in said for shape in scene.shapes)


def test_half_way_and_the_largest_jump_are_as_by_hand() -> None:
    curve = [0, 10, 20, 30, 40], [0.1, 0.15, 0.2, 0.7, 0.9]
    assert half_way(curve) == 30  # 0.5 is half-way between 0.1 and 0.9
    assert largest_jump(curve) == (20, 30, pytest.approx(0.5 / 0.8))
    assert largest_jump(([0, 1], [0.5, 0.4]))[2] == 0.0


def test_curves_are_drawn_where_they_are() -> None:
    picture = draw_curves({"low": ([0, 10], [0.0, 0.0]), "high": ([0, 10], [1.0, 1.0])}, "steps")
    blue, orange = (np.argwhere((picture == colour).all(axis=2))[:, 0] for colour in ((30, 80, 200), (210, 90, 20)))
    assert np.median(blue) > 200 > 100 > np.median(orange)


def values(colours: float = 0.0, edges: float = 0.0) -> dict[str, float]:
    return {"edge_f1": edges, "depth_error": 0.1, "colour_accuracy": colours, "fid": 0.1}


def holding(experiment: Any, measured: Mapping[str, Any]) -> list[bool]:
    return [each.holds for each in experiment.EXPERIMENT.tell(measured).verdicts]


@pytest.mark.parametrize(
    ("lite", "gaussian", "expected"),
    [(0.2, 0.25, [True, True, True]), (0.9, 0.9, [False, False, False]), (0.2, 0.9, [True, True, False])],
)
def test_the_ablation_says_who_fails(lite: float, gaussian: float, expected: list[bool]) -> None:
    kinds = {"ControlNet": 0.9, "ControlNet-Lite": lite, "Gaussian start": gaussian}
    measured = {name: {kind: values(value) for kind in ablation.ASKED} for name, value in kinds.items()}
    assert holding(ablation, measured) == expected


def test_verdicts_follow_the_numbers() -> None:
    both = {
        "none": values(0.2, 0.1),
        "canny": values(0.2, 0.9),
        "color": values(0.9, 0.8),
        "canny + color": values(0.9, 0.9),
    }
    assert holding(conditions, both) == [True]
    assert holding(conditions, {**both, "canny + color": values(0.5, 0.9)}) == [False]
    asked = {kind: values(0.3, 0.9) for kind in (NONE, INSUFFICIENT, CONFLICTING)}
    asked |= {FULL: values(0.9, 0.9), "full, no control": values(0.7, 0.2)}
    assert holding(prompts, asked) == [True, True]
    assert holding(prompts, {**asked, CONFLICTING: values(0.3, 0.2)}) == [False, True]
    sizes = {"no control": values(0.2), "10": values(0.4), "1000": values(0.9)}
    assert holding(data_size, sizes) == [True, True]
    assert holding(data_size, {**sizes, "10": values(0.2)}) == [False, True]
    small = {"steps": [0, 1, 2, 3], "obedience": [0.1, 0.1, 0.9, 0.9], "batch": 4}
    large = {"steps": [0, 1, 2, 3], "obedience": [0.1, 0.4, 0.7, 0.9], "batch": 8}
    assert holding(sudden, {"batch 4": small, "batch 8": large}) == [True, False, False]
    nets = {
        "ControlNet": {**small, "learnable": 100, "of_base": 0},
        "ControlNeXt": {**large, "learnable": 40, "of_base": 9},
    }
    assert holding(controlnext, {**nets, "base": 200}) == [True, False]
    for obedience, sooner in (([0.1, 0.6, 0.7, 0.7], True), ([0.1, 0.2, 0.2, 0.2], False)):
        nets["ControlNeXt"]["obedience"] = obedience
        assert holding(controlnext, {**nets, "base": 200}) == [True, sooner]


def test_a_verdict_is_written_as_it_is() -> None:
    kinds = {"ControlNet": 0.9, "ControlNet-Lite": 0.2, "Gaussian start": 0.9}
    measured = {name: {kind: values(value) for kind in ablation.ASKED} for name, value in kinds.items()}
    results = {
        "sizes": {name: getattr(TOY, name) for name in TOY.__slots__},
        "experiments": {"ablation": {"measured": measured, "pictures": []}},
    }
    text = text_of(results)
    assert f"| ControlNet-Lite fails without a prompt, ControlNet does not | {HOLDS} |" in text
    assert f"as bad as ControlNet-Lite | {DIFFERS} |" in text
    assert "ControlNet 0.900, ControlNet-Lite 0.200, Gaussian start 0.900" in text
    assert f"## Not run yet\n\n{EXPERIMENTS[0].title}; " in text


def test_the_full_sizes_span_two_orders_of_magnitude() -> None:
    assert FULL_SIZES.examples == (100, 1000, 10_000)
    assert len(set(FULL_SIZES.batches)) == 2


def test_an_unknown_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "--out", "x", "--only", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
