"""What a recipe is: how one family of control networks is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.control import ControlModel
from ...core.errors import ScheduleError, UnsupportedModelError
from ...core.network.base import check_fits
from ...core.network.effects import WeightDelta
from ...core.options import Option
from ...models.family import Family
from ...models.files.loading import read_header
from ...models.naming import to_ldm
from ...models.registry import identify, load_control_model
from ...pipelines.attached import base_of
from .. import choices
from ..choices import COPY, GAUSSIAN
from ..data.hints import HintSource
from ..settings import Settings, option
from .copies import settings_of

DEVIATION = 0.02  # of Gaussian weights in place of zeros


@dataclass(frozen=True, slots=True, eq=False)
class Foundation:
    """Weights that other files of the family may share, which lie in a file of their own."""

    file: Path | None = None  # where they are already; None: they are trained, and written along
    mark: str | None = None  # what that file says of itself, by which pairs of files are told
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # to be written


class Recipe(ABC):
    """How one family is trained. It has no state; the table of recipes holds one of each."""

    family: ClassVar[Family[Any, Any]]
    rate: ClassVar[float] = 1e-5  # learning rate of the control network
    base_share: ClassVar[float] = 1.0  # of the rate, at which weights of the base are trained along
    times: ClassVar[str] = "uniform"  # how times of the noise are drawn
    empty_prompts: ClassVar[float] = choices.EMPTY_PROMPTS  # share of prompts that are left out
    empty_hints: ClassVar[float] = 0.0  # share of hints
    needs_heads: ClassVar[bool] = False  # its files do not tell heads and groups of narrow bases
    reads_embeddings: ClassVar[bool] = False  # what an image encoder sees, no pictures
    starts: ClassVar[tuple[str, ...]] = ()  # what `--start` may be beside a file
    options: ClassVar[frozenset[str]] = frozenset()  # settings that this family alone has
    blocks: ClassVar[tuple[type[nn.Module], ...]]  # that gradient checkpointing computes again

    @property
    def id(self) -> str:
        """Return what the command line calls it."""
        return self.family.id

    @property
    def kinds(self) -> Option | None:
        """Return the option by which the family tells kinds of hints apart; None where it does not."""
        return next((each for each in self.family.options if each.of_hint and each.several), None)

    @abstractmethod
    def create(self, unet: Any, settings: Settings) -> nn.Module:
        """Return a fresh network for this U-Net, in fp32."""

    def network(self, unet: Any, settings: Settings) -> nn.Module:
        """Return the network that is trained: fresh, or of a file."""
        return (
            self.create(unet, settings)
            if _is_word(settings.start)
            else self.continued(Path(settings.start or ""), unet, settings)
        )

    def model(self, network: nn.Module, unet: Any, settings: Settings) -> ControlModel:
        """Return how the network acts on the base."""
        given = self.family.settings(**self.given(unet, settings))
        return self.family.wrap(network, self.id, given, None)

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        """Return the family's settings that no shape tells, which are written into the file too."""
        return {}

    def told(self, settings: Settings, batch: int) -> Mapping[str, object]:
        """Return what the model is told of the hints of the batch-th batch."""
        return {}

    def without_hint(self, network: nn.Module, hint: Tensor) -> Tensor:
        """Return what stands for no hint, of the shape of hints [B, ...]."""
        return torch.zeros_like(hint)

    def unlocked(self, unet: Any, settings: Settings) -> Collection[str]:
        """Return the names of the U-Net's weights that are trained along."""
        return ()

    def frozen(self, network: nn.Module) -> Collection[str]:
        """Return the names of the network's weights that are not trained."""
        return ()

    def state(self, network: nn.Module) -> Mapping[str, Tensor]:
        """Return what a file of the family holds."""
        return network.state_dict()

    def foundation(self, network: nn.Module) -> Foundation | None:
        """Return what else of the network the file needs beside it; by default nothing."""
        return None

    def check(self, settings: Settings) -> None:
        """Raise ScheduleError for what this family cannot be trained with."""
        if isinstance(settings.start, str) and settings.start not in self.starts:
            known = ", ".join((*self.starts, "a file"))
            raise ScheduleError(f"--start is '{settings.start}', expected {known} for {self.id}")
        for name in OWN - self.options:
            if getattr(settings, name):
                said = OWN_OPTIONS.get(name, option(name))
                raise ScheduleError(f"{said} is of another family than {self.id}: leave it out")
        for source in settings.hint_sources:
            self._check_hints(source)

    def check_out(self, network: nn.Module, out: Path) -> None:
        """Raise ModelError where a file at `out` would not find what it needs beside it."""
        foundation = self.foundation(network)
        if foundation is None or foundation.file is None or _same_folder(foundation.file, out):
            return
        raise UnsupportedModelError(
            f"--out is '{out}', and what it needs beside it, '{foundation.file.name}', lies in "
            f"'{foundation.file.parent}': give --out {foundation.file.parent / out.name}"
        )

    def continued(self, path: Path, unet: Any, settings: Settings) -> nn.Module:
        """Return the network of a file, in fp32; what its companion changes in the base is added to the U-Net.

        ModelError where it is of another family, or made for another base.
        """
        if identify(read_header(path)) is not self.family:
            raise UnsupportedModelError(
                f"'{path.name}' is no {self.family.title}: start from one, or give its --family"
            )
        base = to_ldm(dict(unet.state_dict()))
        given = settings_of(unet) if self.needs_heads else {}
        model = load_control_model(path, settings=given, base_state=base, dtype=torch.float32)
        self.check_model(model, path)
        check_fits(model.name, model.base, base_of(unet))
        if model.delta is not None:
            _add(model.delta, path, unet, self.unlocked(unet, settings))
        return model.network

    def _check_hints(self, source: HintSource) -> None:
        """Raise ScheduleError for hints that are pictures where the family reads embeddings, or the other way round."""
        if self.reads_embeddings and source.embedding is None:
            raise ScheduleError(
                f"{self.id} learns from what an image encoder sees: name one with --hint, such as clip_h"
            )
        if not self.reads_embeddings and source.embedding is not None:
            raise ScheduleError(
                f"--hint {source.preprocessor} gives what an image encoder sees, and {self.id} reads pictures: choose "
                "a preprocessor that gives pictures, such as canny"
            )

    def check_model(self, model: ControlModel, path: Path) -> None:
        """Raise UnsupportedModelError for a network of the family that cannot be trained on; by default none."""
        return


OWN = frozenset({"only_middle", "unlock", "kinds", "size_ratio", "rank"})  # settings that not every family has
OWN_OPTIONS = {"kinds": "--kind"}  # where the command line calls a setting otherwise


@torch.no_grad()
def _add(delta: WeightDelta, path: Path, unet: Any, unlocked: Collection[str]) -> None:
    """Add differences to the weights of a U-Net. UnsupportedModelError where some of them are not trained along."""
    weights = to_ldm(dict(unet.named_parameters()))
    if not delta.names <= to_ldm(dict.fromkeys(unlocked)).keys():
        raise UnsupportedModelError(
            f"'{path.name}' was trained along with weights of its base that this training leaves as they are: give "
            "--unlock as in that training"
        )
    for name in delta.names:
        weights[name] += delta.of(name).to(weights[name].device)


def _same_folder(one: Path, other: Path) -> bool:
    return one.parent.resolve() == other.parent.resolve()


def _is_word(start: Path | str | None) -> bool:
    return start in (None, COPY, GAUSSIAN)


def fill_zero_convolutions(modules: Collection[nn.Module], start: Path | str | None) -> None:
    """Set convolutions to zero, or, as in the paper's ablation, to Gaussian weights (ControlNet, section 4.2)."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            if start == GAUSSIAN:
                nn.init.normal_(module.weight, std=DEVIATION)
            else:
                nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
