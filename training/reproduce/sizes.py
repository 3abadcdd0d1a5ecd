"""How large the experiments are: all that makes them long or short is here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many examples, steps and pictures the experiments have."""

    name: str
    examples: tuple[int, int, int]  # data set sizes; other trainings have the last one
    steps: int  # of each training
    batches: tuple[int, int]  # of the sudden convergence; other trainings have the first one
    probe_every: int  # steps between two looks at a training
    probes: int  # scenes of such a look
    scenes: int  # of the final measurements
    reference: int  # real scenes that FID compares with
    draw_steps: int  # of DDIM
    base_steps: int  # that make another base of the shipped one
    rate: float = 2e-3  # learning rate of the controls; the tiny world's networks are small
    data_seed: int = 1


FULL = Sizes(
    name="full",
    examples=(100, 1000, 10_000),
    steps=3000,
    batches=(4, 16),
    probe_every=100,
    probes=8,
    scenes=64,
    reference=1000,
    draw_steps=20,
    base_steps=1500,
    rate=1e-3,
)
MEDIUM = Sizes(
    name="medium",
    examples=(100, 1000, 10_000),
    steps=1500,
    batches=(4, 8),
    probe_every=75,
    probes=4,
    scenes=32,
    reference=1000,
    draw_steps=12,
    base_steps=750,
    rate=1.5e-3,
)
QUICK = Sizes(
    name="quick",
    examples=(10, 100, 1000),
    steps=160,
    batches=(4, 8),
    probe_every=20,
    probes=3,
    scenes=8,
    reference=200,
    draw_steps=8,
    base_steps=80,
    rate=2.5e-3,
)
TOY = Sizes(
    name="toy",
    examples=(4, 5, 6),
    steps=2,
    batches=(1, 2),
    probe_every=1,
    probes=2,
    scenes=2,
    reference=3,
    draw_steps=1,
    base_steps=1,
)
BY_NAME = {each.name: each for each in (FULL, MEDIUM, QUICK, TOY)}
