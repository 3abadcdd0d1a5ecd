"""What the page does without a page: names, requests, runs, comparisons, texts, settings from pictures."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controlstack.cli import _parser
from controlstack.core.errors import ControlError, FileError, HostError, UnitError
from controlstack.core.network.base import Base, Transformer
from controlstack.models.registry import load_control_model
from controlstack.pipelines import tiny_world
from controlstack.pipelines.bases import load_base
from controlstack.pipelines.latent_colours import LatentColours
from controlstack.preprocessors import find
from controlstack.preprocessors.images import read_image, write_image
from controlstack.standalone.asked import make_request as request_of_command
from controlstack.standalone.page.guard import names_elsewhere
from controlstack.standalone.page.results import report
from controlstack.standalone.studio import offers
from controlstack.standalone.studio.comparing import axes, compared, gridded, sheet_of
from controlstack.standalone.studio.copies import command_line, script, webui_text
from controlstack.standalone.studio.examples import examples
from controlstack.standalone.studio.library import Library, _fitting_first, make_library
from controlstack.standalone.studio.restoring import restore
from controlstack.standalone.studio.running import Drawn, Progress, Stop, Stopped, Studio
from controlstack.standalone.studio.said import UnitProblemError, make_job, unit_request
from controlstack.standalone.studio.workflow import workflow
from controlstack.standalone.units import parse_unit
from controlstack.units.request import UnitRequest

SIDE = 64
SHORT: dict[str, Any] = {
    "prompt": "a house", "negative": "rain", "seed": 3, "steps": 4, "width": SIDE, "height": SIDE, "guidance": 2.0,
    "scheduler": "ddim", "batch": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> Library:
    return make_library([], [])


@pytest.fixture(scope="module")
def studio(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(library, tmp_path_factory.mktemp("studio"), device="cpu")


@pytest.fixture(scope="module")
def picture() -> Any:
    return read_image(tiny_world.IMAGES / "scene-1.png")


def test_loras_come_by_name_alone(library: Library, tmp_path: Path) -> None:
    write = tmp_path / "loras" / "sub" / "detail.safetensors"
    write.parent.mkdir(parents=True)
    write.write_bytes(b"")
    found = make_library([], [], [tmp_path / "loras"])
    job = make_job(found, {**SHORT, "loras": ["sub/detail:0.5", "sub/detail"]}, [])
    assert [(each.path, each.weight) for each in job.request.loras] == [(str(write), 0.5), (str(write), 1.0)]
    assert shlex.split(command_line(found, job))[-4:] == ["--lora", f"{write}:0.5", "--lora", f"{write}:1"]
    assert f"loras=['{write}:0.5', '{write}:1']" in script(found, job)
    assert "<lora:detail:0.5>" in webui_text(found, job)
    for wrong in (str(write), "../detail", 7):
        with pytest.raises(HostError, match="there is no LoRA"):
            make_job(found, {**SHORT, "loras": [wrong]}, [])
    with pytest.raises(HostError, match="expected a list"):
        make_job(library, {**SHORT, "loras": "detail"}, [])


@pytest.mark.parametrize(
    ("base", "name"), [(Base(context=2048), "SDXL"), (Base(transformer=Transformer(2048, 28)), "Anima")]
)
def test_models_of_other_bases_come_last_and_are_not_chosen(library: Library, base: Base, name: str) -> None:
    canny = library.models["canny"]
    assert canny.unfit == "" and canny.made_for is not None
    models = {"canny": replace(canny, made_for=base), "color": library.models["color"]}
    found = replace(library, models=_fitting_first(models, [tiny_world.BASE]))
    assert list(found.models) == ["color", "canny"]
    assert found.models["canny"].label.endswith(f"– for {name}")
    assert offers.choose_type(found, "Canny").model != "canny"
    assert ("canny" in [name for _, name in offers.models(found, "All")]) is True


def test_each_line_may_be_a_picture(library: Library) -> None:
    said = {**SHORT, "prompt": "a house\n\n a tree ", "added": "at night", "each_line": True}
    request = make_job(library, said, []).request
    assert request.prompts == ("a house, at night", "a tree, at night")
    assert make_job(library, {**SHORT, "prompt": ["a", "b", "c"]}, []).request.batch == 3
    assert make_job(library, {**said, "each_line": False}, []).request.batch == 1
    assert shlex.split(command_line(library, make_job(library, {**SHORT, "prompt": ["a", "b"]}, [])))[4:8] == [
        "--prompt", "a", "--prompt", "b",
    ]  # fmt: skip


def test_a_hires_pass_has_its_limit(library: Library) -> None:
    assert make_job(library, {**SHORT, "hires": 2}, []).request.final_size == (2 * SIDE, 2 * SIDE)
    with pytest.raises(HostError, match="hires pass has sides"):
        make_job(library, {**SHORT, "width": 4096, "height": 8, "hires": 2}, [])


def units_of(picture: Any) -> list[dict[str, Any]]:
    canny = {"image": picture, "preprocessor": "canny", "parameters": {"low": 50, "high": 100}, "model": "canny"}
    return [{**canny, "range": [0.0, 0.5]}, {"image": picture, "preprocessor": "auto", "model": "color", "weight": 0.5}]


def ignore(_progress: Progress) -> None:
    pass


# --- What is offered -------------------------------------------------------------------------------------------------


def test_without_a_base_the_tiny_world_is_offered(library: Library) -> None:
    assert list(library.bases) == ["tiny world"]
    labels = {each.label for each in library.models.values()}
    assert {"canny · ControlNet", "color · ControlNet", "depth · ControlNet", "ip-adapter · IP-Adapter"} <= labels
    assert library.tiny


def test_a_file_that_is_no_control_model_is_left_out_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no model")
    found = make_library([tiny_world.BASE], [tmp_path])
    assert all(each.reads is not None for each in found.models.values())
    assert len(found.refusals) == 1
    assert "broken" in found.refusals[0]


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    canny = tiny_world.CONTROLS / "canny.safetensors"
    for folder in ("first", "second"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        shutil.copy(canny, tmp_path / folder / "edges.safetensors")
    torch.save({"x": torch.zeros(1)}, tmp_path / "first" / "edges.pth")
    (tmp_path / "empty").mkdir()
    found = make_library([tiny_world.BASE], [tmp_path / "first", tmp_path / "second", tmp_path / "empty"])
    named = {name: each.path for name, each in found.models.items() if each.reads is None}
    assert named == {
        "edges": tmp_path / "first" / "edges.pth",
        "edges.safetensors": tmp_path / "first" / "edges.safetensors",
    }
    second, empty = found.refusals
    assert f"'{tmp_path / 'second' / 'edges.safetensors'}' has the name of" in second
    assert f"there is no model file in '{tmp_path / 'empty'}'" in empty


def test_what_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no"):
        make_library([], [tmp_path / "nowhere"])


def test_a_control_type_chooses_preprocessor_numbers_and_model(library: Library) -> None:
    found = offers.choose_type(library, "Canny")
    assert (found.preprocessor, found.model, dict(found.parameters)) == ("canny", "canny", {"low": 50, "high": 100})


def test_a_control_type_without_a_model_that_fits_stands_last_and_says_why(library: Library) -> None:
    labels = {name: label for label, name in offers.control_types(library)}
    assert labels["Revision"] == "Revision – for SDXL" and labels["Segmentation"] == "Segmentation – no model here"
    fitting = [name for name, label in labels.items() if name == label]
    assert [*labels][: len(fitting)] == fitting and {"All", "Canny", "Depth", "Tile", "Reference"} <= {*fitting}
    for name in fitting[1:]:
        assert offers.choose_type(library, name).model, name
    for name in {*labels} - {*fitting}:
        assert not offers.choose_type(library, name).model, name


def test_a_unit_without_a_model_plans_nothing() -> None:
    without, with_one = UnitRequest(), UnitRequest(model="canny")
    assert offers.plan(without, 20) == "has no model: choose one" and not any(offers.strengths(without, 20))
    assert offers.plan(with_one, 20) == "acts on 20 of 20 steps" and all(offers.strengths(with_one, 20))


def test_a_union_is_offered_for_the_kinds_that_it_learned_and_says_which_one_it_reads(library: Library) -> None:
    def offered(kind: str) -> bool:
        return "union" in [name for _, name in offers.models(library, kind)]

    assert all(map(offered, ("Canny", "Depth", "Tile"))) and not any(map(offered, ("OpenPose", "Segmentation")))
    (option,) = offers.options(library, "union")
    assert offers.option_words(option, "canny")[0] == ("auto: canny, as the preprocessor", "auto")
    assert offers.option_words(option, "auto")[0] == offers.option_words(option, "shuffle")[0] == ("auto", "auto")


def test_a_reference_has_no_file_and_is_chosen_by_its_type(library: Library) -> None:
    assert ("Reference", "Reference") in offers.control_types(library)
    found = offers.choose_type(library, "Reference")
    assert (found.preprocessor, found.model) == ("none", "reference_only")
    assert offers.choose_model(library, "reference_adain", "auto").preprocessor == "none"
    assert [each.name for each in offers.options(library, "reference_only")] == ["fidelity"]
    assert offers.initial(library)["model"] == "canny"
    assert offers.initial(replace(library, models={"reference_only": library.model("reference_only")}))["model"] == ""


def test_a_reference_draws_and_goes_along(studio: Studio, library: Library, picture: Any, tmp_path: Path) -> None:
    unit = {"image": picture, "preprocessor": "none", "model": "reference_only", "option 0": "0.25"}
    job = make_job(library, SHORT, [unit])
    found = studio.draw(job, Stop(), ignore)
    assert found.firings[0].fired == SHORT["steps"]
    assert (found.images[0] != studio.draw(make_job(library, SHORT, []), Stop(), ignore).images[0]).any()
    read = parse_unit(shlex.split(command_line(library, job))[-1])
    assert (read.model, read.options) == ("reference_only", {"fidelity": "0.25"})
    assert "cs.load_control_model('reference_only', base=base)" in script(library, job)
    assert '"name": "reference_only"' in workflow(library, job)
    again = restore(found.files[0], library)
    assert (again.units[0]["model"], again.units[0]["options"]) == ("reference_only", {"fidelity": "0.25"})
    write_image(tmp_path / "text.png", picture, {"parameters": webui_text(library, job)})
    assert restore(tmp_path / "text.png", library).units[0]["model"] == "reference_only"


def test_a_preprocessor_chooses_the_model_that_reads_its_hints(library: Library) -> None:
    assert offers.choose_preprocessor(library, "color_grid", "canny").model == "color"
    assert offers.choose_preprocessor(library, "shuffle", "canny").model == "canny"  # nothing reads it: all stays


def test_a_model_chooses_its_preprocessor_unless_another_is_chosen(library: Library) -> None:
    assert offers.choose_model(library, "color", "none").preprocessor == "color_grid"
    assert offers.choose_model(library, "color", "canny").preprocessor == "canny"


def test_every_preprocessor_of_units_is_offered_and_fits_the_sliders() -> None:
    names = [name for _, name in offers.preprocessors("All")]
    assert {"auto", "none", "canny", "outpaint"} <= set(names)
    assert max(len(offers.numbers(name)) for name in names) == offers.most_numbers()


def test_networks_wait_for_a_button(library: Library) -> None:
    assert offers.runs_at_once(library, "canny", "")
    assert offers.runs_at_once(library, "auto", "canny")
    assert not offers.runs_at_once(library, "auto", "")
    assert not offers.runs_at_once(library, "softedge_hed", "canny")


def test_every_field_of_units_is_on_a_card() -> None:
    from controlstack.units.request import FIELDS

    shown = {*offers.OWN_WIDGETS, *offers.IN_SIGHT, offers.HEADING, *(each.name for each in offers.further_fields())}
    assert shown == set(FIELDS)


# --- What is said ----------------------------------------------------------------------------------------------------


def test_a_job_numbers_its_units_by_their_cards(library: Library, picture: Any) -> None:
    off, on = units_of(picture)
    job = make_job(library, SHORT, [{**off, "enabled": False}, on])
    assert job.numbers == (2,)
    assert job.units[0].model == "color"


def test_the_error_of_a_unit_names_its_card(library: Library, picture: Any) -> None:
    with pytest.raises(UnitProblemError, match="it has no picture") as caught:
        make_job(library, SHORT, [*units_of(picture), {"model": "canny"}])
    assert caught.value.number == 3


@pytest.mark.parametrize("name", ["image", "effect_mask", "inpaint_mask"])
def test_no_text_is_taken_for_a_picture(library: Library, picture: Any, name: str) -> None:
    with pytest.raises(UnitError, match="no file can be named here"):
        unit_request(library, {**units_of(picture)[0], name: str(tiny_world.IMAGES / "scene-1.png")})


def test_no_text_is_taken_for_the_picture_to_start_from(library: Library) -> None:
    with pytest.raises(HostError, match="no file can be named here"):
        make_job(library, {**SHORT, "image": str(tiny_world.IMAGES / "scene-1.png")}, [])


def test_fields_that_nobody_has_seen_say_nothing(library: Library) -> None:
    job = make_job(library, {**SHORT, "negative": None, "added": None}, [])
    assert (job.request.prompt, job.request.negative) == ("a house", "")


def test_an_added_prompt_stands_behind(library: Library) -> None:
    assert make_job(library, {**SHORT, "added": "at night"}, []).request.prompt == "a house, at night"


def test_a_seed_of_minus_one_is_drawn_by_chance(library: Library) -> None:
    seeds = {make_job(library, {**SHORT, "seed": -1}, []).request.seed for _ in range(4)}
    assert len(seeds) > 1
    assert min(seeds) >= 0


# --- Runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(studio: Studio, library: Library, picture: Any) -> Drawn:
    return studio.draw(make_job(library, SHORT, units_of(picture)), Stop(), ignore)


def test_a_run_tells_each_step_and_shows_the_picture_so_far(studio: Studio, library: Library) -> None:
    job = make_job(library, SHORT, [])
    *told, last = studio.run(lambda report: studio.draw(job, Stop(), report))
    assert [(each.step, each.steps) for each in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [each.preview is not None for each in told] == [False, False, True, False]
    assert last.images[0].shape == (SIDE, SIDE, 3)


def test_firings_and_costs_are_those_of_the_units(drawn: Drawn) -> None:
    assert [str(each) for each in drawn.firings] == ["2 of 4", "4 of 4"]
    assert all(each.seconds > 0 and each.bytes > 10**6 for each in drawn.costs)


def test_the_file_is_the_picture(drawn: Drawn) -> None:
    assert (read_image(drawn.files[0]) == drawn.images[0]).all()


def test_a_stop_ends_a_run_and_keeps_what_is_finished(studio: Studio, library: Library) -> None:
    stop = Stop()

    def after_the_first_part(progress: Progress) -> None:
        if progress.step == SHORT["steps"] + 1:
            stop.ask()

    found = studio.draw(make_job(library, {**SHORT, "batch": 6}, []), stop, after_the_first_part)
    assert found.stopped
    assert len(found.images) == len(found.files) == 4


def test_a_stop_stops_no_other_run(studio: Studio, library: Library) -> None:
    Stop().ask()
    assert not studio.draw(make_job(library, SHORT, []), Stop(), ignore).stopped


def test_a_server_that_ends_stops_what_runs_and_begins_nothing(library: Library, tmp_path: Path) -> None:
    ending = Studio(library, tmp_path)
    job = make_job(library, {**SHORT, "steps": 150}, [])
    seen: list[int] = []

    def end(progress: Progress) -> None:
        seen.append(progress.step)
        ending.close()

    assert ending.draw(job, Stop(), end).stopped
    assert seen == [1]
    with pytest.raises(Stopped):
        ending.draw(job, Stop(), end)


def test_python_waits_for_the_threads_of_a_studio(library: Library, tmp_path: Path) -> None:
    """One that is still in an operation of PyTorch when Python ends would abort it."""
    one = Studio(library, tmp_path)
    assert list(one.run(lambda _: threading.current_thread().daemon)) == [False]


def test_what_a_run_raises_is_raised_where_it_is_watched(studio: Studio, library: Library, picture: Any) -> None:
    job = make_job(library, SHORT, [{**units_of(picture)[0], "block_weights": "1, 2, 3"}])
    with pytest.raises(UnitProblemError, match="block weights") as caught:
        list(studio.run(lambda report: studio.draw(job, Stop(), report)))
    assert caught.value.number == 1


def test_latents_have_the_colours_of_their_picture() -> None:
    import torch

    base = load_base(tiny_world.BASE)
    colours = LatentColours(base)
    for colour in ((200, 30, 30), (30, 60, 200), (240, 240, 240)):
        flat = torch.tensor(colour).float().reshape(1, 3, 1, 1).expand(1, 3, 128, 128) / 255
        seen = colours.show(base.encode(flat)[0])[4:-4, 4:-4].reshape(-1, 3).mean(axis=0)
        assert np.abs(seen - colour).max() < 40


# --- Cards -----------------------------------------------------------------------------------------------------------


def test_what_is_clicked_before_new_choices_arrive_is_not_refused(library: Library) -> None:
    """A browser may still send the entry of an old list, or a number of another preprocessor's slider."""
    pytest.importorskip("gradio", reason='needs gradio: pip install "controlstack[page]"')
    from controlstack.standalone.page.cards import SLIDER, read_card
    from controlstack.standalone.page.widgets import Choice, Slide

    model, low = Choice(["depth"], value="depth").preprocess("gone"), Slide(1, 255).preprocess(10**6)
    assert (model, low) == ("gone", 10**6)
    numbers = {SLIDER.format(k): low for k in range(offers.most_numbers())}
    sent = {"preprocessor": "canny", "model": model, **numbers}
    said = read_card(list(sent), list(sent.values()))
    assert said["parameters"] == {each.name: each.default for each in find("canny").parameters}
    with pytest.raises(ControlError, match="gone"):
        unit_request(library, said)


def test_the_hint_after_a_choice_has_its_numbers(library: Library) -> None:
    pytest.importorskip("gradio", reason='needs gradio: pip install "controlstack[page]"')
    from controlstack.standalone.page.card_events import after_choice

    said = {"preprocessor": "shuffle", "model": "gone", "parameters": {"x": 1}, "option 0": "old", "weight": 0.5}
    found = after_choice(said, offers.choose_type(library, "Canny"))
    assert found == {
        "preprocessor": "canny", "model": "canny", "parameters": {"low": 50, "high": 100}, "weight": 0.5,
    }  # fmt: skip


# --- Comparisons -----------------------------------------------------------------------------------------------------


def test_a_comparison_has_one_seed_and_each_unit_alone(library: Library, picture: Any) -> None:
    cells = compared(make_job(library, {**SHORT, "seed": -1}, units_of(picture)))[0]
    assert [cell.label for cell in cells] == ["no control", "unit 1 alone", "unit 2 alone", "all units"]
    assert len({cell.job.request.seed for cell in cells}) == 1
    assert [cell.job.numbers for cell in cells] == [(), (1,), (2,), (1, 2)]


def test_a_grid_goes_over_fields_of_the_picture_and_of_units(library: Library, picture: Any) -> None:
    rows = gridded(library, SHORT, units_of(picture), ("1.weight", "0; 1; 2", "steps", "2; 3"))
    assert [[(cell.job.units[0].weight, cell.job.request.steps) for cell in row] for row in rows] == [
        [(0, 2), (1, 2), (2, 2)],
        [(0, 3), (1, 3), (2, 3)],
    ]
    assert rows[1][2].label == "unit 1: weight 2, steps 3"


def test_a_grid_over_the_range_moves_one_end(library: Library, picture: Any) -> None:
    rows = gridded(library, SHORT, units_of(picture), ("1.end", "0.25; 0.75", "", ""))
    assert [(cell.job.units[0].start, cell.job.units[0].end) for cell in rows[0]] == [(0, 0.25), (0, 0.75)]


def test_every_axis_is_a_field_that_a_grid_can_set(library: Library, picture: Any) -> None:
    names = [name for _, name in axes(2)]
    assert {"steps", "guidance", "1.weight", "2.mode", "2.curve"} <= set(names)
    assert not {"image", "1.image", "batch"} & set(names)


@pytest.mark.parametrize(("values", "sentence"), [("", "has no values"), ("; ".join("1" * 101), "at most 100")])
def test_a_grid_that_cannot_be_is_refused(library: Library, values: str, sentence: str) -> None:
    with pytest.raises(HostError, match=sentence):
        gridded(library, SHORT, [], ("steps", values, "", ""))


def test_a_grid_over_a_unit_that_was_removed_is_refused(library: Library) -> None:
    with pytest.raises(HostError, match="a field of unit 1, and there is none: choose another field"):
        gridded(library, SHORT, [], ("1.weight", "1; 2", "", ""))


def test_a_sheet_shows_hints_and_pictures(library: Library, picture: Any, drawn: Drawn) -> None:
    cells = compared(make_job(library, SHORT, units_of(picture)))
    sheet = sheet_of(cells, [drawn] * 4)
    assert sheet.shape[1] == 6 * (256 + 8)


def test_jobs_of_a_sheet_are_numbered_on_and_counted_together(studio: Studio, library: Library, drawn: Drawn) -> None:
    folder = studio.new_folder()
    job = make_job(library, SHORT, [])
    both = [studio.draw(job, Stop(), ignore, folder) for _ in range(2)]
    assert [path.name for each in both for path in each.files] == ["00001.png", "00002.png"]
    told = report(both[1], str.format, both[:1])
    assert told.startswith(f"<p>2 pictures in {both[0].seconds + both[1].seconds:.1f} s, seed {both[0].seeds[0]}.</p>")
    other = replace(both[0], seeds=(5,))
    assert "seed" not in report(both[1], str.format, [other])


# --- To take along ---------------------------------------------------------------------------------------------------


def test_the_command_line_says_the_same(library: Library, picture: Any, tmp_path: Path, monkeypatch: Any) -> None:
    job = make_job(library, SHORT, units_of(picture))
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        write_image(tmp_path / f"unit-{number}-image.png", picture)
    words = shlex.split(command_line(library, job))
    args: argparse.Namespace = _parser().parse_args(words[1:])
    units = [parse_unit(text) for text in args.unit]
    assert request_of_command(args, units) == job.request
    for said, wanted in zip(units, job.units, strict=True):
        assert Path(said.model) == library.model(wanted.model).path
        assert replace(said, image=wanted.image, model=wanted.model) == wanted


def test_the_script_draws_the_same_picture(
    library: Library, picture: Any, drawn: Drawn, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        write_image(tmp_path / f"unit-{number}-image.png", picture)
    names: dict[str, Any] = {}
    exec(script(library, drawn.job), names)
    # A script computes in the precision of a model's file, here 16 bits, and the page in that of its base.
    difference = np.asarray(names["drawing"].images[0]).astype(int) - drawn.images[0]
    assert np.abs(difference).max() <= 2


def test_the_webuis_text_is_read_back(library: Library, picture: Any, tmp_path: Path) -> None:
    job = make_job(library, SHORT, units_of(picture))
    write_image(tmp_path / "picture.png", picture, {"parameters": webui_text(library, job)})
    found = restore(tmp_path / "picture.png", library)
    said = {name: found.request[name] for name in ("prompt", "negative", "steps", "guidance", "seed", "scheduler")}
    assert said == {name: SHORT[name] for name in said}
    for unit, wanted in zip(found.units, job.units, strict=True):
        assert {**unit, "image": None} == {name: getattr(replace(wanted, image=None), name) for name in unit}


def test_a_picture_of_the_page_gives_everything_back(library: Library, picture: Any, drawn: Drawn) -> None:
    found = restore(drawn.files[0], library)
    assert found.remarks == []
    assert found.request["base"] == "tiny world"
    assert {name: found.request[name] for name in SHORT} == SHORT
    assert (found.units[0]["image"] == picture).all()
    again = make_job(library, found.request, found.units)
    assert again.units == tuple(
        replace(each, preprocessor=unit.request.preprocessor, parameters=unit.request.parameters)
        for each, unit in zip(drawn.job.units, drawn.units, strict=True)
    )


def test_no_path_in_a_picture_is_opened(library: Library, picture: Any, drawn: Drawn, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(drawn.files[0]) as file:
        record = json.loads(file.info["controlstack"])
    there = str(tiny_world.IMAGES / "scene-2.png")
    record["units"][0]["said"] |= {"image": there, "model": "/etc/passwd"}
    record["request"] |= {"image": there, "mask": there}
    record["base"]["path"] = "/etc"
    write_image(tmp_path / "bad.png", picture, {"controlstack": json.dumps(record)})
    found = restore(tmp_path / "bad.png", library)
    assert found.units[0]["image"] is None
    assert found.units[0]["model"] == ""
    assert "image" not in found.request
    assert found.request["base"] == "tiny world"
    assert len(found.remarks) == 3


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"controlstack": "{}"},
        {"controlstack": '{"format": 1}'},
        {"controlstack": "[" * 50},
        {"controlstack": '{"format": 1, "base": {}, "request": {"prompt": []}, "units": [], "picture": 7, "seed": 1}'},
    ],
)
def test_damaged_settings_are_one_sentence(library: Library, picture: Any, tmp_path: Path, texts: Any) -> None:
    write_image(tmp_path / "bad.png", picture, texts)
    with pytest.raises(FileError):
        restore(tmp_path / "bad.png", library)


def test_a_unit_from_a_picture_draws_on_this_machine(library: Library, drawn: Drawn) -> None:
    said = restore(drawn.files[0], library).units[0]
    assert load_control_model(library.model(said["model"]).path).name == "canny"
    assert find(said["preprocessor"]).id == "canny"


# --- The guard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ({"data": [{"path": "http://10.0.0.1/x.png", "meta": {"_type": "gradio.FileData"}}]}, True),
        ({"data": [[{"a": {"path": "file:///etc/passwd"}}]]}, True),
        ({"data": [{"path": "//host/share"}]}, True),
        ({"data": [{"path": "/tmp/uploads/abc/x.png"}]}, False),
        ({"data": [{"path": "/tmp/uploads/abc/x.png", "meta": {"_type": "gradio.FileData"}}]}, False),
        ({"data": [{"path": "/tmp/uploads/../x.png", "meta": {"_type": "gradio.FileData"}}]}, True),
        ({"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}, True),
        ({"data": [{"path": "x\0y", "meta": {"_type": "gradio.FileData"}}]}, True),
        ({"data": ["http://words.in/a prompt"]}, False),
    ],
)
def test_addresses_instead_of_files_are_seen(content: Any, refused: bool) -> None:
    assert names_elsewhere(json.dumps(content).encode(), Path("/tmp/uploads")) is refused


def test_all_errors_are_sentences_for_users() -> None:
    assert issubclass(UnitProblemError, ControlError)


def test_the_options_of_a_model_are_those_of_its_family(library: Library, picture: Any) -> None:
    from controlstack.core.options import Option

    kinds = Option(
        name="union_control_type", label="Kind", meaning="what the hint shows", default="none",
        words={"none": (), "depth": (), "pose": ()},
    )  # fmt: skip
    union = replace(library.models["canny"], options=(kinds,))
    own = replace(library, models={"canny": union, "color": library.models["color"]})
    said = units_of(picture)[0]
    assert unit_request(own, {**said, "option 0": "depth"}).options == {"union_control_type": "depth"}
    assert unit_request(own, {**said, "option 0": "none"}).options == {}
    assert unit_request(own, {**said, "option 0": "", "options": "x=one"}).options == {"x": "one"}
    assert unit_request(own, {**said, "model": "color", "option 0": "depth"}).options == {}
    assert offers.most_options(own) == 1
    assert offers.options(own, "color") == ()


# --- Examples --------------------------------------------------------------------------------------------------------


def test_every_example_draws(studio: Studio, library: Library) -> None:
    found = examples(library)
    assert [each.title for each in found][:4] == ["Canny edges", "Scribble", "Depth", "Colours"]
    assert any(len(each.units()) > 1 for each in found)
    plain = studio.draw(make_job(library, {**SHORT, "steps": 2}, []), Stop(), ignore).images[0]
    for example in found:
        drawn = studio.draw(make_job(library, {**SHORT, "steps": 2}, example.units()), Stop(), ignore)
        assert all(firing.fired == 2 for firing in drawn.firings), example.title
        assert (drawn.images[0] != plain).any(), example.title
        assert not any(unit.warning for unit in drawn.units), example.title


def test_other_bases_have_no_examples(library: Library, tmp_path: Path) -> None:
    assert examples(replace(library, bases={"mine": tmp_path})) == []
    few = {name: each for name, each in library.models.items() if name == "color"}
    assert [each.title for each in examples(replace(library, models=few))] == ["Colours"]


# --- The order of cards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "order"),
    [([0, 2, 1], "bca"), ([2, 0, 7], "cab"), ([1, 1, 2], "abc"), ([0, 9, 3], "bca"), ([5, 0, 4], "abc")],
)
def test_a_drag_moves_one_card(said: list[int], order: str) -> None:
    pytest.importorskip("gradio", reason='needs gradio: pip install "controlstack[page]"')
    from controlstack.standalone.page.card_events import dragged

    units = [{"uid": each, "said": {}} for each in "abc"]
    assert "".join(each["uid"] for each in dragged(units, said)) == order
