"""What holds for every family of the registry, and what is said of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from controlstack.models.document import Described, page_of, renew, table
from controlstack.models.kinds.fileless import KINDS
from controlstack.models.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ALL: tuple[Described, ...] = (*REGISTRY, *KINDS)
PARTS = ("## What it is", "## Files", "## Conventions", "## On each host")
PICTURE, NO_PICTURE = "](../images/families/", "There is no picture of it here"

every_family = pytest.mark.parametrize("family", ALL, ids=lambda family: family.title)


def test_the_readme_lists_the_families_of_the_registry() -> None:
    assert table(ALL) in README


def test_families_have_different_ids_and_titles() -> None:
    assert len({each.id for each in REGISTRY}) == len(REGISTRY)
    assert len({each.title for each in ALL}) == len(ALL)


@every_family
def test_a_family_says_what_it_is_for_and_where_it_comes_from(family: Described) -> None:
    assert family.bases
    assert family.hosts
    assert family.paper


@every_family
def test_a_family_has_a_page_that_says_how_to_use_it(family: Described) -> None:
    page = (ROOT / page_of(family)).read_text(encoding="utf-8")
    assert family.title in page
    assert [each for each in PARTS if each not in page] == []
    assert (PICTURE in page) != (NO_PICTURE in page)
    links = re.findall(r"\]\(([^)#:]+)\)", page)
    assert [each for each in links if not (ROOT / "docs" / "families" / each).exists()] == []


def test_no_page_is_about_nothing() -> None:
    pages = {path.name for path in (ROOT / "docs" / "families").glob("*.md")}
    assert pages == {Path(page_of(family)).name for family in ALL}


def test_renewing_replaces_the_table_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{table(REGISTRY[:1])}\n\nafter\n", encoding="utf-8")
    renew(page, REGISTRY)
    assert page.read_text(encoding="utf-8") == f"before\n\n{table(REGISTRY)}\n\nafter\n"
