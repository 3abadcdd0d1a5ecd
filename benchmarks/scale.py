"""How the cost of units grows with their number, with pictures, and with the side of the picture.

    python benchmarks/scale.py [--json FILE] [--plot FILE]

FLOPs that units add to a step of SD 1.5's U-Net, from shapes alone (meta device), so they are the same everywhere:
1 to 10 units on different models, 1 to 16 pictures, sides of 256 to 2048 pixels. Each step has the uncond and the cond
row of each picture; features of hints and projections of prompts are there already, as from the second step on.
Everything should grow as the bare U-Net does: `share` is what the units add over the bare step.

`memory` is the largest sum of bytes that are alive at once while the units compute such a step, of all tensors that are
made in it (weights and what is kept between steps are not), attention being one kernel; `peer_memory` that of
diffusers' MultiControlNetModel. CPU time and memory of real processes are measured by `growth.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from controlstack.core.schedule import progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.training.recipes.copies import copy_of_encoder
from parts import counting as cost
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

UNITS, PICTURES, SIDES = (1, 2, 3, 5, 10), (1, 2, 4, 8, 16), (256, 512, 1024, 2048)
SIDE = 256  # where it is not the side that grows
LATENT = 8  # pixels of a latent pixel
MIB = 1 << 20
WIDTH, HEIGHT, EDGE = 420, 260, 56  # of a panel of the picture, and what is around its axes, in pixels


def step(pictures: int, side: int, width: int, index: int) -> Step:
    """Return an evaluation of all pictures, the uncond rows first. width: of the prompt's tokens."""
    rows, size = 2 * pictures, side // LATENT
    return Step(
        x=torch.randn(rows, 4, size, size),
        timestep=torch.ones(rows),
        context=torch.randn(rows, 77, width),
        cond=(False,) * pictures + (True,) * pictures,
        progress=progress_at(index, 2),
        prompt="the same at both steps",
        pictures=tuple(range(pictures)) * 2,
    )


class Fused(TorchFunctionMode):
    """Attention that makes nothing but its answer, as one kernel does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return func(*args, **(kwargs or {}))


class Scale:
    """A U-Net and its units, on the meta device."""

    def __init__(self, unet: nn.Module, most: int = max(UNITS)) -> None:
        """unet: of diffusers. most: units that there may be."""
        from diffusers import ControlNetModel as Theirs

        self._unet = unet
        with torch.device("meta"):
            self._networks = [copy_of_encoder(unet) for _ in range(most)]
            self._theirs = Theirs.from_unet(unet, load_weights_from_unet=False)

    def measure(self, units: int = 1, pictures: int = 1, side: int = SIDE) -> dict[str, Any]:
        """Return the FLOPs of a step, of the bare U-Net and of what so many units add."""
        unet, width = self._unet, self._unet.config.cross_attention_dim
        with torch.device("meta"):
            hint = torch.rand(1, 3, side, side)
            networks = enumerate(self._networks[:units])
            made = [cost.MetaUnit(model=cost.MetaModel(each, name=str(k)), hint=hint) for k, each in networks]
            stack, (first, second) = ControlStack(made), (step(pictures, side, width, index) for index in range(2))
            stack(first)
            added = cost.flops(lambda: stack(second))
            bare = cost.flops(lambda: unet(second.x, second.timestep, second.context))
            found = {"bare": bare, "added": added, "share": added / bare}
            found |= {"memory": self._memory(lambda: stack(second))}
            found |= {"peer_memory": self._memory(lambda: self._peer(units, hint, second))}
        return {"units": units, "pictures": pictures, "side": side, **found}

    def _memory(self, run: Callable[[], object]) -> int:
        """Return the most bytes that are alive at once."""
        with torch.no_grad(), Fused(), cost.CountBytes() as counter:
            result = run()
        del result
        return counter.peak

    def _peer(self, units: int, hint: Tensor, now: Step) -> object:
        from diffusers import MultiControlNetModel

        return MultiControlNetModel([self._theirs] * units)(
            now.x,
            now.timestep,
            encoder_hidden_states=now.context,
            controlnet_cond=[torch.cat([hint] * len(now.x))] * units,
            conditioning_scale=[1.0] * units,
            return_dict=False,
        )


def measure(
    scale: Scale, units: Sequence[int] = UNITS, pictures: Sequence[int] = PICTURES, sides: Sequence[int] = SIDES
) -> dict[str, list[dict[str, Any]]]:
    """Return a row for each number of units, number of pictures, and side."""
    return {
        "units": [scale.measure(units=each) for each in units],
        "pictures": [scale.measure(pictures=each) for each in pictures],
        "side": [scale.measure(side=each) for each in sides],
    }


def plot(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a panel for each table as SVG: what units add in TFLOPs, over what grows."""
    panels = [_panel(name, [(row[name], row["added"] / 1e12) for row in rows]) for name, rows in found.items()]
    moved = [f'<g transform="translate({number * WIDTH},0)">{panel}</g>' for number, panel in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(moved)}</svg>\n"
    )


def _panel(name: str, points: Sequence[tuple[float, float]]) -> str:
    right, top = (max(values) for values in zip(*points, strict=True))
    places = [
        (EDGE + x / right * (WIDTH - EDGE - 16), HEIGHT - EDGE - y / top * (HEIGHT - EDGE - 24)) for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="#4477aa" stroke-width="2"/>']
    for (x, y), (value, flops) in zip(places, points, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#4477aa"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{x - 6:.1f}" y="{y - 6:.1f}" text-anchor="end">{flops:.2f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{name}: TFLOPs added to a step</text>')
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="write the three curves as SVG here")
    args = parser.parse_args()
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    found = measure(Scale(unet))
    for rows in found.values():
        print("\n| units | pictures | side | TFLOPs of the bare step | added | share | MiB | diffusers' |")
        print("|---" * 8 + "|")
        for row in rows:
            numbers = f"{row['bare'] / 1e12:.3f} | {row['added'] / 1e12:.3f} | {row['share']:.3f}"
            memory = f"{row['memory'] / MIB:.0f} | {row['peer_memory'] / MIB:.0f}"
            print(f"| {row['units']} | {row['pictures']} | {row['side']} | {numbers} | {memory} |")
    if args.plot:
        args.plot.write_text(plot(found), encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
