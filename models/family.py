"""What a family of control networks is: one class that tells its files, builds its network and shows it to the stack.

A family says what only it can know: `detect`, `create` and `wrap`. What is the same for all stands here once, each step
guarded, since what a file holds is not to be trusted:

    names of a file -> detect -> rename -> shapes -> create on the meta device -> weights checked, put in -> wrap
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..core.control import ControlModel
from ..core.errors import DamagedModelError, IncompatibleModelError, UnsupportedModelError
from ..core.network.base import Base
from ..core.options import Option
from .files.loading import Header
from .files.precision import check_types, unscale, widen, without_scales
from .files.sources import read_settings
from .files.tensor_table import type_name
from .guard import check_numbers, guard, shown
from .layers import STANDARD, Kit
from .names import DIFFERENCE, changes_others
from .settings import Settings

T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)
Options = TypeVar("Options", bound=Settings)
Shapes = Mapping[str, tuple[int, ...]]

FEW = 3  # names in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a control model file is, as far as it can be told without loading it. All text is fit to be printed."""

    family: str
    base: str
    layout: str
    dtype: str
    parameters: int
    size: int  # bytes
    settings: Mapping[str, str]
    options: Mapping[str, str]  # what units may tell it: name -> what it may be
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]


class Family(ABC, Generic[Network, Options]):
    """One family of control networks. It has no state; the registry holds one of each."""

    id: ClassVar[str]
    title: ClassVar[str]
    bases: ClassVar[str] = ""  # the base models that there are files for, in words
    paper: ClassVar[str] = ""  # who described it, where
    options: ClassVar[tuple[Option, ...]] = ()  # all that units may tell its networks
    hosts: ClassVar[str] = "everywhere"  # where units of it run, in words
    page: ClassVar[str] = ""  # of docs/families, if it is not named after the id
    prefix: ClassVar[str] = ""  # of the names of its files, where nothing else has to be renamed
    settings: type[Options]  # what no shape tells of its networks

    @abstractmethod
    def detect(self, shapes: Shapes) -> bool:
        """Return whether a file with these names and shapes is one of the family, and of no other."""

    @abstractmethod
    def create(self, shapes: Shapes, settings: Options, kit: Kit) -> Network:
        """Build the network for these shapes, by its own names; it is done on the meta device."""

    @abstractmethod
    def wrap(self, network: Network, name: str, settings: Options, dtype: torch.dtype | None) -> ControlModel:
        """Return the control model of a network. dtype: what it computes in; None is that of its weights."""

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return what a file holds under the network's names; what belongs to no such network is left out."""
        return {name[len(self.prefix) :]: each for name, each in named.items() if name.startswith(self.prefix)}

    def layout(self, names: Collection[str]) -> str:
        """Return, in a word, which of the known ways of naming weights a file follows."""
        return "original"

    def of_config(self, config: Mapping[str, Any]) -> Mapping[str, object]:
        """Return the settings in diffusers' configuration of a model."""
        return {}

    def of_metadata(self, metadata: Mapping[str, str]) -> Mapping[str, object]:
        """Return the settings that the program which trained a model wrote into its file, by our names."""
        return {}

    def unsaid(self) -> Options:
        """Return settings that any network takes, for what does not depend on them."""
        return self.settings()

    def offers(self, shapes: Shapes, settings: Options) -> tuple[Option, ...]:
        """Return what units may tell a network of these shapes, by its own names."""
        return self.options

    def base(self, shapes: Shapes) -> Base:
        """Return what base model a network of these shapes, by its own names, was made for."""
        return self._outline(shapes).base

    def in_file(self, network: Network, shapes: Shapes) -> Shapes:
        """Return what a file of these shapes must hold for the network."""
        return shapes_of(network.state_dict())

    def fill(self, network: Network, weights: Mapping[str, Tensor]) -> None:
        """Put what `in_file` asked for into a network on the meta device."""
        network.load_state_dict(dict(weights), assign=True)

    def needs_base(self, names: Collection[str]) -> bool:
        """Return whether a file with these names is complete only together with its base model."""
        return DIFFERENCE in names

    def reads_base(self, names: Collection[str]) -> bool:
        """Return whether loading a file with these names looks at the weights of its base model, if there is one."""
        return self.needs_base(names)

    def complete(self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
        """Return the weights of a network whose file holds them only in part: W = W_difference + W_base.

        What is new in the control network is whole in the file. state: by the network's names. base: weights of the
        base U-Net by bare ldm names.
        """
        wrong = [key for key, value in state.items() if key in base and base[key].shape != value.shape]
        if wrong:
            mine, host = list(state[wrong[0]].shape), list(base[wrong[0]].shape)
            raise IncompatibleModelError(
                f"'{shown(name)}' holds differences to another base model ({shown(wrong[0])} is {mine}, the loaded one "
                f"has {host}): load it with the base that it was made from, or a relative of it"
            )
        return {key: _sum(value, base[key]) if key in base else value for key, value in state.items()}

    def made_for(self, header: Header) -> Base:
        """Return what base model a file was made for."""
        with guard(header.name):
            return self.base(self._renamed(without_scales(header.shapes), header.name))

    def offered(self, header: Header) -> tuple[Option, ...]:
        """Return what units may tell the network of a file."""
        with guard(header.name):
            settings = read_settings(self.settings, header, None, self.of_config, self.of_metadata)
            return self.offers(self._renamed(without_scales(header.shapes), header.name), settings)

    def describe(self, header: Header, given: Mapping[str, object] | None = None) -> Description:
        """Describe a file without reading its tensors. given: the user's settings."""
        with guard(header.name):
            settings = read_settings(self.settings, header, given, self.of_config, self.of_metadata)
            shapes = self._renamed(without_scales(header.shapes), header.name)
            expected = self.in_file(self._create(shapes, settings, STANDARD), shapes)
            self._check_meaning(expected, self._renamed(without_scales(header.dtypes), header.name), header.name)
            return Description(
                family=self.title,
                base=self.base(shapes).name,
                layout=self.layout(header.shapes) + (f" ({DIFFERENCE})" if DIFFERENCE in header.shapes else ""),
                dtype=", ".join(sorted(set(header.dtypes.values()))),
                parameters=sum(math.prod(shape) for shape in shapes.values()),
                size=header.size,
                settings=_in_words(settings),
                options={each.name: each.expected for each in self.offers(shapes, settings)},
                missing=tuple(shown(name) for name in expected if name not in shapes),
                misshapen=tuple(name for name in expected if name in shapes and shapes[name] != expected[name]),
                unexpected=tuple(shown(name) for name in shapes if name not in expected),
            )

    def outline(self, shapes: Shapes) -> ControlModel:
        """Return a control model that promises what a loaded one does, but has no weights and cannot compute."""
        with guard(self.title):
            return self._outline(self._renamed(shapes, self.title))

    def load(
        self,
        state: Mapping[str, Tensor],
        settings: Options,
        kit: Kit = STANDARD,
        base_state: Mapping[str, Tensor] | None = None,
        *,
        name: str,
        dtype: torch.dtype | None = None,
        compute: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> ControlModel:
        """Return the control model of a file's tensors, complete and checked, or raise ModelError.

        state: by the file's names. base_state: weights of the base U-Net by bare ldm names, for files that need them.
        name: of the model. dtype, compute, device: see `registry.load_control_model`.
        """
        with guard(name):
            weights = widen(self._renamed(unscale(state, name, dtype), name), dtype)
            if self.needs_base(state):
                if base_state is None:
                    raise DamagedModelError(
                        f"'{shown(name)}' holds differences to its base model: load it together with a base model"
                    )
                weights = self.complete(weights, base_state, name)
            network = self._build(weights, settings, kit, name)
        network.requires_grad_(False).eval().to(device=device, dtype=dtype)
        return self.wrap(network, name, settings, compute or dtype)

    def join(
        self, model: ControlModel, header: Header, settings: Options, base_state: Mapping[str, Tensor] | None
    ) -> ControlModel:
        """Return a loaded model with what lies in other files beside its own."""
        return model

    def _build(self, weights: Mapping[str, Tensor], settings: Options, kit: Kit, name: str) -> Network:
        """Build the network on the meta device and put the file's tensors into it: nothing is allocated twice."""
        shapes = shapes_of(weights)
        network = self._create(shapes, settings, kit)
        own = self.in_file(network, shapes)
        _check_complete(own, shapes, f"'{shown(name)}' ({self.title})")
        self._check_meaning(own, {key: type_name(each.dtype) for key, each in weights.items()}, name)
        self.fill(network, {key: weights[key] for key in own})
        return network

    def _outline(self, shapes: Shapes) -> ControlModel:
        return self.wrap(self._create(shapes, self.unsaid(), STANDARD), self.title, self.unsaid(), None)

    def _create(self, shapes: Shapes, settings: Options, kit: Kit) -> Network:
        if empty := next((name for name, shape in shapes.items() if 0 in shape and "." in name), None):
            raise DamagedModelError(f"'{shown(empty)}' holds no values ({list(shapes[empty])}): get the file again")
        with torch.device("meta"):
            return self.create(shapes, settings, kit)

    def _renamed(self, named: Mapping[str, T], file: str) -> dict[str, T]:
        """Return what a file holds under the network's names, whose numbers can be counted up to."""
        check_numbers(named, file)
        renamed = {name: each for name, each in self.rename(named).items() if name != DIFFERENCE}
        check_numbers(renamed, file)
        return renamed

    def _check_meaning(self, own: Collection[str], dtypes: Mapping[str, str], name: str) -> None:
        """Raise for weights that are no plain numbers, or that others of the file change. own: the network's names."""
        check_types({key: dtypes[key] for key in own if key in dtypes}, name)
        changing = next((key for key in dtypes if key not in own and changes_others(key, own)), None)
        if changing is not None:
            raise UnsupportedModelError(
                f"'{shown(name)}' ({self.title}) holds '{shown(changing)}', which changes the weights beside it in a "
                "way that is not known here: get the plain model"
            )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by their names."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_complete(expected: Shapes, given: Shapes, what: str) -> None:
    missing = [name for name in expected if name not in given]
    if missing:
        raise DamagedModelError(
            f"{what} lacks {len(missing)} weights, such as {', '.join(missing[:FEW])}: get the file again"
        )
    wrong = [name for name in expected if expected[name] != given[name]]
    if wrong:
        each = (f"{name} is {list(given[name])}, expected {list(expected[name])}" for name in wrong[:FEW])
        raise DamagedModelError(f"{what} has {len(wrong)} misshapen weights: {'; '.join(each)}: get the file again")


def _in_words(settings: Settings) -> dict[str, str]:
    """Return the settings that were given, as text."""
    return {name: str(value).lower() for name, value in asdict(settings).items() if value is not None}


def _sum(difference: Tensor, weight: Tensor) -> Tensor:
    """Return the sum, computed in the wider precision and rounded once to the file's; torch adds nothing in 8 bits."""
    wide = torch.float32 if weight.element_size() == 1 else weight.dtype
    return (difference + weight.to(difference.device, wide)).to(difference.dtype)
