"""The public names: each exists, is documented once, and is imported only when somebody asks for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import controlstack
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def documented() -> set[str]:
    """The names in the page's last table."""
    rows = PAGE.split("## All names")[1].splitlines()
    return {name for row in rows if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_every_public_name_is_documented_and_no_other() -> None:
    assert documented() == set(controlstack.__all__)
    assert list(controlstack.__all__) == sorted(controlstack.__all__, key=lambda name: (not name[0].isupper(), name))


@pytest.mark.parametrize("name", controlstack.__all__)
def test_every_public_name_is_there_and_explains_itself(name: str) -> None:
    found = getattr(controlstack, name)
    assert found.__doc__
    assert name in dir(controlstack)
    if callable(found) and not isinstance(found, type):
        assert "return" in found.__annotations__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = controlstack.nothing


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('controlstack', {str(ROOT / '__init__.py')!r})\n"
        "m = u.module_from_spec(s); sys.modules['controlstack'] = m; s.loader.exec_module(m)\n"
        "assert not {'torch', 'numpy', 'diffusers', 'PIL'} & set(sys.modules)\n"
        "m.Schedule(end=0.5); assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()
    assert 'controlstack = ["py.typed"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
