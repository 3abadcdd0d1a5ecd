"""What can be chosen here: preprocessors with their licences and what they lack, control types, and models by type.

Only what acts is offered. A name that is known and offered nowhere has a `refusal`, which is raised for who asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..core.errors import UnitError
from ..core.options import Option, Value
from ..models.kinds.unions import offers as union_offers
from ..preprocessors import Parameter, Preprocessor, find, offered
from ..preprocessors.networks.network import licences, missing_packages
from .request import AUTO, NONE, UnitRequest

if TYPE_CHECKING:
    from ..preprocessors.networks.network import WeightFile
    from ..preprocessors.networks.store import Store

ALL = "All"
REFERENCE, REVISION = "Reference", "Revision"
FILELESS_TYPES = (REFERENCE, REVISION)  # of models without a file; no unit's preprocessor has them
TYPES: tuple[str, ...] = (  # control types in the order in which users of sd-webui-controlnet know them
    ALL, "Canny", "Depth", "NormalMap", "OpenPose", "MLSD", "Lineart", "SoftEdge", "Scribble", "Segmentation",
    "Shuffle", "Tile", "Blur", "Inpaint", "InstructP2P", "Recolor", "T2I-Adapter", "IP-Adapter",
    "Instant-ID",
)  # fmt: skip
_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType({  # in file names that mean a type; sd-webui-controlnet
    "Blur": ("blur", "tile"),
    "InstructP2P": ("instructp2p", "ip2p"),
    "Instant-ID": ("instant_id", "instant-id", "instantid"),
    "IP-Adapter": ("ip-adapter", "ip_adapter", "ipadapter"),
    "NormalMap": ("normal",),
    "Recolor": ("recolor", "luminance", "intensity"),
    "Scribble": ("scribble", "sketch"),
    "SoftEdge": ("softedge", "hed", "pidinet"),
    "Segmentation": ("segmentation", "seg"),
    "T2I-Adapter": ("t2i", "t2iadapter", "adapter"),
    "Tile": ("tile", "blur"),
})  # fmt: skip
_FURTHER: Mapping[str, tuple[str, ...]] = MappingProxyType({"Blur": ("blur_gaussian",)})  # of types that no tag names
_DEFAULTS: Mapping[str, str] = MappingProxyType({"Inpaint": "inpaint_only"})  # where that is not the first one
UNIONS = ("union", "promax", "unicontrol", "uni-control", "uni_control")  # in file names of models for several types
_ADAPTERS = "IP-Adapter"  # whose names hold the word of another type
_OF_ADAPTERS = (_ADAPTERS, "Instant-ID")  # types that an adapter may be of


@dataclass(frozen=True, slots=True)
class Offer:
    """A preprocessor as an edge offers it."""

    preprocessor: Preprocessor
    lacks: str  # why it cannot run here, in a sentence; empty if it can
    licences: str  # of its weights; empty for none
    fetches: tuple[WeightFile, ...] = ()  # what is downloaded when it first runs

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Return its numbers, each with its name, default and bounds."""
        return self.preprocessor.parameters


def preprocessor_of(request: UnitRequest) -> Preprocessor:
    """Return the preprocessor of a unit, its numbers checked; PreprocessorError if no model reads its result."""
    if request.preprocessor == AUTO:
        raise UnitError("the preprocessor 'auto' is chosen by the model's file, and no model is known here: choose one")
    found = find(request.preprocessor)
    found.check_gives_hint()
    found.settings(request.parameters)
    return found


def offer_of(preprocessor: Preprocessor, store: Store | None = None) -> Offer:
    """Return what can be said of a preprocessor before it is chosen. store: where its weights are looked for."""
    lacks = preprocessor.refusal or missing_packages(preprocessor.networks)
    missing = store.missing(preprocessor.networks) if store is not None and not lacks else ()
    if store is not None and missing and not store.automatic:
        lacks = " ".join(store.how_to_get(file) for file in missing)
    return Offer(preprocessor, lacks, licences(preprocessor.networks), () if lacks else missing)


def offers(store: Store | None = None) -> tuple[Offer, ...]:
    """Return every preprocessor that units can use, in the order in which users see them."""
    return tuple(offer_of(each, store) for each in offered())


def types() -> tuple[str, ...]:
    """Return all control types that have a preprocessor: those that users know, then further ones."""
    further: Iterator[str] = (each for preprocessor in offered() for each in preprocessor.control_types)
    return tuple(dict.fromkeys((*TYPES, *further)))


def of_type(control_type: str) -> tuple[Preprocessor, ...]:
    """Return the preprocessors of a control type, the picture itself first."""
    if control_type == ALL:
        return offered()
    further = (NONE, *_FURTHER.get(control_type, ()))
    return tuple(each for each in offered() if each.id in further or control_type in each.control_types)


def default_preprocessor(control_type: str) -> Preprocessor:
    """Return what a control type starts with: its first preprocessor, or one that spares the rest of a picture."""
    found = of_type(control_type)
    own = [each for each in found if each.id != NONE]
    if control_type == ALL or not own:
        return found[0]
    return next((each for each in own if each.id == _DEFAULTS.get(control_type)), own[0])


def default_model(models: Sequence[str]) -> str:
    """Return the first one of version 1.1, as sd-webui-controlnet chooses; else the first one; empty for none."""
    return next((each for each in models if "11" in each.rpartition(" [")[0]), models[0] if models else "")


def models_of_type(control_type: str, models: Sequence[str]) -> list[str]:
    """Return the models whose file names speak of a control type: no weight tells what a hint has to show.

    Behind them the unions, where they have a kind of hint for the type.
    """
    if control_type == ALL:
        return list(models)
    words = _WORDS.get(control_type, (control_type.lower(),))
    others = () if control_type in _OF_ADAPTERS else _WORDS[_ADAPTERS]
    named = [
        name
        for name in models
        if any(word in name.lower() for word in words) and not any(word in name.lower() for word in others)
    ]
    general = UNIONS if of_hint(union_offers(), control_type) else ()
    return named + [each for each in models if each not in named and any(word in each.lower() for word in general)]


def of_hint(options: Sequence[Option], control_type: str) -> dict[str, Value]:
    """Return what a model with these options is told for hints of a control type; nothing where none says that."""
    found = {each.name: each.find(control_type) for each in options if each.of_hint}
    return {name: value for name, value in found.items() if value is not None}


def of_several_kinds(options: Sequence[Option]) -> bool:
    """Return whether a model with these options tells kinds of hints apart, as unions do."""
    return any(each.of_hint and each.several for each in options)


def shown_by(preprocessor: str, option: Option) -> Value | None:
    """Return the value of an option for hints of a preprocessor, by the control types that it is of; None: no such."""
    if preprocessor == AUTO:
        return None
    found = find(preprocessor)
    values = (option.find(word) for word in (found.id, *found.control_types))
    return next((value for value in values if value is not None), None)
