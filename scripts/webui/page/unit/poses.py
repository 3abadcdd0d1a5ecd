"""Poses of a unit as JSON: out of the preview, in from a file, and to a pose editor and back (OpenPose's form)."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .....core.errors import ControlError, HintError
from .....core.files import parse_json, read_json
from .....preprocessors.poses.drawing import draw
from .....preprocessors.poses.points import from_json
from .....units.webui.fields import NO_MODULE
from ..gradio_shim import on
from ..paste import line
from .widgets import UnitPage

if TYPE_CHECKING:
    from ...pictures.reading import Image

ADDRESS = "data:application/json;base64,"


def connect(page: UnitPage) -> None:
    """Connect what gives a unit poses: a file, and what an editor sends."""
    fields, extras = page.fields, page.extras
    outputs = [*page.pick("image", "module", "enabled"), extras["pose"], extras["said"]]
    on(extras["pose_file"].upload, _uploaded, [extras["pose_file"]], outputs)
    on(extras["pose_sent"].click, _sent, [extras["pose_text"]], outputs)
    on(fields["module"].change, lambda: "", outputs=[extras["pose"]])


def link(pose: Mapping[str, Any] | None) -> str:
    """Return what offers poses to be kept and edited; nothing for none."""
    if pose is None:
        return ""
    address = ADDRESS + base64.b64encode(json.dumps(pose).encode()).decode()
    return (
        f'<a class="cnet-pose-link" download="pose.json" href="{address}">⇩ JSON</a> '
        '<a class="cnet-pose-edit" href="#" onclick="controlstack.edit(this); return false">✎ Edit</a>'
    )


def picture_of(content: object) -> tuple[Image, Mapping[str, Any]]:
    """Return the poses of one frame of OpenPose's JSON as a picture [H, W, 3], and the frame. HintError for others."""
    frame = content
    if isinstance(content, Sequence) and not isinstance(content, str):
        if len(content) != 1:
            raise HintError(f"the JSON has {len(content)} frames, and a unit takes one: give the poses of one picture")
        frame = content[0]
    picture = draw(from_json(frame))
    assert isinstance(frame, Mapping)
    return picture, frame


def sent_by_editor(address: str) -> object:
    """Return what a data address of JSON holds; HintError or FileError if it is none."""
    try:
        text = base64.b64decode(address.removeprefix(ADDRESS), validate=True).decode()
    except ValueError as error:  # binascii.Error and UnicodeDecodeError are kinds of it
        raise HintError("the pose editor sent no data address of JSON: edit the poses again") from error
    return parse_json(text, "what the pose editor sent")


def _uploaded(file: Any) -> list[Any]:
    return _taken(lambda: read_json(Path(getattr(file, "name", file)), "pose"))


def _sent(address: str) -> list[Any]:
    return _taken(lambda: sent_by_editor(address))


def _taken(read: Any) -> list[Any]:
    """Return the widgets' changes: a drawn hint is the picture, which no preprocessor is to change any more."""
    import gradio as gr

    try:
        picture, frame = picture_of(read())
    except ControlError as error:
        return [gr.update(), gr.update(), gr.update(), gr.update(), line(str(error), wrong=True)]
    return [picture, NO_MODULE, True, link(frame), ""]
