"""The checkout works from a folder of any name, loaded as ComfyUI and the WebUIs load it.

Each test copies the Python files of the package and loads the copy in a process of its own, by the steps of the host's
loader: ComfyUI `nodes.py:load_custom_node`; AUTOMATIC1111 `modules/scripts.py:load_scripts` and
`modules/script_loading.py:load_module`, which Forge and reForge share.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("core", "models", "preprocessors", "nodes", "scripts", "standalone", "training")
AWKWARD = ("Control Stack-1.0 (beta)", "sd-webui-controlnet", "0stack", "controlstack", "models", "kontrolle-äöü")

COMFYUI = """
import importlib, importlib.util, inspect, os, sys
folder = sys.argv[1]
before = set(sys.modules)
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, os.path.join(folder, "__init__.py"))
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
"""

BRINGS_NOTHING = """
ours = [each for each in sys.modules if each.startswith(name + ".")]
assert not ours, ours
brought = {each.split(".")[0] for each in set(sys.modules) - before} - {name} - set(sys.stdlib_module_names)
assert not brought, brought
"""

LOOKUPS = """
web = getattr(module, "WEB_DIRECTORY", None)
assert web is None or os.path.isdir(os.path.join(folder, web)), web
assert getattr(module, "NODE_CLASS_MAPPINGS", None) is None  # the loader would then ignore the entry point
entry = getattr(module, "comfy_entrypoint", None)
assert entry is None or inspect.iscoroutinefunction(entry)
assert (entry is not None) == os.path.isfile(os.path.join(folder, "nodes", "__init__.py"))
"""

IMPORT_ALL = """
def import_all(package, folder):
    from pathlib import Path
    for part in ("core", "models", "preprocessors"):
        for path in sorted(Path(folder, part).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            dotted = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
            found = importlib.import_module(dotted)
            assert Path(found.__file__) == path, (found.__file__, path)
"""

WEBUI = """
import importlib, importlib.util, os, sys, types
folder = sys.argv[1]
# Modules of the host and of other extensions that stand under the names of our folders.
for taken in ("models", "modules", "nodes", "core", "preprocessors", "scripts", "training"):
    sys.modules[taken] = types.ModuleType(taken)
def load_module(path):
    spec = importlib.util.spec_from_file_location(os.path.basename(path), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
before = list(sys.path)
sys.path = [folder, *sys.path]
scripts = os.path.join(folder, "scripts")
loaded = [load_module(os.path.join(scripts, each)) for each in sorted(os.listdir(scripts)) if each.endswith(".py")]
sys.path = before
assert loaded
"""

# What an entry script does (docs/architecture.md): load the root by path, once, under the one name.
ENTRY = """
import importlib.util
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
if "controlstack" not in sys.modules:
    spec = importlib.util.spec_from_file_location("controlstack", root / "__init__.py")
    sys.modules["controlstack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["controlstack"])

from controlstack.core.unit import ControlUnit
"""


def copy_package(folder: Path) -> None:
    folder.mkdir()
    for path in [*ROOT.glob("*.py"), *(path for each in FOLDERS for path in (ROOT / each).rglob("*.py"))]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for each in ("web", "javascript"):
        if (ROOT / each).is_dir():
            shutil.copytree(ROOT / each, folder / each)


def run_python(code: str, folder: Path, *flags: str) -> None:
    command = [sys.executable, "-I", *flags, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("name", AWKWARD)
def test_the_root_brings_nothing_in_comfyui(tmp_path: Path, name: str) -> None:
    copy_package(tmp_path / name)
    run_python(COMFYUI + BRINGS_NOTHING + LOOKUPS, tmp_path / name, "-S")  # -S: no package is installed at all


@pytest.mark.parametrize("name", AWKWARD[:1])
def test_every_module_loads_under_the_name_that_comfyui_gives(tmp_path: Path, name: str) -> None:
    copy_package(tmp_path / name)
    alone = "import_all(name, folder)\nassert 'controlstack' not in sys.modules"
    run_python(COMFYUI + IMPORT_ALL + alone, tmp_path / name)


@pytest.mark.parametrize("name", AWKWARD[1:3])
def test_a_webui_loads_every_module_among_others_of_the_same_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    copy_package(folder)
    (folder / "scripts").mkdir(exist_ok=True)
    shutil.rmtree(folder / "scripts" / "webui", ignore_errors=True)
    (folder / "scripts" / "controlnet.py").write_text(ENTRY, encoding="utf-8")
    ours = "assert os.path.samefile(sys.modules['controlstack'].__path__[0], folder)\n"
    run_python(WEBUI + ours + IMPORT_ALL + "import_all('controlstack', folder)", folder)


def test_a_second_import_of_the_checkout_is_the_same_package() -> None:
    import controlstack
    from controlstack.core import unit

    assert Path(controlstack.__file__).resolve() == ROOT / "__init__.py"
    assert sys.modules["controlstack.core.unit"] is unit
