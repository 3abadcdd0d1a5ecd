"""Names of weights as files have them: what wraps them, and what they say of other weights.

Programs put prefixes before all names of a network, one inside the other, and training frameworks put tables around
tables; both come to the same, since tables inside tables are joined by dots.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

WRAPPERS = (  # prefixes; where several are there, the averages of a training come first
    "params_ema.", "ema.", "ema_model.", "params.", "state_dict.", "controlnet.", "model.", "module.", "_orig_mod.",
    "adapter.",
)  # fmt: skip
DEPTH = 3  # at most so many wrappers, one inside the other
DIFFERENCE = "difference"  # a name that marks a file of differences to the base model's weights
QUANTISED = frozenset({  # last part of a name: the weights beside it are no plain numbers
    "weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale", "pre_quant_scale", "comfy_quant",  # ComfyUI
    "qweight", "qzeros", "g_idx",  # GPTQ and AWQ
    "absmax", "quant_map", "nested_absmax", "nested_quant_map", "bitsandbytes__nf4", "bitsandbytes__fp4", "SCB",
    "svd_up", "svd_down",  # SDNQ
})  # fmt: skip
CHANGING = QUANTISED | {  # last part of a name: it changes what the weights beside it mean
    "alpha", "up", "down", "dora_scale", "weight_g", "weight_v", "weight_orig", "weight_mask",
}  # fmt: skip
CHANGING_LAYERS = frozenset({"lora_up", "lora_down", "lora_A", "lora_B", "lora_layer"})  # any part of a name


def unwrapped(named: Mapping[str, T], depth: int = DEPTH) -> Iterator[tuple[str, dict[str, T]]]:
    """Yield (prefix, what is below it) for a file as it is, and for each wrapper that may stand around a network."""
    yield "", dict(named)
    for wrapper in WRAPPERS if depth else ():
        if any(name.startswith(wrapper) for name in named):
            yield from ((wrapper + prefix, inner) for prefix, inner in unwrapped(below(named, wrapper), depth - 1))


def below(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return what stands below a prefix, without it, and the file's marks, which are names without a dot."""
    if not prefix:
        return dict(named)
    marks = {name: each for name, each in named.items() if "." not in name}
    return marks | {name[len(prefix) :]: each for name, each in named.items() if name.startswith(prefix)}


def last_part(name: str) -> str:
    """Return what stands behind the last dot of a name."""
    return name.rpartition(".")[2]


def changes_others(name: str, network: Collection[str]) -> bool:
    """Return whether a weight that a network does not have changes what the others of the file mean.

    That is so for scales and low-rank pairs, and for the bias of a layer that has none in the network.
    """
    if last_part(name) in CHANGING or CHANGING_LAYERS & set(name.split(".")):
        return True
    return last_part(name) == "bias" and name[: -len("bias")] + "weight" in network
