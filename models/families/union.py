"""ControlNet-Union: one ControlNet for SDXL that reads several kinds of hints, one or some of them at a time.

xinsir, ControlNet++ (xinsir6/ControlNetPlus, 2024); ProMax is the one with two further kinds, tile and repaint. With
the hints c_k of the kinds i_k and their weights s_k:

    emb  = time + MLP(sinusoids(o))                    o[i] is 1 for each kind i of hint that there is, else 0
    q_k  = mean(E(c_k)) + task[i_k]                    a token; times s_k where there are several hints
    z_k  = block(q_k)                                  a transformer block in which each token attends to itself alone
    h_0  = conv_in(x) + sum_k s_k (E(c_k) + W z_k)

and from there on a ControlNet. The weight of a single hint multiplies the residuals instead. The published code lets
tokens attend along its batch, so that a picture's token is mixed with those of the other pictures of its batch. That is
the same as here where all show the same hint; otherwise a picture would depend on what else is drawn beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared, Prompt
from ...core.network.points import Point
from ...core.options import Option
from ...core.step import Step
from ..family import Shapes
from ..kinds.unions import AUTOMATIC, KINDS, NAMES, OPTION, offers
from ..layers import Kit, timestep_embedding
from ..settings import Words, setting
from .controlnet.config import ControlNetConfig, ControlNetSettings
from .controlnet.family import TASKS, ControlNetFamily, is_controlnet, is_union
from .controlnet.model import ControlNetModel
from .controlnet.network import ControlNet
from .t2i_adapter import StyleBlock

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionSettings(ControlNetSettings):
    """What no shape tells of a union."""

    learned: str | None = setting(Words(NAMES))  # the kinds of hints that it was trained on; None is all that it has


class UnionNet(ControlNet):
    """The network: a ControlNet with a few tokens more."""

    def __init__(self, config: ControlNetConfig, kinds: int, sinusoids: int, layers: int, kit: Kit) -> None:
        """kinds: of hints. sinusoids: width of the embedding of each. layers: transformer blocks for the tokens."""
        super().__init__(config, kit.ops, kit.attention)
        width, emb, ops = config.channels, config.channels * 4, kit.ops
        self.sinusoids = sinusoids
        self.task_embedding = nn.Parameter(torch.empty(kinds, width))
        self.transformer_layes = nn.Sequential(*(StyleBlock(width, kit) for _ in range(layers)))  # their spelling
        self.spatial_ch_projs = ops.Linear(width, width)
        linear = {"linear_1": ops.Linear(kinds * sinusoids, emb), "linear_2": ops.Linear(emb, emb)}
        self.control_add_embedding = nn.ModuleDict(linear)

    def embed_kinds(self, kinds: Collection[int], like: Tensor) -> Tensor:
        """Return what says which kinds of hints there are, [1, 4 channels], of the dtype and device of `like`."""
        there = torch.tensor([float(kind in kinds) for kind in range(len(self.task_embedding))], device=like.device)
        waves = timestep_embedding(there, self.sinusoids).flatten()[None].to(like.dtype)
        return self.control_add_embedding["linear_2"](F.silu(self.control_add_embedding["linear_1"](waves)))

    def embed(self, timestep: Tensor, y: Tensor | None, hint: Prepared, dtype: torch.dtype) -> Tensor:
        return super().embed(timestep, y, hint, dtype) + hint[1]

    def fuse(self, hints: Sequence[Tensor], kinds: Sequence[tuple[int, float]]) -> Tensor:
        """Return the features [N, channels, h, w] of the hints [N, C, 8h, 8w] of these kinds, which have weights.

        One hint serves all kinds. A single kind has no weight here.
        """
        encoded = [self.input_hint_block(hint) for hint in hints]
        features = encoded * len(kinds) if len(hints) == 1 else encoded
        weights = [weight for _, weight in kinds] if len(kinds) > 1 else [1.0]
        fused = torch.zeros_like(features[0])
        for feature, (kind, _), weight in zip(features, kinds, weights, strict=True):
            token = (feature.mean((2, 3)) + self.task_embedding[kind].to(feature)) * weight
            token = self.transformer_layes(token[:, None])[:, 0]  # [N, channels]: alone in its sequence
            fused += (feature + self.spatial_ch_projs(token)[..., None, None]) * weight
        return fused


class UnionModel(ControlNetModel):
    """A union as the stack sees it. Told several kinds, it reads one hint for all, or one for each in the channels."""

    network: UnionNet
    hole = 0.0  # the examples of ProMax paint it black

    def __init__(
        self,
        network: UnionNet,
        *,
        name: str,
        bgr: bool = False,
        learned: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """learned: the kinds of hints that it was trained on, with commas between; None is all that it has."""
        super().__init__(network, name=name, bgr=bgr, dtype=dtype)
        self.offers = offers(len(network.task_embedding), learned)

    @property
    def kinds(self) -> tuple[tuple[int, float], ...]:
        """Return the kinds of hints that it was told, with their weights; none where it shall find out."""
        option = self.offers[0]
        told = option.weighed(self.options.get(OPTION, AUTOMATIC))
        return tuple((NAMES.index(kind), weight) for kind, weight in told)

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return the same told these options; the channels of its hint are those of all kinds."""
        bound = cast(UnionModel, super().bind(options))
        bound.hints = max(1, len(bound.kinds))
        bound.hint_channels = bound.hints * self.network.config.hint_channels
        return bound

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the features [N, channels, h, w] of the hints, and the embedding [N, 4 channels] of their kinds."""
        count, kinds = hint.shape[1] // self.network.config.hint_channels, self.kinds
        hints = hint.to(self.dtype).clamp(min=self.hole).chunk(max(1, count), dim=1)
        hints = [each.flip(1) for each in hints] if self.bgr else hints
        features = self.network.fuse(hints, kinds) if kinds else self.network.input_hint_block(hints[0])
        embedded = self.network.embed_kinds([kind for kind, _ in kinds], features)
        return features, embedded.expand(len(hint), -1)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the residual [B, C, h', w'] of each wanted skip, then that of the middle."""
        kinds = self.kinds
        weight = kinds[0][1] if len(kinds) == 1 else 1.0
        for point, residual in super().__call__(step, prepared, prompt, points):
            yield point, residual if weight == 1 else residual * weight
            del residual  # free before the next one is computed


class UnionFamily(ControlNetFamily):
    """Unions in the names of diffusers, as they are published, and in the original ones."""

    id, title = "union", "ControlNet-Union"
    bases, paper = "SDXL", "xinsir6/ControlNetPlus, 2024"
    options, settings = offers(), UnionSettings

    def detect(self, shapes: Shapes) -> bool:
        return is_controlnet(shapes) and is_union(shapes)

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return bare ldm names; the tokens' attention has the names of torch's own layer."""
        return {name.replace(".attn.in_proj_", ".attn.in_proj."): each for name, each in super().rename(named).items()}

    def offers(self, shapes: Shapes, settings: ControlNetSettings) -> tuple[Option, ...]:
        return offers(shapes[TASKS][0], cast(UnionSettings, settings).learned)

    def create(self, shapes: Shapes, settings: ControlNetSettings, kit: Kit) -> UnionNet:
        kinds, config = shapes[TASKS][0], ControlNetConfig.from_shapes(shapes, settings)
        layers = len({name.split(".")[1] for name in shapes if name.startswith("transformer_layes.")})
        width = shapes["control_add_embedding.linear_1.weight"][1]
        if not kinds or width % kinds or kinds > len(KINDS):
            raise ValueError(f"it has {kinds} kinds of hints in {width} channels, expected up to {len(KINDS)} kinds")
        return UnionNet(config, kinds, width // kinds, layers, kit)

    def wrap(
        self, network: ControlNet, name: str, settings: ControlNetSettings, dtype: torch.dtype | None
    ) -> UnionModel:
        bgr, learned = settings.hint_order == "bgr", cast(UnionSettings, settings).learned
        return UnionModel(cast(UnionNet, network), name=name, bgr=bgr, learned=learned, dtype=dtype)


FAMILY = UnionFamily()
