"""The rules of docs/architecture.md that a parser can check, and a proof that each of them can fail."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent

SHARED = {"core", "models", "preprocessors", "units"}
EDGES = {"nodes", "scripts", "standalone", "training"}
FLOORS = {*SHARED, "pipelines", *EDGES}
MAY_IMPORT = {
    "core": {"core"},
    "models": {"core", "models"},
    "preprocessors": {"core", "preprocessors"},
    "units": SHARED,
    "pipelines": {"pipelines", *SHARED},
    "nodes": {"nodes", *SHARED},
    "scripts": {"scripts", *SHARED},
    "standalone": {"standalone", "pipelines", *SHARED},
    "training": {"training", "pipelines", *SHARED},
}
HOSTS = {
    "nodes": {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "server"},
    "scripts": {"backend", "extensions", "gradio", "launch", "ldm", "ldm_patched", "modules", "modules_forge", "sgm"},
    "standalone/page": {"gradio"},  # its own page
}
# What may be imported when one of our modules is; an optional package belongs into the function that uses it.
EAGER = {
    "core": {"torch"},
    "models": {"torch", "safetensors"},
    "preprocessors": {"torch", "numpy", "cv2"},
    "units": {"torch", "numpy"},
    "pipelines": {"torch", "numpy", "cv2"},
}
IMPORTS = (ast.Import, ast.ImportFrom)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
DEFINITIONS = (*IMPORTS, *ASSIGNMENTS, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
DOING = {  # called at import time, these do more than define a value
    "open", "print", "load", "load_file", "exists", "is_file", "is_dir", "glob", "rglob", "iterdir", "mkdir",
    "read_text", "read_bytes", "run", "Popen", "system", "getenv", "setdefault", "manual_seed", "is_available",
    "set_num_threads", "basicConfig", "import_module",
}  # fmt: skip


def package_files() -> list[Path]:
    folders = sorted(FLOORS)
    inside = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*sorted(ROOT.glob("*.py")), *inside]


def violations(path: str, source: str) -> list[str]:
    """Every broken rule of one file; `path` is relative to the root, with slashes."""
    parts = PurePosixPath(path).parts
    tree = ast.parse(source, filename=path, feature_version=(3, 10))
    if len(parts) == 1:
        found = [*_root_imports(tree)]
    else:
        found = [*_imports(tree, parts), *_eager_packages(tree, parts[0])]
    if not (len(parts) == 2 and parts[0] == "scripts"):  # the entry of the WebUI is itself a script
        found += _work_at_import(tree)
    found += _path_edits(tree)
    return [f"{path}: {each}" for each in found]


def _imported(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """(level, module, names) of each import, wherever it stands; `import a.b` has level 0."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            yield from ((0, str(name.value), []) for name in node.args[:1] if isinstance(name, ast.Constant))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _imports(tree: ast.AST, parts: tuple[str, ...]) -> Iterator[str]:
    """Relative inside the package, downward only, and no host but one's own."""
    layer, package = parts[0], parts[:-1]
    rooms = {"/".join(package[:depth]) for depth in range(1, len(package) + 1)}
    own = set().union(*(HOSTS.get(room, set()) for room in rooms))
    forbidden_hosts = set().union(*HOSTS.values()) - own
    for level, module, names in _imported(tree):
        top = module.split(".")[0]
        if level == 0:
            if top == "controlstack" or top in FLOORS:
                yield f"imports {module} absolutely; inside the package every import is relative"
            if top in forbidden_hosts:
                yield f"imports {module}, a host, outside its edge"
            continue
        here = package[: len(package) - (level - 1)]
        if level - 1 > len(package):
            yield f"imports {'.' * level}{module}, above the package"
        targets = {top} if here == () and module else set(names) if here == () else {here[0]}
        for target in targets & (FLOORS | {"tests", "benchmarks", "install"}) - MAY_IMPORT[layer]:
            yield f"imports {target}, which {layer} must not know"


def _eager_packages(tree: ast.Module, layer: str) -> Iterator[str]:
    if layer not in EAGER:
        return
    for node in tree.body:
        for level, module, _ in _imported(node) if isinstance(node, IMPORTS) else ():
            top = module.split(".")[0]
            if level == 0 and top not in sys.stdlib_module_names and top not in EAGER[layer]:
                yield f"imports {module} at import time; import it in the function that uses it"


def _root_imports(tree: ast.Module) -> Iterator[str]:
    """Files in the root run in a host, or before anything is installed: the standard library alone, ours lazily."""
    for node in tree.body:
        for level, module, _ in _imported(node) if isinstance(node, IMPORTS) else ():
            if level or module.split(".")[0] not in sys.stdlib_module_names:
                yield f"imports {'.' * level}{module} at import time; the root imports the standard library alone"


def _work_at_import(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            continue
        if isinstance(node, ast.If) and re.search(r"TYPE_CHECKING|__name__|sys\.version_info", ast.unparse(node.test)):
            continue
        if not isinstance(node, DEFINITIONS):
            yield f"line {node.lineno} does something at import time; only definitions belong there"
        if isinstance(node, ASSIGNMENTS) and node.value is not None:
            yield from _doing(node.value)


def _doing(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, ast.Call) and _called(node) in DOING:
            yield f"line {node.lineno} calls {_called(node)} at import time"


def _path_edits(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            yield f"line {node.lineno} uses sys.path, which belongs to the host"


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_rules(path: Path) -> None:
    assert violations(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("core/a.py", "from ..models import registry", "models, which core must not know"),
        ("core/a.py", "def f():\n    from .. import models", "models, which core must not know"),
        ("models/a.py", "from ..preprocessors.resize import Image", "preprocessors, which models must not know"),
        ("models/families/a.py", "from ...preprocessors import perform", "preprocessors, which models must not know"),
        ("preprocessors/a.py", "from ..models import loading", "models, which preprocessors must not know"),
        ("standalone/a.py", "from ..training import loop", "training, which standalone must not know"),
        ("units/a.py", "from ..pipelines import bases", "pipelines, which units must not know"),
        ("models/a.py", "from ..units import make", "units, which models must not know"),
        ("nodes/a.py", "from ..pipelines import bases", "pipelines, which nodes must not know"),
        ("scripts/webui/a.py", "from ...pipelines import bases", "pipelines, which scripts must not know"),
        ("pipelines/a.py", "from ..standalone import demo", "standalone, which pipelines must not know"),
        ("scripts/webui/a.py", "from ...nodes import x", "nodes, which scripts must not know"),
        ("nodes/a.py", "from ..tests import helper", "tests, which nodes must not know"),
        ("core/a.py", "from ...elsewhere import x", "above the package"),
        ("core/a.py", "from controlstack.core import unit", "absolutely"),
        ("models/a.py", "import core.unit", "absolutely"),
        ("models/a.py", "def f():\n    import comfy.ops", "a host, outside its edge"),
        ("nodes/a.py", "from modules import shared", "a host, outside its edge"),
        ("scripts/webui/a.py", "import folder_paths", "a host, outside its edge"),
        ("standalone/a.py", "importlib.import_module('gradio')", "a host, outside its edge"),
        ("standalone/studio/a.py", "import gradio", "a host, outside its edge"),
        ("standalone/page/a.py", "from modules import shared", "a host, outside its edge"),
        ("core/a.py", "import numpy", "numpy at import time"),
        ("preprocessors/a.py", "from skimage import color", "skimage at import time"),
        ("pipelines/a.py", "import diffusers", "diffusers at import time"),
        ("units/a.py", "import cv2", "cv2 at import time"),
        ("__init__.py", "from .core import unit", "the standard library alone"),
        ("install.py", "import torch", "the standard library alone"),
        ("core/a.py", "for i in range(3):\n    pass", "only definitions"),
        ("core/a.py", "try:\n    import x\nexcept ImportError:\n    pass", "only definitions"),
        ("core/a.py", "register()", "only definitions"),
        ("core/a.py", "DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'", "calls is_available"),
        ("models/a.py", "TABLE = json.loads(open('table.json').read())", "calls open"),
        ("nodes/a.py", "def f():\n    sys.path.insert(0, '.')", "sys.path"),
    ],
)
def test_each_rule_can_fail(path: str, source: str, complaint: str) -> None:
    assert any(complaint in found for found in violations(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/a.py", "import torch\nfrom .errors import ControlError\nLIMIT: int = 3\n_NONE = object()"),
        ("models/families/a.py", "from ...core.unit import Step\nfrom ..layers import Kit\nFAMILY = Family(name='a')"),
        ("preprocessors/a.py", "import cv2\ndef f():\n    import skimage"),
        ("nodes/a.py", "import comfy.ops\nfrom ..core import unit\nfrom .. import __version__"),
        ("scripts/webui/a.py", "import gradio\nfrom modules import shared\nfrom . import other"),
        ("scripts/controlnet.py", "load().register()"),
        ("standalone/page/a.py", "import gradio as gr"),
        ("__init__.py", "async def comfy_entrypoint():\n    from .nodes import extension\n    return extension()"),
        ("training/a.py", "from ..pipelines.bases import load_pipeline\nfrom ..units import make"),
        ("units/a.py", "from ..models import registry\nfrom ..preprocessors import find"),
        ("standalone/a.py", "if TYPE_CHECKING:\n    import diffusers\nREAD = lambda path: open(path)"),
    ],
)
def test_the_rules_allow_what_is_right(path: str, source: str) -> None:
    assert violations(path, source) == []


def _neighbours(path: Path, modules: dict[tuple[str, ...], Path]) -> Iterator[Path]:
    """The files of ours that a file imports, wherever and for whatever it does, types included."""
    package = path.relative_to(ROOT).parent.parts
    for level, module, names in _imported(ast.parse(path.read_text(encoding="utf-8"))):
        target = (*package[: len(package) - (level - 1)], *(module.split(".") if module else ()))
        if level:
            found = [modules[(*target, name)] for name in names if (*target, name) in modules]
            yield from found or ([modules[target]] if target in modules else [])


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """The first circle of a graph, empty if there is none."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        found = next((each for next_one in sorted(graph[node]) if (each := walk(next_one, [*way, node]))), [])
        done.add(node)
        return found

    return next((each for node in sorted(graph) if (each := walk(node, []))), [])


@pytest.mark.parametrize("folder", [name for name in sorted(FLOORS) if (ROOT / name).is_dir()])
def test_imports_form_no_circle(folder: str) -> None:
    # Not for types and not inside functions either: whoever reads a file must be able to stop at what lies below it.
    files = [path for path in package_files() if path.is_relative_to(ROOT / folder)]
    modules = {path.relative_to(ROOT).with_suffix("").parts: path for path in files}
    modules |= {name[:-1]: path for name, path in modules.items() if name[-1] == "__init__"}
    graph = {str(path): {str(each) for each in _neighbours(path, modules)} for path in files}
    assert any(graph.values())
    assert circle_of(graph) == []


def test_a_circle_is_found() -> None:
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_of({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_pyproject_names_every_folder_that_holds_python() -> None:
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.S | re.M)
    assert listed is not None
    folders = {path.parent.relative_to(ROOT) for path in package_files()}
    folders.discard(Path("scripts"))  # the entry of the WebUI is no module of the package
    expected = {".".join(("controlstack", *folder.parts)) for folder in folders}
    assert set(re.findall(r'"([\w.]+)"', listed.group(1))) == expected


def test_scripts_holds_one_file_of_python() -> None:
    # The WebUIs execute each .py that lies directly in scripts/, an __init__.py included.
    assert {path.name for path in (ROOT / "scripts").glob("*.py")} <= {"controlnet.py"}
