"""The page of real WebUIs in a browser; without one, its tests are skipped and say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import forge_world
import pytest
import webui_host
import webui_page


@pytest.fixture(scope="session")
def webui_with_page(
    webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webui_host.Host]:
    """A running WebUI with its page; a unit of it has other defaults."""
    base = tmp_path_factory.mktemp("webui-page")
    (base / "ui-config.json").write_text(json.dumps(webui_page.DEFAULTS))
    with webui_host.started(webui_path, base, webui_models, page=True) as host:
        yield host


@pytest.fixture(scope="session")
def forge_with_page(forge_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webui_host.Host]:
    """A running Forge with its page and our extension, its own ControlNet switched off."""
    path = webui_host.find_forge()
    if path is None:
        pytest.skip("no Forge: set FORGE_PATH to its folder (and FORGE_PYTHON to its Python)")
    base = tmp_path_factory.mktemp("forge-page")
    forge_world.prepare(path, base, forge_models, built_in=False)
    # With its data elsewhere, Forge does not serve its own scripts to the page by itself.
    flags = (*forge_world.FLAGS, "--gradio-allowed-path", str(path))
    with webui_host.started(path, base, forge_models, flags=flags, page=True) as host:
        yield host


@pytest.fixture
def page_host(request: pytest.FixtureRequest) -> webui_host.Host:
    """The host of the test's page: an A1111, unless the test is parametrised with another one's name."""
    named: str = getattr(request, "param", webui_page.A1111)
    return request.getfixturevalue(f"{named}_with_page")


@pytest.fixture
def page(request: pytest.FixtureRequest, page_host: webui_host.Host) -> Iterator[webui_page.Page]:
    """Its page in a browser, with our accordion of txt2img open; parameters of the browser are the fixture's."""
    given: dict[str, Any] = getattr(request, "param", {})
    with browser.page(1500, 1700, **given) as opened:
        page = webui_page.Page(opened, page_host)
        yield page
        page.close()


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square on a dark ground."""
    return webui_page.write_square(tmp_path_factory.mktemp("pictures") / "square.png")
