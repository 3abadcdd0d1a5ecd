"""All experiments, in the order of the page: those that train no control first."""

from __future__ import annotations

from .experiment import Experiment
from .experiments import ablation, conditions, controlnext, data_size, guess, prompts, sudden, transfer

EXPERIMENTS: tuple[Experiment, ...] = (
    prompts.EXPERIMENT,
    conditions.EXPERIMENT,
    guess.EXPERIMENT,
    transfer.EXPERIMENT,
    ablation.EXPERIMENT,
    sudden.EXPERIMENT,
    data_size.EXPERIMENT,
    controlnext.EXPERIMENT,
)
