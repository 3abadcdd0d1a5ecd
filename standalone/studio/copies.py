"""The settings of a page as text to take along: a command line, a script, or the text that WebUIs read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from ...pipelines.request import Request
from ...units.request import FIELDS, UnitRequest
from ...units.text import quoted
from ..asked import PICTURES, UNIT_PICTURES
from ..record import infotext_of
from .library import Library
from .said import Job
from .workflow import workflow

OPTIONS = {"loras": "lora"}  # fields of a request whose option has another name


def command_line(library: Library, job: Job) -> str:
    """Return the job as a `controlstack generate` line; pictures go by the names under which one saves them."""
    words = ["controlstack", "generate", "--base", str(library.base(job.base))]
    for name, value in _request(job.request):
        several = value if isinstance(value, tuple) else (value,)
        option = f"--{OPTIONS.get(name, name).replace('_', '-')}"
        words += [word for each in several for word in (option, f"{name}.png" if name in PICTURES else str(each))]
    for number, unit in zip(job.numbers, job.units, strict=True):
        pairs = [f"{FIELDS[name].short or name}={quoted(str(value))}" for name, value in _unit(library, number, unit)]
        words += ["--unit", ",".join(pairs)]
    return shlex.join(words)


def script(library: Library, job: Job) -> str:
    """Return the job as a script on `import controlstack as cs`."""
    lines = ["import controlstack as cs", "", f"base = cs.load_base({str(library.base(job.base))!r})", "units = ["]
    for number, unit in zip(job.numbers, job.units, strict=True):
        said = dict(_unit(library, number, unit))
        first = f"{said.pop('image', 'picture.png')!r}, {_loaded(library, unit.model, said.pop('model'))}"
        rest = "".join(f", {_keyword(name)}={value!r}" for name, value in said.items())
        size = f", size=({job.request.width}, {job.request.height})" if unit.pixel_perfect else ""
        lines.append(f"    cs.unit({first}{rest}{size}),")
    said = {name: f"{name}.png" if name in PICTURES else value for name, value in _request(job.request)}
    prompt = said.pop("prompt", "")
    said = {"width": job.request.width, "height": job.request.height, **said}
    if "loras" in said:
        said["loras"] = [str(each) for each in said["loras"]]
    settings = "".join(f", {name}={value!r}" for name, value in said.items())
    lines += ["]", f"drawing = cs.generate(base, {prompt!r}, units=units{settings})", 'drawing.save("pictures")']
    return "\n".join(lines)


def webui_text(library: Library, job: Job) -> str:
    """Return the job as the text that WebUIs write into pictures."""
    units = [replace(each, model=str(library.model(each.model).path)) for each in job.units]
    return infotext_of(job.request, 0, units)


FORMS: Mapping[str, Callable[[Library, Job], str]] = MappingProxyType(
    {"Command line": command_line, "Python": script, "ComfyUI workflow": workflow, "WebUI infotext": webui_text}
)


def _loaded(library: Library, name: str, path: str) -> str:
    """Return how a script names a model: by its file, or one without a file with the base that it acts on."""
    return f"cs.load_control_model({name!r}, base=base)" if library.model(name).reads is not None else repr(path)


def _request(request: Request) -> Iterator[tuple[str, Any]]:
    """Yield what a request says beside its defaults, and what counts: how far a picture may change needs one."""
    idle = {"strength"} if request.image is None else set[str]()
    idle |= {"hires_steps", "hires_strength"} if request.hires == 1 else set()
    for each in fields(request):
        if each.name in idle:
            continue
        value = getattr(request, each.name)
        if each.name in PICTURES:
            if value is not None:
                yield each.name, value
        elif value != each.default or each.name == "seed":
            yield each.name, value


def _unit(library: Library, number: int, unit: UnitRequest) -> Iterator[tuple[str, str]]:
    """Yield what a unit says beside its defaults, as words."""
    for name, about in FIELDS.items():
        value = getattr(unit, name)
        if name in UNIT_PICTURES:
            if value is not None:
                yield name, f"unit-{number}-{name.replace('_', '-')}.png"
        elif name == "model":
            yield name, str(library.model(value).path)
        elif value != about.default:
            yield name, about.write(value)


def _keyword(name: str) -> str:
    """Return the name of a field as an argument of `cs.unit`."""
    return {"effect_mask": "mask", "inpaint_mask": "inpaint"}.get(name, name)
