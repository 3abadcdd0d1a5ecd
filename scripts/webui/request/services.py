"""What all requests of both tabs share, made when the first one needs it."""

from __future__ import annotations

import functools

from ..host import annotators, forge
from ..host.cache import ModelCache
from ..host.files import ModelFiles
from ..host.memory import GIB
from ..host.webui import WebUI
from .needs import Services
from .preprocessing import Preprocessing

CACHE_OPTION, CACHE_GIB = "controlstack_model_cache", 6  # GiB of control models that stay in memory


@functools.cache
def services() -> Services:
    """Return the one instance."""
    host = forge.Forge() if forge.is_here() else WebUI()
    budget = int(float(host.option(CACHE_OPTION, CACHE_GIB)) * GIB)
    return Services(
        host=host,
        files=ModelFiles(host.model_folders()),
        models=ModelCache(budget),
        preprocess=Preprocessing(annotators.make_runtime(host)),
    )
