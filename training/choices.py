"""What the options of a training may be, and their usual values, for the command line, which must start at once."""

from __future__ import annotations

FAMILIES = (
    "controlnet", "controlnet-lite", "controlnext", "t2i-adapter", "lllite", "ip-adapter", "union", "uni-controlnet",
    "controlnet-xs", "ctrlora",
)  # fmt: skip
COPY, GAUSSIAN = "copy", "gaussian"  # starts that are no files
UNLOCKS = ("decoder", "all")  # parts of the base
OPTIMISERS = ("adamw", "adamw-8bit", "prodigy", "adafactor", "sgd")
RESTARTS, POLYNOMIAL, PIECES = "cosine_with_restarts", "polynomial", "piecewise_constant"
UNENDING = ("constant", "constant_with_warmup", PIECES)  # which do not depend on how many steps there are
SCHEDULES = (*UNENDING, "linear", "cosine", RESTARTS, POLYNOMIAL)  # of diffusers
TIMES = ("uniform", "cubic")  # densities of the times of the noise
PRECISIONS = ("no", "fp16", "bf16")
STEPS, BATCH, WARM_UP = 6000, 4, 100
EMPTY_PROMPTS = 0.5  # ControlNet, section 3.3
SAVE_EVERY, KEEP = 1000, 2  # steps; snapshots
SAMPLE_STEPS, SAMPLE_GUIDANCE = 20, 7.5
