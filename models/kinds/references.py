"""The references by name, and the option by which a unit says how closely one is followed; without torch."""

from __future__ import annotations

from ...core.options import Option

REFERENCES = ("reference_only", "reference_adain", "reference_adain+attn")  # models that have no file
FIDELITY = Option(
    name="fidelity",
    label="Style fidelity",
    meaning="how much of the unconditioned answer stays as it would be without the reference",
    default=0.5,
    least=0.0,
    most=1.0,
)
