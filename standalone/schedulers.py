"""Schedulers by the names that people use; a base model's own noise schedule and prediction type are kept."""

from __future__ import annotations

import difflib
from typing import Any

from ..core.errors import HostError

_KARRAS = {"use_karras_sigmas": True}
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (class in diffusers, settings)
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", _KARRAS),
    "dpm++ 2m sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++ 2m sde karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **_KARRAS}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
NAMES = tuple(_SCHEDULERS)


def make_scheduler(name: str, config: Any) -> Any:
    """A scheduler with the noise schedule of `config`; an unknown name is answered with the nearest ones."""
    import diffusers

    wanted = name.lower().replace("_", " ")
    if wanted not in _SCHEDULERS:
        near = difflib.get_close_matches(wanted, NAMES, n=3) or NAMES
        raise HostError(f"there is no scheduler '{name}': choose one of {', '.join(near)}")
    kind, settings = _SCHEDULERS[wanted]
    return getattr(diffusers, kind).from_config(config, **settings)
