"""The one table between the parameter names of diffusers and those of the original latent-diffusion code.

U-Nets and ControlNets of SD 1.x, SD 2.x and SDXL; the map is one to one. Only names change: where one side projects
with 1x1 convolutions and the other with linear layers, shapes are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

_PLAIN = (  # (diffusers, ldm): whole prefixes
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("controlnet_mid_block", "middle_block_out.0"),
    ("controlnet_cond_embedding.conv_in", "input_hint_block.0"),
    ("controlnet_cond_embedding.conv_out", "input_hint_block.{last_hint}"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
_RESNET = (  # inside a residual block
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)


def to_ldm(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return weights under ldm names instead of diffusers' own.

    A name without a counterpart is kept, so that a check of the names can show it.
    """
    table = _Table.of_diffusers(tensors)
    return {table.to_ldm(key): value for key, value in tensors.items()}


def to_diffusers(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return weights under diffusers' names instead of ldm's: the inverse of `to_ldm`."""
    table = _Table.of_ldm(tensors)
    return {table.to_diffusers(key): value for key, value in tensors.items()}


class _Table:
    """The rules for one network, which depend on how many residual blocks a level has and where the hint encoder ends.

    per_level: residual blocks a level. last_hint: number of the hint encoder's last convolution in ldm names.
    upsamplers: output block -> number of the upsampling layer in it.
    """

    def __init__(self, per_level: int, last_hint: int, upsamplers: Mapping[int, int]) -> None:
        self._per_level = per_level
        self._plain = [(diffusers, ldm.format(last_hint=last_hint)) for diffusers, ldm in _PLAIN]
        self._upsamplers = upsamplers

    @classmethod
    def of_diffusers(cls, keys: Iterable[str]) -> _Table:
        """Read the rules from diffusers' names."""
        names = list(keys)
        layers = r"_blocks\.\d+\.(?:resnets|attentions)\.(\d+)\."  # of part of a network, attentions alone
        per_level = max(1 + _largest(names, "down" + layers), _largest(names, "up" + layers))
        hints = 2 * (_largest(names, r"controlnet_cond_embedding\.blocks\.(\d+)\.") + 2)
        attention = {int(m[1]) for key in names if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", key))}
        levels = {int(m[1]) for key in names if (m := re.match(r"up_blocks\.(\d+)\.", key))}
        ups = {(per_level + 1) * i + per_level: 2 if i in attention else 1 for i in levels}
        return cls(per_level, hints, ups)

    @classmethod
    def of_ldm(cls, keys: Iterable[str]) -> _Table:
        """Read the rules from ldm names."""
        names = list(keys)
        downs = [int(m[1]) for key in names if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", key))]
        hints = _largest(names, r"input_hint_block\.(\d+)\.")
        found = (re.match(r"output_blocks\.(\d+)\.(\d+)\.conv\.", key) for key in names)
        ups = {int(m[1]): int(m[2]) for m in found if m}
        return cls(min(downs, default=3) - 1, hints, ups)

    def to_ldm(self, key: str) -> str:
        """Return the ldm name of a weight."""
        for diffusers, ldm in self._plain:
            if key.startswith(diffusers + "."):
                return ldm + key[len(diffusers) :]
        for pattern, name in self._ldm_rules():
            if match := re.match(pattern, key):
                return name(match) + _translate(key[match.end() :], _RESNET)
        return key

    def to_diffusers(self, key: str) -> str:
        """Return diffusers' name of a weight."""
        for diffusers, ldm in self._plain:
            if key.startswith(ldm + "."):
                return diffusers + key[len(ldm) :]
        for pattern, name in self._diffusers_rules():
            if match := re.match(pattern, key):
                return name(match) + _translate(key[match.end() :], [(b, a) for a, b in _RESNET])
        return key

    def _ldm_rules(self) -> list[tuple[str, Callable[[re.Match[str]], str]]]:
        n = self._per_level
        return [
            (
                r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.",
                lambda m: f"input_blocks.{1 + (n + 1) * int(m[1]) + int(m[3])}.{int(m[2] == 'attentions')}.",
            ),
            (
                r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.",
                lambda m: f"input_blocks.{(n + 1) * (int(m[1]) + 1)}.0.op.",
            ),
            (r"mid_block\.resnets\.(\d+)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
            (r"controlnet_down_blocks\.(\d+)\.", lambda m: f"zero_convs.{m[1]}.0."),
            (r"controlnet_cond_embedding\.blocks\.(\d+)\.", lambda m: f"input_hint_block.{2 * (int(m[1]) + 1)}."),
            (
                r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.",
                lambda m: f"output_blocks.{(n + 1) * int(m[1]) + int(m[3])}.{int(m[2] == 'attentions')}.",
            ),
            (r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.", lambda m: self._upsampler(int(m[1]))),
        ]

    def _diffusers_rules(self) -> list[tuple[str, Callable[[re.Match[str]], str]]]:
        n = self._per_level + 1
        kinds = ("resnets", "attentions")
        return [
            (r"input_blocks\.(\d+)\.0\.op\.", lambda m: f"down_blocks.{int(m[1]) // n - 1}.downsamplers.0.conv."),
            (
                r"input_blocks\.(\d+)\.([01])\.",
                lambda m: f"down_blocks.{(int(m[1]) - 1) // n}.{kinds[int(m[2])]}.{(int(m[1]) - 1) % n}.",
            ),
            (r"middle_block\.([02])\.", lambda m: f"mid_block.resnets.{int(m[1]) // 2}."),
            (r"zero_convs\.(\d+)\.0\.", lambda m: f"controlnet_down_blocks.{m[1]}."),
            (r"input_hint_block\.(\d+)\.", lambda m: f"controlnet_cond_embedding.blocks.{int(m[1]) // 2 - 1}."),
            (r"output_blocks\.(\d+)\.[12]\.conv\.", lambda m: f"up_blocks.{int(m[1]) // n}.upsamplers.0.conv."),
            (
                r"output_blocks\.(\d+)\.([01])\.",
                lambda m: f"up_blocks.{int(m[1]) // n}.{kinds[int(m[2])]}.{int(m[1]) % n}.",
            ),
        ]

    def _upsampler(self, level: int) -> str:
        block = (self._per_level + 1) * level + self._per_level
        return f"output_blocks.{block}.{self._upsamplers[block]}.conv."


def _translate(tail: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Rename a part of a residual block; other parts (transformers, convolutions) are called the same on both sides."""
    for old, new in pairs:
        if tail.startswith(old + "."):
            return new + tail[len(old) :]
    return tail


def _largest(keys: Iterable[str], pattern: str) -> int:
    """Return the largest number that a pattern finds; -1 where it finds none."""
    return max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1)
