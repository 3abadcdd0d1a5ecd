"""`inspect`: what a control model file is; of several, or of a folder with many, a line each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.wording import counted, print_line
from .paths import check_path

if TYPE_CHECKING:
    from ...models.family import Description

SHOWN = 5  # entries of a list
LONGEST = 60  # columns of a file's name
MEGABYTE = 1e6
REFUSED = 2  # exit code, as of any error


def run_inspect(args: argparse.Namespace) -> int:
    """Print what the files are; return the exit code."""
    for path in args.files:
        check_path(path, "model")
    files = list(_models(args.files))
    if [path for _, path in files] == args.files[:1]:
        return _inspect_one(args, args.files[0])
    return _inspect_many(args, files)


def _inspect_one(args: argparse.Namespace, path: Path) -> int:
    found = _described(path, values=args.values)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        print_line(f"{name:<12}{_short(value)}")
    return 0


def _inspect_many(args: argparse.Namespace, files: Sequence[tuple[str, Path]]) -> int:
    """Print a line for each file, or with `--json` a list; those that are refused come with the reason."""
    from ...core.errors import ControlError

    told: list[dict[str, Any]] = []
    width = min(LONGEST, max(len(name) for name, _ in files))
    for name, path in files:
        try:
            found = {"file": str(path), **_described(path, values=args.values)}
        except ControlError as error:
            found = {"file": str(path), "refused": str(error)}
        told.append(found)
        if not args.json:
            print_line(f"{name:<{width}}  {_line(found)}")
    refused = sum("refused" in each for each in told)
    if args.json:
        print(json.dumps(told, indent=2))
    elif refused:
        print_line(f"{counted(refused, 'file')} of {len(told)} refused", error=True)
    return REFUSED if refused else 0


def _models(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of each model; those in a folder that is no model itself are named as it has them."""
    for path in paths:
        inside = [] if _is_model(path) else _below(path)
        if not inside:
            yield str(path), path  # whoever reads it says what is wrong with it
        for each in inside:
            yield each.relative_to(path).as_posix(), each


def _is_model(path: Path) -> bool:
    """Return whether a path is one model, of which it may be said what is wrong, and no folder with several."""
    from ...core.errors import DamagedModelError, ModelError, UnsupportedModelError
    from ...models.files.finding import STEM, find_weights

    if not path.is_dir():
        return True
    try:
        found = find_weights(path)
    except (DamagedModelError, UnsupportedModelError):  # a broken one, or a base model
        return True
    except ModelError:
        return False
    return found[0].name.startswith(STEM) or len(_below(path)) == len(found)


def _below(folder: Path) -> list[Path]:
    """Return the model files of a folder and of those in it. FileError for a folder that cannot be read."""
    from ...core.errors import FileError
    from ...core.files import files_below
    from ...models.files.finding import PICKLES, SAFETENSORS

    try:
        inside = [*files_below(folder)]
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"the folder '{folder}' cannot be read ({reason}): look at its rights") from error
    return [path for path in inside if path.suffix.lower() in (SAFETENSORS, *PICKLES)]


def _described(path: Path, *, values: bool) -> dict[str, Any]:
    """Return what a file is, by name. ModelError for a file that is no control model, with its reason.

    values: whether all weights are read, and refused where some are not finite.
    """
    from ...models.files.loading import read_tensors
    from ...models.registry import inspect

    found: Description = inspect(path)
    told = asdict(found)
    if values:
        told["values"] = f"{len(read_tensors(path))} weights were read, and all are finite"
    return told


def _line(found: dict[str, Any]) -> str:
    """Return what a table says of a file."""
    if "refused" in found:
        return f"refused: {found['refused']}"
    lacks = [f"{len(found[word])} {word}" for word in ("missing", "misshapen") if found[word]]
    damage = f"  weights: {', '.join(lacks)}" if lacks else ""
    megabytes = f"{found['size'] / MEGABYTE:,.1f} MB"
    return f"{found['family']:<19}  {found['base']:<8}  {megabytes:>11}  {found['dtype']}{damage}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    if isinstance(value, (tuple, list)):
        return f"{len(value)}: {', '.join(map(str, value[:SHOWN]))}" if value else "nothing"
    return f"{value:,}" if isinstance(value, int) else str(value)
