"""The WebUI's entry: load this folder as the package `controlstack`, whatever its name, and register with the host.

This file is called as sd-webui-controlnet's is, because ADetailer chooses scripts by their files' names.
"""

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if "controlstack" not in sys.modules:
    spec = spec_from_file_location("controlstack", ROOT / "__init__.py")
    assert spec is not None and spec.loader is not None
    sys.modules["controlstack"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["controlstack"])
if list(sys.modules["controlstack"].__path__) != [str(ROOT)]:
    raise ImportError(f"ControlStack is loaded from {sys.modules['controlstack'].__path__} already: remove {ROOT}")

Script, Page, Films = importlib.import_module(".scripts.webui.register", "controlstack").register()
