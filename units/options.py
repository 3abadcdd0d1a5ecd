"""Options of a model's family in a unit: which ones it is told, and how several hints of one picture lie together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.control import ControlModel
from ..core.errors import HintError
from ..models.kinds.fileless import KINDS
from ..models.registry import REGISTRY
from .offer import shown_by
from .request import UnitRequest


def describe() -> str:
    """Return the options of all families as a table in Markdown, for the documentation."""
    rows = ["| family | option | default | what it may be | meaning |", "|---|---|---|---|---|"]
    rows += [
        f"| {family.title} | `{each.name}` | {each.default} | {each.expected} | {each.meaning} |"
        for family in (*REGISTRY, *KINDS)
        for each in family.options
    ]
    return "\n".join(rows)


def bound(request: UnitRequest, model: ControlModel) -> ControlModel:
    """Return the model of a unit, told the unit's options; what the hint shows is known from its preprocessor.

    UnitError for options that the model does not have, and values that it does not take.
    """
    said: dict[str, object] = dict(request.options)
    for option in model.offers:
        shown = shown_by(request.preprocessor, option) if option.of_hint and option.name not in said else None
        if shown is not None and option.name not in model.options:
            said[option.name] = shown
    return model.bind(said)


def beside(hint: Tensor, model: ControlModel) -> Tensor:
    """Return the hints of a unit as its model reads them: [N, C, H, W], several of a picture in the channels.

    hint: one [1, C, H, W] for all that the model reads, or for each the hints of all pictures, one after the other
    [K * N, C, H, W]. HintError for another number.
    """
    count = model.hints
    if count == 1 or len(hint) == 1:
        return hint
    pictures, rest = divmod(len(hint), count)
    if rest:
        raise HintError(
            f"'{model.name}' reads {count} hints of each picture, as {_told(model)} says, and got {len(hint)}: give "
            f"one hint for all, or {count}, in the order of the option"
        )
    by_kind = hint.reshape(count, pictures, *hint.shape[1:])
    return torch.cat([*by_kind], dim=1)


def _told(model: ControlModel) -> str:
    return "; ".join(f"{name}={value}" for name, value in model.options.items())
