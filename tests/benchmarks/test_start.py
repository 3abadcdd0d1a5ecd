"""The benchmark of starts: processes of their own are counted, and what they say comes back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("start")


def test_the_work_of_a_process_is_counted(benchmark: ModuleType) -> None:
    idle = benchmark.run(sys.executable, "print(1)")
    busy = benchmark.run(sys.executable, "print(sum(range(10**7)))")
    assert (idle[0], busy[0]) == ("1\n", f"{sum(range(10**7))}\n")
    assert busy[1] > idle[1] > 0


def test_a_process_that_fails_ends_the_benchmark(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="exit code 3"):
        benchmark.run(sys.executable, "import sys; sys.exit(3)")


def test_commands_are_ours(benchmark: ModuleType) -> None:
    from controlstack.cli import main

    for words in benchmark.COMMANDS.values():
        with pytest.raises(SystemExit) as ended:
            sys.exit(main(words))
        assert ended.value.code in (0, None)


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that starts a WebUI, to be written."""
    monkeypatch.delenv("FORGE_PATH", raising=False)
    monkeypatch.setenv("WEBUI_PATH", str(tmp_path))
    monkeypatch.setenv("WEBUI_PYTHON", sys.executable)
    return tmp_path / "launch.py"


def test_a_webui_is_started_with_our_folder_and_without_it(benchmark: ModuleType, webui: Path) -> None:
    webui.write_text("""
import pathlib, runpy, sys, time, types
later = {"before_ui": [], "app_started": []}
callbacks = types.SimpleNamespace(on_before_ui=later["before_ui"].append, on_app_started=later["app_started"].append)
sys.modules["modules"] = types.SimpleNamespace(script_callbacks=callbacks)
base = pathlib.Path(sys.argv[sys.argv.index("--data-dir") + 1])
for each in sorted((base / "extensions").iterdir()):
    if (each / "scripts" / "controlnet.py").is_file():
        sum(range(10**7))
    for script in each.glob("scripts/count*.py"):
        runpy.run_path(str(script))
for callback in later["before_ui"]:
    callback()
for callback in later["app_started"]:
    callback()
time.sleep(600)
""")
    found = benchmark.webuis(1)
    assert list(found) == ["WEBUI"]
    assert found["WEBUI"]["added"] == pytest.approx(found["WEBUI"]["with"] - found["WEBUI"]["without"], abs=0.01)
    assert found["WEBUI"]["added"] > found["WEBUI"]["without"]


def test_a_webui_that_does_not_start_ends_the_benchmark(benchmark: ModuleType, webui: Path) -> None:
    webui.write_text("print('no driver')")
    with pytest.raises(SystemExit, match="WEBUI did not start; it said last: no driver"):
        benchmark.webuis(1)
