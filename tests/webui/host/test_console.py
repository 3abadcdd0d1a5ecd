"""Our warnings reach the console, whatever level the host gives its root logger."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from controlstack.scripts.webui.host.console import let_warnings_through

OURS, ROOT = logging.getLogger("controlstack"), logging.getLogger()


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    before = OURS.level, ROOT.level
    yield
    OURS.setLevel(before[0])
    ROOT.setLevel(before[1])


def test_a_host_that_shows_errors_alone_shows_our_warnings(caplog: pytest.LogCaptureFixture) -> None:
    OURS.setLevel(logging.NOTSET)
    ROOT.setLevel(logging.ERROR)
    OURS.warning("first")
    let_warnings_through()
    OURS.warning("second")
    OURS.info("third")
    assert caplog.messages == ["second"]


def test_a_host_that_shows_more_goes_on_showing_it() -> None:
    OURS.setLevel(logging.NOTSET)
    ROOT.setLevel(logging.INFO)
    let_warnings_through()
    assert OURS.level == logging.NOTSET
