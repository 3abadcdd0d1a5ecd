"""What a control model promises: `ControlModel`, and what it hands to the stack."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from copy import copy
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from .embedding import Embedding
from .errors import UnitError
from .network.base import LATENT, Base, BaseWeights, check_fits
from .network.effects import Effect, WeightDelta
from .network.points import Point
from .options import Option, Value
from .step import Step

Prepared = tuple[Tensor, ...]  # what a hint became; each [N, ...]
Prompt = tuple[Tensor, ...]  # what a context became; each [B, ...]


class HintSpace(Enum):
    """What a control model reads."""

    PICTURE = "picture"  # RGB in 0..1, [N, C, H, W]
    LATENTS = "latents"  # of the picture, by the base model's autoencoder, [N, C, h, w]
    INPAINTING = "inpainting"  # the hole [N, 1, h, w], and behind it latents of the picture with the hole in grey
    EMBEDDING = "embedding"  # what an encoder saw in a picture, [N, T, D]

    @property
    def reads_latents(self) -> bool:
        """Return whether the base model's autoencoder makes part of the hint."""
        return self in (HintSpace.LATENTS, HintSpace.INPAINTING)


class ControlModel(Protocol):
    """A control network, stateless: all that a run can reuse is handed back to it by the stack.

    Families inherit the usual answers from here. `name` is what the user calls it; `network` holds the weights, for the
    host to keep where they can compute, and units that share it are computed as one batch.
    """

    name: str
    network: Any  # nn.Module; for controls of a host, whatever holds their weights
    base: Base
    points: tuple[Point, ...]  # where it acts, in the order in which it computes; block weights follow this order
    shallow: tuple[Point, ...] = ()  # those that it knows at a part of its cost, the first ones; for units that reuse
    soft_weights: tuple[float, ...]  # one factor per point for the modes PROMPT and CONTROL
    hint_space: HintSpace = HintSpace.PICTURE
    hint_channels: int = 3  # C of a picture or of latents, D of an embedding, 0 for one of any width
    embedding: Embedding | None = None  # which embedding, for hints that are one
    joins_hints: bool = False  # all hints of a unit are for each picture; else one for all, or one for each
    hints: int = 1  # how many hints it can read of one picture, beside each other in the channels
    hole: float = -1.0  # what stands in a picture's hint where it is to invent
    black: float = 0.0  # what black becomes, and white stays 1, before the autoencoder sees it; for latents
    hint_scale: int = LATENT  # picture pixels per latent pixel, for hints that are pictures or latents
    cond_only: bool = False  # it acts on the cond rows in every mode
    offers: tuple[Option, ...] = ()  # what units may tell it
    options: Mapping[str, Value] = MappingProxyType({})  # what it was told, where that is not the default
    source: str = ""  # the file that it was loaded from
    delta: WeightDelta | None = None  # what it changes in the weights of the base network for the whole run
    follows: bool = False  # part of its weights are the base network's own
    gives_tokens: bool = False  # others of the run may read its tokens in place of the prompt; see `tokens`
    silences_prompt: bool = False  # the rows on which it acts have no prompt: its tokens are zeros; with VECTOR alone
    reads_tokens: bool = False  # it reads the tokens of another one in place of the prompt
    reads_added: bool = False  # it reads what others put beside the prompt; `encode` takes each token by itself
    evaluations: int = 0  # of the base network that each of its steps costs more

    @property
    def sameness(self) -> Hashable:
        """Return what models have in common that compute the same: the network, and what it was told.

        Objects stand in it by their ids, so it holds for as long as the model does.
        """
        return id(self if self.network is None else self.network), frozenset(self.options.items())

    @property
    def shape(self) -> Hashable:
        """Return what models have in common that can be computed in one call (`joined`); None: it is computed alone.

        A family names here what is faster so, by measurement, and nothing whose weights may change during a run.
        """
        return None

    def joined(self, others: Sequence[ControlModel]) -> ControlModel:
        """Return a model that computes for this one and others of the same `shape`; its rows come model by model.

        Their weights are held once: those of the models become views.
        """
        raise UnitError(
            f"'{self.name}' is computed alone, and has no shape in common with others: ask for each by itself"
        )

    def check_base(self, base: Base) -> None:
        """Raise IncompatibleModelError, naming both sides, unless it can act on a base model."""
        check_fits(self.name, self.base, base)

    @property
    def block_count(self) -> int:
        """Return how many blocks a person weighs: one for each point, where a family does not count otherwise."""
        return len(self.points)

    def spread(self, weights: tuple[float, ...]) -> tuple[float, ...]:
        """Return one weight for each point from those of the blocks that a person weighs."""
        return weights

    @property
    def followed(self) -> Hashable:
        """Return the key of the base weights that it holds; None: of none."""
        return None

    def follow(self, base: BaseWeights) -> bool:
        """Take over what is the base network's own, unless it was taken already; return whether anything changed."""
        return False

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return this model told these options, sharing its network; UnitError for one that it does not have.

        It keeps what it was told before and is not told again.
        """
        offers = {each.name: each for each in self.offers}
        if unknown := [name for name in options if name not in offers]:
            known = f"it has {', '.join(offers)}" if offers else "it has none"
            raise UnitError(f"'{self.name}' has no option '{unknown[0]}': {known}, so leave the option out")
        told = {**self.options, **{name: self._told(offers[name], value) for name, value in options.items()}}
        bound = copy(self)
        bound.options = MappingProxyType({k: value for k, value in told.items() if value != offers[k].default})
        return bound

    def _told(self, option: Option, value: object) -> Value:
        try:
            return option.read(value)
        except UnitError as error:
            raise UnitError(f"'{self.name}': {error}") from None

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute what does not depend on the step: hint [N, C, scale * h, scale * w] -> tensors [N, ...].

        Of latents and embeddings see `HintSpace`.
        """
        return (hint,)

    def tokens(self, hint: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens that stand for a hint, and those that stand for none, each [N or 1, T, D].

        It is asked for of models with `gives_tokens`.
        """
        return hint, hint

    def encode(self, context: Tensor) -> Prompt:
        """Compute what depends on the prompt alone: context [B, T, D] -> tensors [B, ...]."""
        return ()

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield the effect at each wanted point, in order, as soon as it is known, and stop after the last one.

        `prepared` tensors have 1 or B rows. A tensor is added at its point, [B, C, h', w'] or, where it is the same for
        all rows, [1, C, h', w']; it may be a cached tensor, so nobody changes it in place. A `Shift` computes what is
        added when the base network gets there.
        """
        ...
