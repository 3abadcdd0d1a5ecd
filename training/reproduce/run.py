"""The run of the experiments: each leaves a small file of numbers, and what is there is not run again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...core.errors import HostError
from ...core.files import read_json
from ...preprocessors.images import make_folder, write_image
from ..results.files import write_text
from .experiment import Experiment, Say
from .page import page
from .registry import EXPERIMENTS
from .world import World

SIZES, RESULTS = "sizes.json", "results"  # in the folder of the run
PREFIX, SUFFIX = "papers-", ".png"  # of pictures beside the page
IMAGES = "images"


def reproduce(world: World, only: Collection[str], say: Say) -> None:
    """Run what is missing, of all experiments or of those named. HostError for a folder of a run at other sizes."""
    _check_sizes(world)
    for each in EXPERIMENTS:
        if only and each.name not in only:
            continue
        if _file(world, each).is_file():
            say(f"{each.name}: is there")
            continue
        found = each.run(world, lambda text, name=each.name: say(f"{name}: {text}"))
        for name, picture in found.pictures.items():
            write_image(_results(world) / f"{_picture(each, name)}", picture)
        pictures = [_picture(each, name) for name in found.pictures]
        write_text(_file(world, each), json.dumps({"measured": found.measured, "pictures": pictures}, indent=1))
        say(f"{each.name}: done")


def collected(world: World) -> dict[str, Any]:
    """Return the sizes, and what all experiments that are done have measured."""
    done = {each.name: read_json(_file(world, each), "result") for each in EXPERIMENTS if _file(world, each).is_file()}
    return {"sizes": json.loads(json.dumps(asdict(world.sizes))), "experiments": done}


def write_page(world: World, path: Path) -> None:
    """Write the page, its numbers beside it, and its pictures."""
    results = collected(world)
    make_folder(path.parent / IMAGES)
    for each in results["experiments"].values():
        for name in each["pictures"]:
            write_picture(_results(world) / name, path.parent / IMAGES / name)
    write_text(path.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    write_text(path, text_of(results))


def text_of(results: Mapping[str, Any]) -> str:
    """Return the page's text from its numbers."""
    return page(results, EXPERIMENTS, IMAGES)


def write_picture(old: Path, new: Path) -> None:
    """Copy a picture's file."""
    new.write_bytes(old.read_bytes())


def _results(world: World) -> Path:
    return world.folder / RESULTS


def _file(world: World, experiment: Experiment) -> Path:
    return _results(world) / f"{experiment.name}.json"


def _picture(experiment: Experiment, name: str) -> str:
    return f"{PREFIX}{experiment.name}-{name}{SUFFIX}"


def _check_sizes(world: World) -> None:
    """Note the sizes of a new run; raise HostError where an old one had others."""
    make_folder(_results(world))
    said, path = json.loads(json.dumps(asdict(world.sizes))), world.folder / SIZES
    if not path.is_file():
        write_text(path, json.dumps(said, indent=1))
    elif read_json(path, "sizes") != said:
        raise HostError(
            f"'{world.folder}' holds a run at other sizes: name another folder as --out, or the --size of its start"
        )
