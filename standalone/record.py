"""The picture that remembers: everything that made it, as text inside its PNG file, and back.

Two texts are written. `controlstack` is this record: JSON with the base model, the control models and the pictures by
path and SHA-256, every field of every unit, the request and the versions. `parameters` is the text that the WebUIs
write; they and our ComfyUI node read prompt, settings and units from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FileError, HintError
from ..core.files import parse_json
from ..core.firing import Firing
from ..core.unit import ControlUnit
from ..core.wording import shortest
from ..pipelines.drawing import Result
from ..pipelines.loras.file import Lora
from ..pipelines.request import Request
from ..preprocessors.images import read_image, read_mask, write_image
from ..preprocessors.texts import read_texts
from ..units.record import from_record, pixels_of, plain_pixels, to_record
from ..units.request import UnitRequest
from ..units.webui.fields import UnitArgs, args_of
from ..units.webui.infotext import write as write_infotext
from .asked import PICTURES, UNIT_PICTURES
from .record_checks import check_record

if TYPE_CHECKING:
    from ..pipelines.bases import Base

KEY, INFOTEXT = "controlstack", "parameters"  # of the texts in a PNG file
FORMAT = 1  # of the record; a newer one may hold what this version cannot draw
OWN = re.compile(r"[0-9]{5,9}")  # names that pictures get; other digits are other people's
CHUNK = 1 << 20  # bytes read at once
WEIGHTS = (".safetensors", ".bin", ".json")  # what decides about a folder's pictures

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a picture says of itself."""

    base: Mapping[str, Any]  # path, sha256, dtype, device, offload, prediction
    request: Request
    index: int  # of the picture among those of the request
    units: tuple[UnitRequest, ...]
    dtypes: tuple[str, ...]  # of each unit's network
    files: Mapping[str, str]  # SHA-256 of every file by its path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a model folder's weights and configurations."""
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.suffix in WEIGHTS and each.is_file())
        lines = (f"{each.relative_to(path).as_posix()} {digest(each)}\n" for each in inside)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


class Digests:
    """SHA-256 of files that one run names, each computed once, on a thread of its own while pictures are drawn."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._known: dict[Path, Future[str]] = {}

    def begin(self, paths: Iterable[Path]) -> None:
        """Begin to compute the digests of files or folders that are going to be asked for."""
        for path in paths:
            known = path.resolve()
            if known not in self._known and path.exists():
                self._known[known] = self._worker.submit(digest, known)

    def of(self, path: Path) -> str:
        """Return the digest of a file or folder that is there."""
        self.begin([path])
        return self._known[path.resolve()].result()


def write_pictures(
    folder: Path,
    base: Base,
    request: Request,
    units: Sequence[ControlUnit],
    result: Result,
    *,
    sources: Mapping[str, Path] | None = None,
    digests: Digests | None = None,
) -> list[Path]:
    """Write a result's pictures as 00001.png ..., each with its record, and return their paths.

    Each takes the next free number; where another process takes it first, the one after that. sources: the files of the
    request's `image` and `mask`; without them the pixels themselves are written into the record. digests: of files that
    were read before.
    """
    texts = make_texts(base, request, units, result.firings, sources or {}, digests or Digests())
    written: list[Path] = []
    for k, image in enumerate(result.images):
        written.append(_write_new(folder, image, texts(k)))
    return written


def _write_new(folder: Path, image: NDArray[np.uint8], texts: Mapping[str, str]) -> Path:
    """Write a picture under the next free number, and return its path."""
    number = next_number(folder)
    while True:
        path = folder / f"{number:05d}.png"
        try:
            write_image(path, image, texts, new=True)
        except FileExistsError:
            number += 1
        else:
            return path


def next_number(folder: Path) -> int:
    """Return the number after those of the pictures in a folder that were written here."""
    numbers = [int(path.stem) for path in folder.glob("*.png") if OWN.fullmatch(path.stem)]
    return 1 + max(numbers, default=0)


def make_texts(
    base: Base,
    request: Request,
    units: Sequence[ControlUnit],
    firings: Sequence[Firing],
    sources: Mapping[str, Path],
    digests: Digests,
) -> Callable[[int], dict[str, str]]:
    """Return what gives the texts of picture `k`; files are read once, for their digests."""
    shared = {
        "format": FORMAT,
        "versions": _versions(),
        "base": _base(base),
        "request": _request(request, sources),
        "units": [_unit(each, firing) for each, firing in zip(units, firings, strict=True)],
    }
    shared["files"] = {path: digests.of(Path(path)) for path in sorted(_paths(shared)) if Path(path).exists()}

    def texts(k: int) -> dict[str, str]:
        record = {**shared, "picture": k, "prompt": request.prompts[k], "seed": request.seed + k}
        return {KEY: json.dumps(record), INFOTEXT: infotext(request, k, units)}

    return texts


def read_picture_record(path: Path) -> Remembered:
    """Return what a picture says of itself. FileError for pictures that say nothing, or too little to be made again."""
    record = _record(path)
    if record.get("format") != FORMAT:
        raise FileError(
            f"'{path}' has a record of format {record.get('format')}, expected {FORMAT}: it was written by "
            "another version of ControlStack, which can draw it again"
        )
    check_record(path, record)
    try:
        units = tuple(_read_unit(path, number, each) for number, each in enumerate(record["units"], start=1))
        return Remembered(
            base=dict(record["base"]),
            request=_read_request(record["request"]),
            index=int(record["picture"]),
            units=units,
            dtypes=tuple(str(each["dtype"]) for each in record["units"]),
            files=dict(record["files"]),
        )
    except (KeyError, TypeError, ValueError) as error:  # deeper inside, such as in a unit's picture
        raise FileError(
            f"the record in '{path}' holds a value that none of ours has: it was changed, and the picture cannot be "
            "made again"
        ) from error


def check_files(remembered: Remembered, *, replaced: Sequence[str] = ()) -> None:
    """Raise FileError for files that are gone or have changed since the picture was drawn.

    replaced: paths that somebody has given another file for.
    """
    for path, known in remembered.files.items():
        if path in replaced:
            continue
        if not Path(path).exists():
            raise FileError(f"'{path}', from which the picture was made, is not there: put it back, or give --base")
        if digest(Path(path)) != known:
            raise FileError(f"'{path}' has changed since the picture was made from it: it would be another picture")


def infotext(request: Request, k: int, units: Sequence[ControlUnit]) -> str:
    """Return picture `k` in the text that WebUIs write: prompts, settings, and units that have names there."""
    return infotext_of(request, k, [each.origin for each in units if isinstance(each.origin, UnitRequest)])


def infotext_of(request: Request, k: int, units: Sequence[UnitRequest]) -> str:
    """Return picture `k` in the text that WebUIs write, before any model is loaded."""
    said = [_in_webui(each) for each in units]
    settings = {
        "Steps": request.steps,
        "Sampler": request.scheduler,
        "CFG scale": request.guidance,
        "Seed": request.seed + k,
        "Size": f"{request.width}x{request.height}",
        **_webui_passes(request),
        **{name: json.dumps(text) for name, text in write_infotext(said).items()},
    }
    tags = "".join(f"<lora:{each.name}:{shortest(each.weight)}>" for each in request.loras)  # as WebUIs name LoRAs
    lines = [request.prompts[k] + tags, *([f"Negative prompt: {request.negative}"] if request.negative else [])]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def _webui_passes(request: Request) -> dict[str, Any]:
    """Return clip skip and the hires pass as WebUIs write them."""
    said: dict[str, Any] = {} if request.clip_skip == 1 else {"Clip skip": request.clip_skip}
    if request.image is not None:
        said["Denoising strength"] = request.strength
    if request.hires > 1:
        said |= {
            "Denoising strength": request.hires_strength,
            "Hires upscale": request.hires,
            "Hires upscaler": "Lanczos",
        }
        said |= {"Hires steps": request.hires_steps} if request.hires_steps else {}
    return said


def _in_webui(request: UnitRequest) -> UnitArgs:
    """Return a request in the WebUIs' fields, where models go by the names of their files."""
    args = args_of(request)
    return replace(args, model=Path(args.model).stem)


def _base(base: Base) -> dict[str, Any]:
    return {
        "path": "" if base.source is None else str(base.source.resolve()),
        "dtype": str(base.pipeline.unet.dtype).removeprefix("torch."),
        "device": base.device.type,
        "offload": base.offload.value,
        "prediction": base.prediction,
    }


def _request(request: Request, sources: Mapping[str, Path]) -> dict[str, Any]:
    plain = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in PICTURES}
    plain["loras"] = [{"path": str(Path(each.path).resolve()), "weight": each.weight} for each in request.loras]
    for name in PICTURES:
        pixels = getattr(request, name)
        if pixels is not None:
            plain[name] = str(sources[name].resolve()) if name in sources else plain_pixels(pixels)
    return plain


def _read_request(plain: Mapping[str, Any]) -> Request:
    values = dict(plain)
    prompt = values["prompt"]
    values["prompt"] = prompt if isinstance(prompt, str) else tuple(prompt)
    values["loras"] = tuple(Lora(str(each["path"]), float(each["weight"])) for each in values.get("loras", ()))
    for name, read in zip(PICTURES, (read_image, read_mask), strict=True):
        if isinstance(values.get(name), str):
            values[name] = read(values[name])
        elif name in values:
            values[name] = pixels_of(name, values[name])
    return Request(**values)


def _unit(unit: ControlUnit, firing: Firing) -> dict[str, Any]:
    acted = firing.plain()
    if not isinstance(unit.origin, UnitRequest):
        return {"model": unit.model.name, **acted}
    weight = next(unit.model.network.parameters(), None)  # a reference has none
    dtype = "float32" if weight is None else str(weight.dtype).removeprefix("torch.")
    return {"said": _absolute(to_record(unit.origin)), "dtype": dtype, **acted}


def _absolute(said: dict[str, Any]) -> dict[str, Any]:
    """Return a unit's record with paths that mean the same from everywhere."""
    return {**said, **{name: _resolved(said[name]) for name in (*UNIT_PICTURES, "model") if name in said}}


def _resolved(value: Any) -> Any:
    """Return a path, or each of a list of them, so that it means the same from everywhere; pixels as they are."""
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value


def _read_unit(path: Path, number: int, record: Mapping[str, Any]) -> UnitRequest:
    if "said" not in record:
        raise FileError(
            f"unit {number} of '{path}' ({record.get('model')}) was made by a program and not from a request, so only "
            "that program can make the picture again"
        )
    return from_record(record["said"])


def _paths(record: Mapping[str, Any]) -> set[str]:
    said = [each["said"] for each in record["units"] if "said" in each]
    named = [each.get(name) for each in said for name in (*UNIT_PICTURES, "model")]
    named += [each["path"] for each in record["request"]["loras"]]
    named += [record["base"]["path"], *(record["request"].get(name) for name in PICTURES)]
    named += [each for several in named if isinstance(several, list) for each in several]
    return {each for each in named if isinstance(each, str) and each}


def _record(path: Path) -> dict[str, Any]:
    try:
        text = read_texts(path).get(KEY)
    except HintError as error:
        raise FileError(str(error)) from error
    if text is None:
        raise FileError(
            f"'{path}' holds no record of ControlStack: give a PNG file as `controlstack generate` wrote it"
        )
    found = parse_json(text, f"the record in '{path}'")
    if not isinstance(found, dict):
        raise FileError(f"the record in '{path}' is no table: the file was changed")
    return found


def _versions() -> dict[str, str]:
    import diffusers
    import torch
    import transformers

    from .. import __version__

    return {
        "controlstack": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
