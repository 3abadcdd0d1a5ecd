"""install.py: what it installs, what it leaves alone, and what it says.

In a host it is run for real, in a Python whose packages are stand-ins on disk and whose pip writes down what it was
asked. For an environment of its own, processes are replaced by a recorder, for a download is no test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

INSTALL = Path(__file__).resolve().parent.parent / "install.py"
EXPLODES = "raise RuntimeError('nothing may import this package')\n"
PIP = """
import json, os, sys
constraints = open(sys.argv[sys.argv.index("--constraint") + 1]).read().split()
asked = {"arguments": sys.argv[1:], "constraints": constraints}
json.dump(asked, open(os.path.join(os.path.dirname(__file__), "asked.json"), "w"))
sys.exit(int(os.environ.get("PIP_STAND_IN_FAILS", "0")))
"""


class HostPython:
    """A Python with stand-ins for packages: each is found, and explodes when imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("pip", "25.0", None)
        (folder / "pip" / "__main__.py").write_text(PIP)

    def add(self, module: str, version: str, distribution: str | None) -> None:
        (self.folder / module).mkdir(parents=True)
        (self.folder / module / "__init__.py").write_text(EXPLODES if distribution else "")
        if distribution:
            info = self.folder / f"{distribution}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), **variables}
        command = [sys.executable, "-S", str(INSTALL)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)

    @property
    def asked(self) -> dict[str, list[str]] | None:
        path = self.folder / "pip" / "asked.json"
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def host(tmp_path: Path) -> HostPython:
    host = HostPython(tmp_path / "site packages")
    host.add("torch", "2.1.2+cu121", "torch")
    host.add("numpy", "1.26.4", "numpy")
    host.add("safetensors", "0.4.2", "safetensors")
    return host


@pytest.mark.parametrize("flavour", ["opencv-python", "opencv-contrib-python-headless"])
def test_a_complete_host_is_left_alone_in_silence(host: HostPython, flavour: str) -> None:
    host.add("cv2", "4.9.0.80", flavour)
    done = host.run()
    assert (done.returncode, done.stdout, done.stderr, host.asked) == (0, "", "", None)


def test_only_what_is_missing_is_added_and_nothing_can_move(host: HostPython) -> None:
    done = host.run()
    assert done.returncode == 0, done.stderr
    assert host.asked is not None
    assert [each for each in host.asked["arguments"] if "=" in each] == [
        "--only-binary=:all:",
        "opencv-python-headless>=4.8",
    ]
    assert {"torch==2.1.2+cu121", "numpy==1.26.4", "safetensors==0.4.2"} <= set(host.asked["constraints"])
    assert "--upgrade" not in host.asked["arguments"]
    assert done.stdout.splitlines() == ["ControlStack: installing opencv-python-headless>=4.8"]


def test_a_version_that_pip_cannot_read_is_left_out_of_the_constraints(host: HostPython) -> None:
    host.add("odd", "unknown version", "odd")
    assert host.run().returncode == 0
    assert host.asked is not None
    assert not [line for line in host.asked["constraints"] if line.startswith("odd")]


def test_a_folder_that_an_uninstallation_left_behind_counts_as_missing(host: HostPython) -> None:
    (host.folder / "cv2").mkdir()
    host.run()
    assert host.asked is not None


@pytest.mark.parametrize("absent", [["torch"], ["numpy"], ["torch", "numpy"]])
def test_without_torch_or_numpy_one_sentence_and_no_pip(tmp_path: Path, absent: list[str]) -> None:
    host = HostPython(tmp_path / "site")
    for name in {"torch", "numpy"} - set(absent):
        host.add(name, "1.0", name)
    done = host.run()
    assert done.returncode == 1
    assert done.stdout.startswith(f"ControlStack: {' and '.join(absent)} not found in {sys.executable}")
    assert done.stdout.count("\n") == 1
    assert (done.stderr, host.asked) == ("", None)


def test_a_failing_pip_is_told_to_the_host(host: HostPython) -> None:
    done = host.run(PIP_STAND_IN_FAILS="1")
    assert done.returncode == 1
    assert "pip could not add opencv-python-headless>=4.8" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_an_unknown_command_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(INSTALL), "tset"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stdout.strip()
        == "ControlStack: 'tset' is no command of install.py: use demo, serve, test, or nothing inside a host."
    )


# --- In an environment of its own ------------------------------------------------------------------------------------


class Recorder:
    """Stands in for `install.call`: writes commands down, and makes what the venv module would make."""

    def __init__(self, checkout: Path) -> None:
        self.commands: list[list[str]] = []
        self.venv = checkout / ".venv"
        self.result: Callable[[list[str]], int] = lambda command: 0

    def __call__(self, command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> int:
        self.commands.append(command)
        assert env is not None
        assert not {"PYTHONPATH", "PIP_TARGET", "PIP_USER"} & set(env)
        if command[1:3] == ["-m", "venv"]:
            python = self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
            python.parent.mkdir()
            python.touch()
            (self.venv / "pyvenv.cfg").write_text("version = 3.11.7\n")
        return self.result(command)

    @property
    def kinds(self) -> list[str]:
        """What was done since the last look: making the venv, pip, or running something."""
        done = [command[2] if command[1] == "-m" else Path(command[0]).stem for command in self.commands]
        self.commands = []
        return done


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    checkout = tmp_path / "a folder [1]"
    checkout.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (checkout / name).write_bytes((INSTALL.parent / name).read_bytes())
    spec = importlib.util.spec_from_file_location("controlstack_install", INSTALL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.setattr(module, "VENV", checkout / ".venv")
    monkeypatch.setattr(module, "call", Recorder(checkout))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path))
    return module


def test_the_first_run_installs_and_the_second_starts_at_once(install: ModuleType) -> None:
    assert install.main(["test", "--", "-k", "core"]) == 0
    pip, alone, pytest_command = install.call.commands[1:]
    assert pip[-1] == ".[page-parts,standalone,test,train]"
    assert alone[alone.index("--no-deps") + 1 :] == [*install.ALONE["page-parts"], "controlnet-aux"]
    assert alone[alone.index("--constraint") + 1] == "constraints.txt"
    assert pip[pip.index("--constraint") + 1] == "constraints.txt"
    assert pytest_command == [str(install.venv_program("python")), "-m", "pytest", "-k", "core"]
    assert install.call.kinds == ["venv", "pip", "pip", "pytest"]
    assert install.main(["test"]) == 0
    assert install.call.kinds == ["pytest"]


def test_the_extras_of_one_command_serve_another(install: ModuleType) -> None:
    install.main(["test"])
    assert install.call.kinds == ["venv", "pip", "pip", "pytest"]
    install.main(["demo", "--seed", "1"])
    assert install.call.commands == [[str(install.venv_program("controlstack")), "demo", "--seed", "1"]]


def test_serve_installs_gradio_alone_and_opens_the_page(install: ModuleType) -> None:
    # gradio asks for an older Pillow than ours, which pip must not follow.
    assert install.main(["serve", "--", "--port", "7000"]) == 0
    pip, alone, served = install.call.commands[1:]
    assert pip[-1] == ".[page-parts,standalone]"
    assert alone[alone.index("--no-deps") + 1] == "gradio"
    assert served == [str(install.venv_program("controlstack")), "serve", "--port", "7000"]


def test_the_extras_of_two_commands_add_up(install: ModuleType) -> None:
    install.main(["demo"])
    assert install.call.kinds == ["venv", "pip", "controlstack"]
    install.main(["test"])
    assert install.call.kinds == ["pip", "pip", "pytest"]
    install.main(["demo"])
    assert install.call.kinds == ["controlstack"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
def test_a_change_of_what_decides_the_installation_installs_again(install: ModuleType, name: str) -> None:
    install.main(["demo"])
    with (install.ROOT / name).open("a") as file:
        file.write("\n")
    assert install.call.kinds == ["venv", "pip", "controlstack"]
    install.main(["demo"])
    assert install.call.kinds == ["pip", "controlstack"]


@pytest.mark.parametrize("stage", ["venv", "pip"])
def test_an_interrupted_making_starts_from_scratch(
    install: ModuleType, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(command: list[str]) -> int:
        if stage in command:
            raise KeyboardInterrupt
        return 0

    install.call.result = interrupt
    assert install.main(["demo"]) == 130
    assert capsys.readouterr().out.endswith("ControlStack: stopped.\n")
    install.call.result = lambda command: 0
    rest = install.VENV / "half"
    rest.touch()
    assert install.call.kinds[-1] == stage
    assert install.main(["demo"]) == 0
    assert install.call.kinds == ["venv", "pip", "controlstack"]
    assert not rest.exists()


def test_a_half_written_stamp_means_half_made(install: ModuleType) -> None:
    install.main(["demo"])
    (install.VENV / install.STAMP).write_text('{"inputs": "ab')
    assert install.call.kinds == ["venv", "pip", "controlstack"]
    install.main(["demo"])
    assert install.call.kinds == ["venv", "pip", "controlstack"]


def test_a_venv_whose_python_is_gone_is_made_anew(install: ModuleType) -> None:
    install.main(["demo"])
    install.venv_program("python").unlink()
    assert install.call.kinds == ["venv", "pip", "controlstack"]
    install.main(["demo"])
    assert install.call.kinds == ["venv", "pip", "controlstack"]


def test_the_users_own_venv_is_used_and_survives_a_failure(install: ModuleType) -> None:
    install.VENV.mkdir()
    install.call([sys.executable, "-m", "venv", str(install.VENV)], env={})
    (install.VENV / "precious").touch()
    install.call.result = lambda command: 1
    assert install.main(["demo"]) == 1
    install.call.result = lambda command: 0
    assert install.main(["demo"]) == 0
    assert install.call.kinds == ["venv", "pip", "pip", "controlstack"]
    assert (install.VENV / "precious").exists()


def test_something_else_called_venv_is_not_touched(install: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    install.VENV.mkdir()
    (install.VENV / "notes.txt").touch()
    assert install.main(["demo"]) == 1
    assert "is no working virtual environment" in capsys.readouterr().out
    assert (install.VENV / "notes.txt").exists()
    assert install.call.commands == []


def test_the_exit_code_of_the_command_is_returned(install: ModuleType) -> None:
    install.call.result = lambda command: 5 if "pytest" in command else 0
    assert install.main(["test"]) == 5


@pytest.mark.parametrize(("stage", "says"), [("venv", "python3-venv"), ("pip", "pip failed")])
def test_a_failing_stage_is_one_sentence(
    install: ModuleType, stage: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install.call.result = lambda command: int(stage in command)
    assert install.main(["test"]) == 1
    assert says in capsys.readouterr().out.splitlines()[-1]
    assert install.call.kinds[-1] == stage


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_lets_the_program_clean_up(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, sys, time\n"
        "try:\n    pathlib.Path('ready').touch()\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.6)\n    pathlib.Path('clean').touch()\n"
    )
    driver = (
        f"import sys; sys.path.insert(0, {str(INSTALL.parent)!r}); import install\n"
        "install.run_in_venv = lambda *_: install.call([sys.executable, 'program.py'])\n"
        "sys.exit(install.main(['demo']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", driver], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert out == "\nControlStack: stopped.\n"
    assert (tmp_path / "clean").exists()
