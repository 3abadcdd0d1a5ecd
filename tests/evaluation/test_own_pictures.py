"""`controlstack evaluate` on one's own pictures and models: what comes out, what goes on, what is refused at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack import cli
from controlstack.core.errors import HintError
from controlstack.pipelines.tiny_world import BASE, CONTROLS
from controlstack.preprocessors import find
from controlstack.training.evaluation import tiny_command
from controlstack.training.evaluation.measures.measure import Better, Measure, Sample
from controlstack.training.evaluation.own.items import Item, items_of
from controlstack.training.evaluation.own.judging import Judging
from controlstack.training.evaluation.own.kinds import DEPTH, EDGES, POSE, SEGMENTATION, SOFT_EDGES, kind_of
from controlstack.training.evaluation.own.results import half_width, table, values_of
from controlstack.training.evaluation.page import BEGIN, END
from safetensors.torch import save_file

Bar = Callable[[Any, str], Any]


def no_bar(items: Any, _what: str) -> Any:
    return items


def never() -> bool:
    return False


def evaluate(out: Path, *more: str | Path) -> int:
    return cli.main(["evaluate", "--out", str(out), *map(str, more)])


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_pictures_are_judged_by_all_measures_at_once(
    drawn: Path, data: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    save_file({"weight": torch.ones(1, 16), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    given = ["--pictures", drawn, "--data", data, "--hint", "canny", "--hint-parameters", "low=50,high=100"]
    more = ["--clip", clip_folder, "--aesthetic", tmp_path / "head.safetensors", "--reference", data / "image"]
    assert evaluate(out, *given, *more, "--json", tmp_path / "also.json") == 0
    found = results(out)
    assert set(found["values"]) == {"clip_score", "aesthetic", "fid", "edge_f1"}
    assert found["values"]["edge_f1"]["value"] > 0.9  # nearly the same pictures
    assert found["values"]["edge_f1"]["pictures"] == len(found["pictures"]) == 5
    assert found["values"]["fid"] == {
        "value": pytest.approx(0, abs=5), "interval": None, "pictures": 5, "better": "lower is better"
    }  # fmt: skip
    mean = np.mean([each["clip_score"] for each in found["pictures"]])
    assert found["values"]["clip_score"]["value"] == pytest.approx(mean)
    assert json.loads((tmp_path / "also.json").read_text(encoding="utf-8")) == found
    said = capsys.readouterr().out
    assert "edge f1" in said and "lower is better" in said and "5 pictures" in said
    page = (out / "page.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 5 * 4  # hint, drawn, hint seen, the example's own
    assert "http" not in page.replace("data:image", "")
    assert not (out / "judged.state").exists()
    assert evaluate(out, *given, *more) == 2  # nothing is replaced unasked
    assert "is there already" in capsys.readouterr().err


def test_captions_alone_are_enough_for_clip(drawn: Path, data: Path, clip_folder: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path / "out", "--pictures", drawn, "--data", data, "--clip", clip_folder) == 0
    assert set(results(tmp_path / "out")["values"]) == {"clip_score"}


def test_a_model_draws_its_pictures_itself_and_those_that_are_there_are_kept(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["--data", data, "--hint", "canny", "--hint-parameters", "low=50,high=100", "--limit", "2"]
    given += ["--base", BASE, "--control", CONTROLS / "canny.safetensors", "--steps", "4", "--guidance", "2"]
    given += ["--scheduler", "ddim", "--device", "cpu"]
    assert evaluate(out, *given) == 0
    assert [path.name for path in sorted((out / "drawn").iterdir())] == ["000000.png", "000001.png"]
    controlled = results(out)["values"]["edge_f1"]["value"]
    before = (out / "drawn" / "000001.png").read_bytes()
    assert evaluate(out, *given) == 2  # it would draw over what is there
    assert "holds pictures: go on with --resume" in capsys.readouterr().err
    (out / "drawn" / "000001.png").unlink()
    assert evaluate(out, *given, "--resume") == 0
    assert (out / "drawn" / "000001.png").read_bytes() == before  # the same seed
    capsys.readouterr()
    assert evaluate(out, *given, "--steps", "5", "--limit", "3", "--resume") == 2  # and no mixture of both
    assert "were drawn with other settings (steps)" in capsys.readouterr().err
    alone = tmp_path / "alone"
    without = [each for each in given if each not in ("--control", CONTROLS / "canny.safetensors")]
    assert evaluate(alone, *without) == 0
    assert controlled > results(alone)["values"]["edge_f1"]["value"] + 0.2


def test_a_bad_example_is_named_without_an_option_that_there_is_not(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    picture = sorted((broken / "image").iterdir())[0]
    picture.write_bytes(picture.read_bytes()[:100])
    assert evaluate(tmp_path / "out", "--data", broken, "--hint", "canny", "--base", BASE, "--steps", "1") == 2
    said = capsys.readouterr().err
    assert "1 of 5 examples cannot be used: " in said and "mend them, or take them out" in said
    assert "--skip-bad" not in said


class Brightness(Measure):
    """A measure that keeps something, to see what goes on."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.kept = 0.0

    @property
    def better(self) -> dict[str, Better]:
        return {"mean": Better.HIGHER, "total": Better.HIGHER}

    def add(self, sample: Sample) -> dict[str, float]:
        value = float(sample.drawn.mean())
        self.seen.append(int(value))
        self.kept += value
        return {"mean": value}

    def refer(self, picture: np.ndarray) -> None:
        self.kept += float(picture.mean())

    def result(self) -> dict[str, float]:
        return {"total": self.kept}

    def state(self) -> dict[str, torch.Tensor]:
        return {"kept": torch.tensor(self.kept, dtype=torch.float64)}

    def load(self, state: Any) -> None:
        self.kept = float(state["kept"])


@pytest.fixture
def flats(tmp_path: Path) -> list[Path]:
    """Six pictures of one grey each: 0, 10, ... 50."""
    paths = [tmp_path / f"{value:02d}.png" for value in range(0, 60, 10)]
    for path in paths:
        cv2.imwrite(str(path), np.full((8, 8, 3), int(path.stem), np.uint8))
    return paths


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_an_evaluation_that_was_stopped_goes_on_with_the_same_result(
    stop: int, flats: list[Path], tmp_path: Path
) -> None:
    items = [Item(path.name, path) for path in flats[2:]]
    whole, first, second = (Judging(items, flats[:2], [Brightness()], record={"clip": "a"}) for _ in range(3))
    state = tmp_path / "state"
    assert whole.run(tmp_path / "other", 100, no_bar, never)
    calls = iter(range(100))
    assert not first.run(state, 100, no_bar, lambda: next(calls) + 1 == stop)
    second.load(state)
    assert second.run(state, 100, no_bar, never)
    assert second.rows == whole.rows
    assert second.measures[0].result() == whole.measures[0].result() == {"total": 150.0}
    assert second.measures[0].seen == [20, 30, 40, 50][max(0, stop - 2) :]  # nothing is judged twice


def test_a_process_that_is_killed_loses_what_came_after_the_last_save(flats: list[Path], tmp_path: Path) -> None:
    items = [Item(path.name, path) for path in flats]
    first, second = (Judging(items, (), [Brightness()]) for _ in range(2))

    def dies(some: Any, what: str) -> Any:
        yield from some[:5]
        if what == "pictures judged":
            raise MemoryError

    with pytest.raises(MemoryError):
        first.run(tmp_path / "state", 2, dies, never)
    second.load(tmp_path / "state")
    assert len(second.rows) == 4
    assert second.run(tmp_path / "state", 2, no_bar, never)
    assert second.measures[0].result() == {"total": 150.0}


def test_a_state_of_other_settings_is_refused(flats: list[Path], tmp_path: Path) -> None:
    items = [Item(path.name, path) for path in flats]
    Judging(items, (), [Brightness()], record={"clip": "a"}).save(tmp_path / "state")
    with pytest.raises(Exception, match=r"other settings \(clip\): give them as at its start"):
        Judging(items, (), [Brightness()], record={"clip": "b"}).load(tmp_path / "state")


def test_means_have_the_interval_of_the_normal_approximation() -> None:
    rows = [{"values": {"mean": value}} for value in (1.0, 2.0, 3.0, 6.0)]
    values = values_of(rows, [Brightness()])
    deviation = ((4 + 1 + 0 + 9) / 3) ** 0.5
    assert values["mean"].mean == 3
    assert values["mean"].half == pytest.approx(1.96 * deviation / 2)
    assert (values["total"].half, values["total"].count) == (None, 4)
    assert half_width([1.0]) is None
    assert "3 ± 2.1" in table(values)


def test_a_picture_has_the_name_of_its_example(drawn: Path, data: Path) -> None:
    from controlstack.training.data.columns import Columns
    from controlstack.training.data.listings import read_listing

    examples = read_listing(data, Columns(needs_hint=False)).examples
    items = items_of(drawn, list(reversed(examples)), 0)
    assert [item.name for item in items] == [f"{k:06d}.png" for k in (4, 3, 2, 1, 0)]
    assert [item.drawn.stem for item in items] == [item.example.picture.stem for item in items]
    (drawn / "000003.png").unlink()
    with pytest.raises(HintError, match=r"lacks the pictures of 1 of 5 examples \(000003\)"):
        items_of(drawn, examples, 0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("canny", EDGES),
        ("softedge_hed", SOFT_EDGES),
        ("lineart_realistic", SOFT_EDGES),
        ("depth_midas", DEPTH),
        ("seg_ofade20k", SEGMENTATION),
        ("openpose_full", POSE),
        ("color_grid", None),
    ],
)
def test_a_preprocessor_says_how_its_hints_are_compared(name: str, kind: str | None) -> None:
    assert kind_of(find(name)) == kind


BAD = {
    "no out": ([], "--out is missing"),
    "both": (["--pictures", "{drawn}", "--base", "{base}"], "--pictures and --base are both given"),
    "base alone": (["--base", "{base}"], "name them with --data"),
    "control alone": (["--pictures", "{drawn}", "--control", "x"], "give --base"),
    "nothing to measure": (["--pictures", "{drawn}"], "there is nothing to measure"),
    "no folder": (["--pictures", "{drawn}/none"], "which is no folder"),
    "no features": (["--pictures", "{drawn}", "--reference", "{drawn}"], "give --inception or --clip"),
    "no clip": (["--pictures", "{drawn}", "--reference", "{drawn}", "--clip", "{drawn}"], "holds no config.json"),
    "no reference": (["--pictures", "{drawn}", "--reference", "{drawn}/none", "--clip", "{clip}"], "--reference is"),
    "head alone": (["--pictures", "{drawn}", "--aesthetic", "x"], "--aesthetic needs --clip"),
    "no kind": (["--pictures", "{drawn}", "--data", "{data}", "--hint", "color_grid"], "compared in no known way"),
    "no pose": (["--pictures", "{drawn}", "--data", "{data}", "--hint", "canny", "--fidelity", "pose"], "finds poses"),
    "unseen": (
        ["--pictures", "{drawn}", "--data", "{data}", "--hint-column", "depth_image"],
        "name a preprocessor with --detect",
    ),
    "limit": (["--pictures", "{drawn}", "--limit", "-1"], "--limit is -1"),
    "no data": (["--pictures", "{drawn}", "--data", "{drawn}/none", "--hint", "canny"], "there is no data"),
    "damaged": (
        ["--pictures", "{damaged}", "--clip", "{clip}", "--reference", "{drawn}"],
        "1 of 5 pictures cannot be used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_any_work(
    case: str, drawn: Path, data: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(drawn, damaged)
    (damaged / "000002.png").write_bytes(b"no picture")
    places = {"drawn": drawn, "data": data, "base": BASE, "clip": clip_folder, "damaged": damaged}
    arguments, said = BAD[case]
    out = [] if case == "no out" else ["--out", str(tmp_path / "out")]
    more = ["--pictures", str(drawn)] if case == "no out" else []
    assert cli.main(["evaluate", *out, *more, *(each.format(**places) for each in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().splitlines()[-1].startswith("controlstack: ")
    assert said in captured.err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_without_pictures_and_base_the_tiny_world_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny_command, "STEPS", 1)  # what is drawn does not matter here, but that all of it is
    numbers, written = tmp_path / "numbers.json", tmp_path / "page.md"
    written.write_text(f"mine\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    assert cli.main(["evaluate", "--scenes", "2", "--json", str(numbers), "--page", str(written)]) == 0
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert {"canny", "color", "canny + color", "canny + ip-adapter"} <= set(found["without a prompt"])
    assert "canny + ip-adapter" in capsys.readouterr().out
    assert written.read_text(encoding="utf-8").startswith("mine") and list((tmp_path / "images").glob("*.png"))
