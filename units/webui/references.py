"""References in sd-webui-controlnet's words: there they are preprocessors without a model, here models without a file.

There a reference has no style fidelity where the prompt counts more, and none in the hires pass of a balanced unit
(`scripts/hook.py`). Its modes have no other meaning, nor have ours for a reference, but that of the cond rows alone.
"""

from __future__ import annotations

from dataclasses import replace

from ...core.options import Value
from ...core.unit import ControlMode
from ...models.kinds.references import FIDELITY, REFERENCES
from ...preprocessors import REGISTRY, Preprocessor, find
from .. import offer
from ..request import NONE, UnitRequest

TYPES = (*offer.TYPES, offer.REFERENCE)


def is_reference(preprocessor: Preprocessor) -> bool:
    """Return whether a preprocessor of that program stands for a reference."""
    return preprocessor.id in REFERENCES


def modules() -> tuple[Preprocessor, ...]:
    """Return the preprocessors of units, and the references, in the order of the registry."""
    return tuple(each for each in REGISTRY if not each.no_hint or is_reference(each))


def types() -> tuple[str, ...]:
    """Return all control types, with the references'."""
    return tuple(dict.fromkeys((*TYPES, *offer.types())))


def of_type(control_type: str) -> tuple[Preprocessor, ...]:
    """Return what a control type offers as preprocessors: those of units, or references."""
    if control_type == offer.REFERENCE:
        return tuple(find(name) for name in REFERENCES)
    return modules() if control_type == offer.ALL else offer.of_type(control_type)


def default_preprocessor(control_type: str) -> Preprocessor:
    """Return what a control type starts with."""
    return find(REFERENCES[0]) if control_type == offer.REFERENCE else offer.default_preprocessor(control_type)


def as_model(request: UnitRequest) -> UnitRequest:
    """Return the request whose preprocessor is a reference with the reference as its model; others as they are."""
    if request.preprocessor not in REFERENCES:
        return request
    options: dict[str, Value] = {**request.parameters, **request.options}
    found = replace(request, preprocessor=NONE, parameters={}, model=request.preprocessor, options=options)
    return without_fidelity(found) if request.mode is ControlMode.PROMPT else found


def without_fidelity(request: UnitRequest) -> UnitRequest:
    """Return the request of a reference, balanced, without style fidelity; others as they are."""
    if request.model not in REFERENCES:
        return request
    return replace(request, mode=ControlMode.BALANCED, options={**request.options, FIDELITY.name: 0.0})


def as_preprocessor(request: UnitRequest) -> UnitRequest:
    """Return the request whose model is a reference as that program says it; others as they are.

    One whose picture goes through a preprocessor first cannot be said there.
    """
    if request.model not in REFERENCES or request.preprocessor != NONE:
        return request
    told = request.options
    numbers = {FIDELITY.name: float(FIDELITY.read(told[FIDELITY.name]))} if FIDELITY.name in told else {}
    others = {name: value for name, value in told.items() if name != FIDELITY.name}
    mode = ControlMode.BALANCED if request.mode is ControlMode.PROMPT else request.mode
    return replace(request, preprocessor=request.model, model="", parameters=numbers, options=others, mode=mode)
