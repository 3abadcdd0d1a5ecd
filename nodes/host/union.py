"""How the host itself says what the hint of a union shows: by an argument that SetUnionControlNetType sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.control import ControlModel
from ...core.errors import UnitError
from ...core.options import PLUS, Option
from ...models.kinds.unions import AUTOMATIC, KINDS, OPTION

ARGUMENT = "control_type"  # the numbers of kinds, none for automatic; not there where nobody said anything


def told_by_host(control: Any, offers: Sequence[Option]) -> dict[str, str]:
    """Return the option that the host's node has set on a control which has it; nothing where there is no such node."""
    kinds = getattr(control, "extra_args", {}).get(ARGUMENT)
    if kinds is None or OPTION not in {each.name for each in offers}:
        return {}
    return {OPTION: PLUS.join(KINDS[kind][0] for kind in kinds) or AUTOMATIC}


def tell_host(control: Any, model: ControlModel) -> None:
    """Set on a control of the host what a model around it was told. UnitError for more than the host can be told."""
    option = next((each for each in model.offers if each.name == OPTION), None)
    if option is None:
        return
    told = option.weighed(model.options.get(OPTION, AUTOMATIC))
    if len(told) > 1 or any(weight != 1 for _, weight in told):
        raise UnitError(
            f"'{model.name}' was loaded by the host, whose unions read one kind of hint at a time, without a weight: "
            "load it with Load Control Model of ControlStack, or give one kind"
        )
    control.set_extra_arg(ARGUMENT, [list(option.words).index(kind) - 1 for kind, _ in told])
