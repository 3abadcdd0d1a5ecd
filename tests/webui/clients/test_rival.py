"""Another extension of the same name."""

from __future__ import annotations

from pathlib import Path

from controlstack.scripts.webui.clients.rival import FORGE, PEER, advice, is_rival


def test_another_controlnet_is_recognised_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "renamed" / PEER).mkdir(parents=True)
    assert is_rival("renamed", tmp_path / "renamed")
    assert is_rival(FORGE, tmp_path)
    assert not is_rival("sd-webui-controlnet", tmp_path), "a folder may be called so"


def test_the_advice_names_it() -> None:
    assert "untick 'renamed'" in advice("renamed")
