"""Every family of control models in a real AUTOMATIC1111 WebUI and in Forge's family, beside our core alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import trained_units
from family_units import TRANSFORMER, UNITS, masked
from webui_effects import A1111, check, draw, same, started
from webui_host import Drawing, Host, RequestError
from webui_oracle import Oracle
from webui_units import unit


@pytest.mark.parametrize("family", UNITS)
def test_each_equals_the_core_outside_the_host(
    every_host: Host, every_oracle: Oracle, every_plain: Drawing, family: str
) -> None:
    wanted = masked(family)
    check(draw(every_host, wanted, batch_size=2), every_oracle, wanted)
    assert same(draw(every_host), every_plain)
    assert every_host.count()["hooks"] == 0


def test_a_uni_controlnet_reads_the_content_that_another_unit_of_it_shows(
    every_host: Host, every_oracle: Oracle
) -> None:
    wanted = UNITS["Uni-ControlNet"], UNITS["Uni-ControlNet, content"]
    check(draw(every_host, *wanted, batch_size=2), every_oracle, *wanted)
    assert every_host.count()["hooks"] == 0


def test_a_control_of_a_transformer_is_refused_by_both_sides(every_host: Host, every_plain: Drawing) -> None:
    words = r"'anima' was trained for .* blocks of tokens 32 wide\), the loaded checkpoint is .* \(a U-Net\).*Forge Neo"
    with pytest.raises(RequestError, match=words):
        draw(every_host, unit(file=TRANSFORMER))
    assert same(draw(every_host), every_plain)


@pytest.fixture(scope="session")  # of a module it would train anew for each host
def trained(webui_path: Path, every_models: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Control models that our own command has trained on the hosts' checkpoint."""
    checkpoint = Oracle(every_models).path
    trained_units.train_all(checkpoint, every_models / "ControlNet", tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("name", trained_units.UNITS)
def test_what_our_training_writes_acts(every_host: Host, every_oracle: Oracle, trained: None, name: str) -> None:
    wanted = trained_units.UNITS[name]
    check(draw(every_host, wanted), every_oracle, wanted)


@pytest.mark.parametrize("flags", [("--lowvram",), ("--medvram",)])
def test_little_memory_draws_the_same(every_models: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    oracle = Oracle(every_models)
    with started(A1111, tmp_path / "data", every_models, *flags) as host:
        plain = draw(host)
        for wanted in UNITS.values():
            check(draw(host, wanted), oracle, wanted)
        assert same(draw(host), plain)
