"""Units on a real AUTOMATIC1111 WebUI that computes in 16 bits, or stores its base model in 8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import webui_host
import webui_world
from webui_host import Host
from webui_oracle import Oracle, Place, Wanted
from webui_units import differ, unit

UNITS = (unit(), unit(1, "depth", control_mode="ControlNet is more important"))
HALF = ("--precision", "half")


def errors(host: Host, oracle: Oracle, wanted: Sequence[Wanted]) -> torch.Tensor:
    """How far each evaluation is from the core in 32 bits, of the answer's range."""
    drawing = host.draw(*(each.request for each in wanted), record=True)
    answers = [oracle.answer(seen, wanted, Place(i, 0, 3)) for i, seen in enumerate(drawing.evaluations)]
    pairs = zip(drawing.evaluations, answers, strict=True)
    return torch.stack([(seen.out - answer).abs().max() / answer.abs().max() for seen, answer in pairs])


def test_half_precision(webui_path: Path, webui_models: Path, oracle: Oracle, tmp_path: Path) -> None:
    """Units add no more error than the base model has."""
    with webui_host.started(webui_path, tmp_path / "data", webui_models, precision=HALF) as host:
        assert 1e-4 < errors(host, oracle, ()).max() < 5e-3
        assert errors(host, oracle, UNITS).max() < 5e-3
        assert errors(host, oracle, (unit(file="t2i"),)).max() < 5e-3
        large = {"override_settings": {"sd_model_checkpoint": webui_world.XL, "live_previews_enable": False}}
        drawn = host.draw(unit(file="xl").request, record=True, **large)
        assert all(seen.out.isfinite().all() for seen in drawn.evaluations)
        assert differ(drawn, host.draw(**large)) > 1


def test_a_base_model_in_eight_bits(webui_path: Path, webui_models: Path, oracle: Oracle, tmp_path: Path) -> None:
    """Its own rounding is large; units, whose networks stay in their precision, are as far off and no further."""
    with webui_host.started(webui_path, tmp_path / "data", webui_models) as host:
        host.post("sdapi/v1/options", {"fp8_storage": "Enable"})
        plain, controlled = errors(host, oracle, ()), errors(host, oracle, UNITS)
        assert plain.max() > 0.02 and (controlled <= 1.3 * plain).all()
