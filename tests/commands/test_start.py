"""Commands import what they need: those that need no torch start at once, and one that draws imports nothing beside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
TINY = TESTS.parent / "pipelines" / "tiny"
BESIDE = {  # what a controlled picture of a diffusers folder needs nothing of, and what imports would pull in
    "diffusers.guiders",
    "diffusers.pipelines.onnx_utils",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "controlstack.standalone.page.page",
    "gradio",
    "pandas",
    "PIL.TiffImagePlugin",
}
MANY = 100_000  # objects of the libraries, which are a million
DRAWING = """
import gc, sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from controlstack.cli import main
code = main(sys.argv[1:])
print(code, gc.isenabled(), gc.get_freeze_count(), *sorted(sys.modules))
"""
PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from controlstack.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = {"torch", "diffusers", "transformers", "gradio", "cv2"}
print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["units"],
        ["generate", "--help"],
        ["serve", "--help"],
        ["get", "--list"],
        ["preprocess", "--list", "canny"],
        ["generate", "--base", "nowhere"],
        ["generate", "--base", "sd15-of-nobody/x", "--lora", "nowhere"],
        ["inspect", "nowhere"],
        ["again", "nowhere"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TESTS), *words], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_one_controlled_step_imports_nothing_beside(tmp_path: Path) -> None:
    unit = f"image={TINY / 'images' / 'scene-1.png'},preprocessor=canny,model={TINY / 'controls' / 'canny.safetensors'}"
    words = ["generate", "--base", str(TINY / "base"), "--steps", "1", "--output", str(tmp_path), "--unit", unit]
    done = subprocess.run(
        [sys.executable, "-c", DRAWING, str(TESTS), *words], capture_output=True, text=True, check=True, timeout=300
    )
    code, collects, frozen, *modules = done.stdout.splitlines()[-1].split()
    assert (code, collects) == ("0", "True")
    assert int(frozen) > MANY  # no round of the collector looks at the libraries again
    assert {"torch", "diffusers", "transformers"} <= set(modules)
    assert not BESIDE & set(modules)
