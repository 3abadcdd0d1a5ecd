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
_ALIASES = {  # what ComfyUI, diffusers and papers call them
    "dpm++": "dpm++ 2m",
    "dpmpp 2m": "dpm++ 2m",
    "dpmpp 2m sde": "dpm++ 2m sde",
    "dpm 2": "dpm2",
    "dpm 2 ancestral": "dpm2 a",
    "euler ancestral": "euler a",
    "plms": "pndm",
    "uni pc": "unipc",
}


def scheduler_name(name: str) -> str:
    """Return the one of NAMES that is meant, in any case and spacing. HostError names the nearest ones if none is."""
    wanted = name.strip().lower().replace("_", " ").replace("-", " ")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in _SCHEDULERS:
        near = difflib.get_close_matches(wanted, NAMES, n=3) or NAMES
        raise HostError(f"there is no scheduler '{name}': choose one of {', '.join(near)}")
    return wanted


def make_scheduler(name: str, config: Any) -> Any:
    """Return a scheduler with the noise schedule of a scheduler's `config`. HostError for an unknown name."""
    import diffusers

    kind, settings = _SCHEDULERS[scheduler_name(name)]
    return getattr(diffusers, kind).from_config(config, **settings)
