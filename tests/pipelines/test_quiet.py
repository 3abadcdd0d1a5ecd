"""Loading speaks of errors alone, and leaves the libraries as they were."""

from __future__ import annotations

import logging

import pytest
from controlstack.pipelines.quiet import quiet


def test_libraries_are_as_before_also_after_an_error() -> None:
    loggers = [logging.getLogger("diffusers"), logging.getLogger("transformers")]
    before = [logger.level for logger in loggers]
    with pytest.raises(OSError, match="no such model"):
        _fail_to_load()
    assert [logger.level for logger in loggers] == before


def _fail_to_load() -> None:
    with quiet():
        assert logging.getLogger("diffusers").level == logging.getLogger("transformers").level == logging.ERROR
        raise OSError("no such model")
