"""Commands that need no torch do not import it: they start at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
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
