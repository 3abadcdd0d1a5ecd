"""Axes of the host's X/Y/Z plot, for each unit of the page. They change a unit that is on; "Enabled" switches it."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ....units.choices import BASES, HIRES, MODES, RESIZES
from ..clients.remote import GRID
from ..request.services import services
from . import choices
from .settings import unit_count

PLOT = "xyz_grid.py"  # the module of the host's script


class Axis(NamedTuple):
    """One axis: its label, the unit's field, the type that the plot reads, and what there is to choose from."""

    label: str
    field: str
    kind: type
    choices: Callable[[], list[str]] | None = None
    cost: float = 0.0  # of a change; the plot puts dear axes outside


AXES = (
    Axis("Enabled", "enabled", str, lambda: ["True", "False"]),
    Axis("Model", "model", str, lambda: services().files.names, cost=0.2),
    Axis("Weight", "weight", float),
    Axis("Guidance Start", "guidance_start", float),
    Axis("Guidance End", "guidance_end", float),
    Axis("Control Mode", "control_mode", str, lambda: list(MODES.labels)),
    Axis("Resize Mode", "resize_mode", str, lambda: list(RESIZES.labels)),
    Axis("Preprocessor", "module", str, choices.modules, cost=0.1),
    Axis("Pre Resolution", "processor_res", int, cost=0.1),
    Axis("Pre Threshold A", "threshold_a", float, cost=0.1),
    Axis("Pre Threshold B", "threshold_b", float, cost=0.1),
    Axis("Range Basis", "range_basis", str, lambda: list(BASES.labels)),
    Axis("Hires Option", "hr_option", str, lambda: list(HIRES.labels)),
    Axis("Weight Curve", "curve", str),
)


def register() -> None:
    """Add the axes, if the host has the plot."""
    from modules import scripts

    for data in scripts.scripts_data:
        if data.script_class.__module__ == PLOT:
            _add(data.module)


def setter(index: int, name: str) -> Callable[[Any, Any, Any], None]:
    """Return what an axis does with a request `p`: note its value for unit `index`."""

    def apply(p: Any, value: Any, _values: Any) -> None:
        # The plot copies a request only flatly, so what is noted on it is never changed in place.
        noted = dict(getattr(p, GRID, None) or {})
        values = [*noted.get(name, ()), *[None] * (index + 1)]
        values[index] = value
        setattr(p, GRID, noted | {name: values})

    return apply


def _add(plot: Any) -> None:
    known = {each.label for each in plot.axis_options}
    for index in range(unit_count()):
        for axis in AXES:
            label = f"[ControlNet{f' {index}' if index else ''}] {axis.label}"
            if label not in known:
                plot.axis_options.append(
                    plot.AxisOption(
                        label, axis.kind, setter(index, axis.field), cost=axis.cost, choices=axis.choices
                    )
                )  # fmt: skip
