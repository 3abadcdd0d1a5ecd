"""Control models without a file in sd-webui-controlnet's words: there they are preprocessors without a model.

There a reference has no style fidelity where the prompt counts more, and none in the hires pass of a balanced unit
(`scripts/hook.py`). Its modes have no other meaning, nor have ours for a reference, but that of the cond rows alone.
Revision has no modes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...core.options import Value
from ...core.unit import ControlMode
from ...models.kinds.fileless import FILELESS
from ...models.kinds.references import FIDELITY, REFERENCES
from ...models.kinds.revisions import EMBEDDING, REVISIONS
from ...preprocessors import REGISTRY, Preprocessor, encoding, find
from .. import offer
from ..request import AUTO, NONE, UnitRequest

if TYPE_CHECKING:
    from ...preprocessors.networks.store import Store

TYPES = (*offer.TYPES, *offer.FILELESS_TYPES)
_OF_TYPE: Mapping[str, tuple[str, ...]] = MappingProxyType({offer.REFERENCE: REFERENCES, offer.REVISION: REVISIONS})


def is_model(preprocessor: Preprocessor) -> bool:
    """Return whether a preprocessor of that program stands for a control model without a file."""
    return preprocessor.id in FILELESS


def offer_of(preprocessor: Preprocessor, store: Store | None = None) -> offer.Offer:
    """Return what can be said of a preprocessor; one that stands for a model lacks at most its network.

    store: where weights are looked for.
    """
    return offer.offer_of(replace(preprocessor, no_hint="") if is_model(preprocessor) else preprocessor, store)


def modules() -> tuple[Preprocessor, ...]:
    """Return the preprocessors of units, and those that stand for models, in the order of the registry."""
    return tuple(each for each in REGISTRY if not each.no_hint or is_model(each))


def types() -> tuple[str, ...]:
    """Return all control types, with those of models without a file."""
    return tuple(dict.fromkeys((*TYPES, *offer.types())))


def of_type(control_type: str) -> tuple[Preprocessor, ...]:
    """Return what a control type offers as preprocessors: those of units, or models without a file."""
    if control_type in _OF_TYPE:
        return tuple(find(name) for name in _OF_TYPE[control_type])
    return modules() if control_type == offer.ALL else offer.of_type(control_type)


def default_preprocessor(control_type: str) -> Preprocessor:
    """Return what a control type starts with."""
    return of_type(control_type)[0] if control_type in _OF_TYPE else offer.default_preprocessor(control_type)


def as_model(request: UnitRequest) -> UnitRequest:
    """Return the request whose preprocessor stands for a model with that as its model; others as they are."""
    name = request.preprocessor
    if name not in FILELESS:
        return request
    options: dict[str, Value] = {**request.parameters, **request.options}
    found = replace(request, preprocessor=_reader(name), parameters={}, model=name, options=options)
    if name in REVISIONS:
        return replace(found, mode=ControlMode.BALANCED)
    return without_fidelity(found) if request.mode is ControlMode.PROMPT else found


def without_fidelity(request: UnitRequest) -> UnitRequest:
    """Return the request of a reference, balanced, without style fidelity; others as they are."""
    if request.model not in REFERENCES:
        return request
    return replace(request, mode=ControlMode.BALANCED, options={**request.options, FIDELITY.name: 0.0})


def as_preprocessor(request: UnitRequest) -> UnitRequest:
    """Return the request whose model has no file as that program says it; others as they are.

    One whose picture goes through another preprocessor first cannot be said there, nor can Revision's modes.
    """
    options = FILELESS.get(request.model)
    if options is None or not _can_be_said(request):
        return request
    told, numbers = dict(request.options), dict[str, float]()
    for option in options:
        if option.name in told:
            numbers[option.name] = float(option.read(told.pop(option.name)))
    mode = ControlMode.BALANCED if request.mode is ControlMode.PROMPT else request.mode
    return replace(request, preprocessor=request.model, model="", parameters=numbers, options=told, mode=mode)


def _can_be_said(request: UnitRequest) -> bool:
    """Return whether that program can say what a unit with a model without a file does with its picture."""
    if request.model in REVISIONS:
        return request.preprocessor in (_reader(request.model), AUTO) and request.mode is ControlMode.BALANCED
    return request.preprocessor == NONE


def _reader(model: str) -> str:
    """Return the preprocessor whose hint a model without a file reads."""
    return encoding(EMBEDDING).id if model in REVISIONS else NONE
