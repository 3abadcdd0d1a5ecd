"""Real WebUIs, each started once for all tests; without one, its tests are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import control_files
import forge_world
import neo_world
import pytest
import webui_effects
import webui_host
import webui_world

if TYPE_CHECKING:
    from webui_oracle import Oracle


@pytest.fixture(scope="session")
def webui_path() -> Path:
    """The folder of an AUTOMATIC1111 WebUI."""
    path = webui_host.find()
    if path is None:
        pytest.skip("no WebUI: set WEBUI_PATH to its folder (and WEBUI_PYTHON to its Python)")
    return path


@pytest.fixture(scope="session")
def webui_models(webui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models for it: a small checkpoint and small control models."""
    models = tmp_path_factory.mktemp("webui-models")
    webui_host.make_world(webui_path, models)
    control_files.write_all(models / "ControlNet", heads=8)
    control_files.write_v2(models / "ControlNet")
    control_files.write_narrow_xl(models / "ControlNet")
    control_files.write_large_encoder(models / "ControlNetPreprocessor")
    return models


@pytest.fixture(scope="session")
def webui(webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webui_host.Host]:
    """A running WebUI with our extension."""
    with webui_host.started(webui_path, tmp_path_factory.mktemp("webui"), webui_models) as host:
        yield host


@pytest.fixture(scope="session")
def oracle(webui_models: Path) -> Oracle:
    """The small checkpoint outside the host."""
    from webui_oracle import Oracle

    return Oracle(webui_models)


@pytest.fixture(scope="session")
def plain(webui: webui_host.Host) -> webui_host.Drawing:
    """Drawn by the fresh host."""
    return webui.draw()


@pytest.fixture(scope="session")
def every_models(webui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world with a file for each way of acting, which fits every WebUI."""
    models = tmp_path_factory.mktemp("every-models")
    webui_effects.write_models(webui_path, models)
    return models


@pytest.fixture(scope="session", params=webui_effects.PROGRAMS)
def every_name(request: pytest.FixtureRequest) -> str:
    """Each of the WebUIs, as the variables for it begin."""
    return request.param


@pytest.fixture(scope="session")
def every_host(
    every_name: str, every_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webui_host.Host]:
    """It, running, with our extension and the test families."""
    with webui_effects.started(every_name, tmp_path_factory.mktemp("every"), every_models) as host:
        yield host


@pytest.fixture(scope="session")
def every_oracle(every_name: str, every_models: Path) -> Oracle:
    """Its small checkpoint outside of it."""
    from webui_oracle import Oracle

    basis, draws = webui_effects.basis_of(every_name), webui_effects.draws_latents(every_name)
    return Oracle(every_models, basis=basis, draws_latents=draws)


@pytest.fixture(scope="session")
def every_plain(every_host: webui_host.Host) -> webui_host.Drawing:
    """Drawn by it before any unit."""
    return webui_effects.draw(every_host)


@pytest.fixture(scope="session")
def webui_peer(
    webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webui_host.Host]:
    """A running WebUI with sd-webui-controlnet instead."""
    peer = webui_host.find_peer()
    if peer is None:
        pytest.skip("no sd-webui-controlnet: set WEBUI_PEER_PATH to its folder, with its requirements in the Python")
    flags = ("--controlnet-annotator-models-path", str(webui_models / "ControlNetPreprocessor"))
    with webui_host.started(webui_path, tmp_path_factory.mktemp("peer"), webui_models, (peer,), flags) as host:
        yield host


@pytest.fixture(scope="session", params=webui_host.FAMILY)
def program(request: pytest.FixtureRequest) -> Path:
    """The folder of each program of Forge's family."""
    path = webui_host.find_forge(request.param)
    if path is None:
        pytest.skip(f"no {request.param.title()}: set {request.param}_PATH to its folder (and _PYTHON to its Python)")
    return path


@pytest.fixture(scope="session")
def forge_models(webui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """These programs read a ControlNet with as many heads as the checkpoint has."""
    models = tmp_path_factory.mktemp("forge-models")
    webui_host.make_world(webui_path, models)
    control_files.write_all(models / "ControlNet", heads=webui_world.HEADS)
    control_files.write_narrow_xl(models / "ControlNet")
    return models


@pytest.fixture(scope="session")
def ours(program: Path, forge_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webui_host.Host]:
    """The running program with our extension, and its own ControlNet switched off."""
    with forge_world.started(program, tmp_path_factory.mktemp("forge"), forge_models, built_in=False) as host:
        yield host


@pytest.fixture(scope="session")
def theirs(program: Path, forge_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webui_host.Host]:
    """The running program as it comes."""
    with forge_world.started(program, tmp_path_factory.mktemp("forge-own"), forge_models, built_in=True) as host:
        yield host


@pytest.fixture(scope="session")
def neo_path() -> Path:
    """The folder of Forge Neo."""
    path = webui_host.find_neo()
    if path is None:
        pytest.skip("no Forge Neo: set NEO_PATH to its folder (and NEO_PYTHON to its Python)")
    return path


@pytest.fixture(scope="session")
def neo_models(neo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Anima, and control models for it."""
    models = tmp_path_factory.mktemp("neo-models")
    neo_world.write_models(neo_path, models)
    return models


@pytest.fixture(scope="session")
def neo(neo_path: Path, neo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webui_host.Host]:
    """Forge Neo on it, with our extension, and its own ControlNet switched off."""
    base = tmp_path_factory.mktemp("neo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SD_WEBUI_LOG_LEVEL", "INFO")  # it shows nothing but errors otherwise
        with neo_world.started(neo_path, base, neo_models, built_in=False) as host:
            yield host


@pytest.fixture(scope="session")
def neo_own(neo_path: Path, neo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webui_host.Host]:
    """Forge Neo on it, as it comes."""
    with neo_world.started(neo_path, tmp_path_factory.mktemp("neo-own"), neo_models, built_in=True) as host:
        yield host


@pytest.fixture(scope="session")
def webui_tiled(
    webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webui_host.Host]:
    """A running WebUI with our extension and Tiled Diffusion, which it loads after ours."""
    tiled = webui_host.find_tiled()
    if tiled is None:
        pytest.skip("no Tiled Diffusion: set WEBUI_TILED_PATH to a folder of multidiffusion-upscaler-for-automatic1111")
    extensions = (webui_host.ROOT, tiled)
    with webui_host.started(webui_path, tmp_path_factory.mktemp("tiled"), webui_models, extensions) as host:
        yield host


@pytest.fixture(scope="session")
def webui_clients(
    webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webui_host.Host]:
    """A running WebUI with our extension, under the name that others look for, and others that use it."""
    found = (webui_host.find_adetailer(), webui_host.find_ultimate())
    extensions = (webui_host.ROOT, *(each for each in found if each is not None))
    with webui_host.started(
        webui_path, tmp_path_factory.mktemp("clients"), webui_models, extensions, flags=("--ad-no-huggingface",),
        name="sd-webui-controlnet", packs=("webui_clients_pack.py",),
    ) as host:  # fmt: skip
        yield host


@pytest.fixture(scope="session")
def webui_video(
    webui_path: Path, webui_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webui_host.Host]:
    """A running WebUI with our extension and AnimateDiff."""
    animatediff = webui_host.find_animatediff()
    if animatediff is None:
        pytest.skip("no AnimateDiff: set WEBUI_ANIMATEDIFF_PATH to a folder of sd-webui-animatediff, with imageio")
    extensions, packs = (webui_host.ROOT, animatediff), ("webui_video_pack.py",)
    base = tmp_path_factory.mktemp("video")
    with webui_host.started(webui_path, base, webui_models, extensions, packs=packs) as host:
        yield host
