"""Settings files: what a command line says, as TOML. Every run of `generate` writes one, and `--settings` reads it.

Names are those of the options. A unit is a table of its fields:

    base = "/models/sd15.safetensors"
    prompt = ["a house"]
    steps = 20

    [[unit]]
    image = "/photos/room.png"
    preprocessor = "canny"
    model = "/models/canny.safetensors"
    weight = 0.8
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from ...core.errors import FileError
from ...core.files import path_of, read_toml, replacing
from ...units.once import Once
from ...units.request import BETWEEN
from ...units.text import quoted

UNIT = "unit"
NOT_IN_FILE = ("help", "settings", "output", "resume")  # options of a run, not of its pictures
PATHS = ("base", "captioner", "image", "mask")  # of options
UNIT_PATHS = ("image", "model", "mask", "inpaint", "effect_mask", "inpaint_mask")


def with_settings(argv: Sequence[str], said: argparse.Namespace) -> list[str]:
    """Return a command line with the settings of its file before what was said, which therefore counts more.

    argv: the command's name and its words. said: what the words alone mean. FileError for a file that cannot be read or
    names what the command has not.
    """
    file: Path = said.settings
    options = {action.dest: action for action in said.parser._actions if action.option_strings}
    words: list[str] = []
    read: dict[str, str] = {}
    for name, value in read_toml(file, "settings file").items():
        dest = name.replace("-", "_")
        if dest not in options or dest in NOT_IN_FILE:
            near = difflib.get_close_matches(dest, [each for each in options if each not in NOT_IN_FILE], n=2)
            told = f": did you mean {' or '.join(near)}?" if near else ", which no settings have"
            raise FileError(f"'{file}' says '{name}'{told}")
        if read.setdefault(dest, name) != name:
            raise FileError(f"'{file}' says '{read[dest]}' and '{name}', which are the same: leave one of them out")
        several = isinstance(options[dest], argparse._AppendAction)
        if isinstance(value, list) and not several:
            raise FileError(f"'{file}' has a list as '{name}', expected one value")
        if (several or isinstance(options[dest], Once)) and getattr(said, dest):
            continue  # what is said replaces a whole list, and an option that may be said but once
        words += _words(file, options[dest].option_strings[-1], name, value)
    return [argv[0], *words, *argv[1:]]


def write_settings(path: Path, args: argparse.Namespace, **used: Any) -> None:
    """Write what was asked for: every option that is not at its default, and those that came out otherwise.

    used: what counts instead of what was said, such as the seed and the size. Paths are absolute, so that the file
    means the same from everywhere.
    """
    parser: argparse.ArgumentParser = args.parser
    said = {name: getattr(args, name) for name in _names(parser) if getattr(args, name) != parser.get_default(name)}
    said |= {"base": args.base, "steps": args.steps, **used}
    said = {name: said[name] for name in _names(parser) if name in said}
    units = cast("Sequence[str]", said.pop(UNIT, ()))
    lines = [f"{name.replace('_', '-')} = {_toml(name, value)}" for name, value in said.items()]
    for unit in units:
        lines += ["", f"[[{UNIT}]]", *_unit_lines(unit)]
    try:
        with replacing(path) as part:
            part.write_text("\n".join([*lines, ""]), encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def _names(parser: argparse.ArgumentParser) -> list[str]:
    return [each.dest for each in parser._actions if each.option_strings and each.dest not in NOT_IN_FILE]


def _words(file: Path, option: str, name: str, value: Any) -> Iterator[str]:
    """Yield an option and its value as words of a command line."""
    if isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _words(file, option, name, each)
    elif isinstance(value, dict):
        if name != UNIT:
            raise FileError(f"'{file}' has a table '{name}', expected a value: tables are units")
        yield f"{option}={','.join(f'{key}={_plain(each)}' for key, each in cast('dict[str, Any]', value).items())}"
    elif value is True:
        yield option
    elif value is not False:
        yield f"{option}={value}"


def _plain(value: Any) -> str:
    """Return a field of a unit as a unit's text has it: what holds a comma in quotation marks."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):  # such as pictures
        return quoted(BETWEEN.join(map(str, cast("list[Any]", value))))
    if isinstance(value, dict):  # such as the options of a model
        return quoted("; ".join(f"{key}={each}" for key, each in cast("dict[str, Any]", value).items()))
    return quoted(str(value))


def _unit_lines(unit: str) -> Iterator[str]:
    from ..units import read_pairs

    for name, value in read_pairs(unit).items():
        if name in UNIT_PATHS:
            value = BETWEEN.join(_absolute(part) for part in value.split(BETWEEN))
        yield f"{json.dumps(name)} = {json.dumps(value, ensure_ascii=False)}"


def _toml(name: str, value: Any) -> str:
    """Return a value as TOML, whose texts may be written as JSON writes them."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(name, each) for each in cast('Sequence[Any]', value))}]"
    if name in PATHS:
        return json.dumps(_absolute(str(value)), ensure_ascii=False)
    if name == "lora":
        path, colon, weight = str(value).rpartition(":")
        return json.dumps(f"{_absolute(path)}{colon}{weight}" if path else _absolute(weight), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _absolute(path: str) -> str:
    """Return a path from the root, if there is such a file, folder or pattern; else the word that it is."""
    from ..media.sources import is_pattern

    there = path_of(path)
    return str(there.absolute()) if there.exists() or is_pattern(there) else path
