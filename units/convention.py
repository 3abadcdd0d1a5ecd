"""What a control model's own file says about its hints, such as `canny(low=50,high=100)`: chosen by it, or warned.

Our training writes it into the metadata of a file (`controlstack.hint`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.embedding import Embedding
from ..core.errors import PreprocessorError, UnitError
from ..models.files.finding import PICKLES, find_weights
from ..models.files.loading import read_header
from ..preprocessors import Output, Preprocessor, encoding, find
from . import text
from .offer import of_several_kinds, shown_by
from .request import AUTO, NONE, UnitRequest
from .unread import unread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..core.options import Option

    Image = NDArray[np.uint8]

KEY = "controlstack.hint"  # in a file's metadata
COLOURED = 12  # of 255: from this mean difference of two channels on, a picture is no drawing in greys
GREYS = 32  # more than these in a picture are no drawing in black and white


@dataclass(frozen=True, slots=True)
class Convention:
    """The preprocessor that made a model's training hints, and its numbers."""

    said: str  # as the file has it
    preprocessor: Preprocessor
    parameters: dict[str, float]


def said_by(path: Path) -> str:
    """Return what a model's file says about its hints; empty if it says nothing. Only its table is read.

    Old formats carry no metadata and would have to be read whole, so they are not opened.
    """
    if any(file.suffix.lower() in PICKLES for file in find_weights(path)):
        return ""
    return read_header(path).metadata.get(KEY, "")


def convention_of(said: str) -> Convention | None:
    """Return the convention that a file names; None if it names no preprocessor of ours."""
    match = re.fullmatch(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*", said)
    if match is None:
        return None
    try:
        preprocessor = find(match[1])
        parameters = text.read_parameters("hint", (match[2] or "").replace(",", ";"))
        preprocessor.settings(parameters)
    except (PreprocessorError, UnitError):  # a word of another program, or a picture that is a hint already
        return None
    return Convention(said.strip(), preprocessor, parameters)


def chosen(request: UnitRequest, said: str, embedding: Embedding | None = None) -> UnitRequest:
    """Return the request with the preprocessor that its model's file names, if it asks for that (`auto`).

    Numbers that the user gives win over the file's. embedding: what the model reads, if it is no picture; that names a
    preprocessor as well. UnitError for a file that names none.
    """
    if request.preprocessor != AUTO and not find(request.preprocessor).by_model:
        return request
    if embedding is not None and embedding.encoder is not None:
        return replace(request, preprocessor=encoding(embedding).id)
    if request.preprocessor != AUTO:
        return request
    found = convention_of(said)
    if found is None:
        what = f"says '{said}', which is no preprocessor here" if said else "does not say which preprocessor it reads"
        raise UnitError(f"the preprocessor is 'auto', but the file of '{request.model}' {what}: choose one")
    return replace(request, preprocessor=found.preprocessor.id, parameters={**found.parameters, **request.parameters})


def warning(request: UnitRequest, said: str, image: Image, options: Sequence[Option] = ()) -> str:
    """Return what is to be said of a unit before it runs: a hint that looks wrong, and what changes nothing.

    The arguments are those of `doubt`.
    """
    return "; ".join(filter(None, (doubt(request, said, image, options), unread(request))))


def doubt(request: UnitRequest, said: str, image: Image, options: Sequence[Option] = ()) -> str:
    """Return a warning about a hint that the model may not read as it is meant; empty if there is none.

    That is a photograph without a preprocessor, and a hint of a kind that a model of several kinds does not have.
    image: the unit's picture, [..., H, W, 3]. options: what the model may be told. A model whose file names no
    convention is not doubted for photographs.
    """
    if request.preprocessor != NONE:
        return _unknown_kind(request, options)
    found = convention_of(said)
    if found is None or found.preprocessor.id == NONE or not _is_unlike(image, found.preprocessor.output):
        return ""
    numbers = "".join(f",{name}={text.write_number(value)}" for name, value in found.parameters.items())
    return (
        f"'{request.model}' was trained on hints of {found.said}, and the picture looks like no such hint: "
        f"choose preprocessor={found.preprocessor.id}{numbers}, or preprocessor={AUTO}"
    )


def _unknown_kind(request: UnitRequest, options: Sequence[Option]) -> str:
    for each in options:
        told = each.name in request.options or shown_by(request.preprocessor, each) is not None
        if of_several_kinds([each]) and not told and not each.needed:  # without which the unit is refused
            kinds = ", ".join(word for word in each.words if word != each.default)
            return (
                f"'{request.model}' knows no kind of hint that {request.preprocessor} makes, and reads it as it is: "
                f"set {each.name} to one of {kinds} if the hint shows that"
            )
    return ""


def _is_unlike(image: Image, output: Output) -> bool:
    """Return whether a picture can be no hint of that kind, by its colours alone."""
    import numpy as np

    if output not in (Output.BINARY, Output.GRAY):
        return False
    levels = np.reshape(image, (-1, 3)).astype(np.int16)
    if float(np.abs(levels - levels[:, [1, 2, 0]]).mean()) > COLOURED:
        return True
    return output is Output.BINARY and len(np.unique(levels[:, 0])) > GREYS
