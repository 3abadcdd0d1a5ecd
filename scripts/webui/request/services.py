"""What all requests of both tabs share, made when the first one needs it."""

from __future__ import annotations

import functools

from ..host import annotators, forge
from ..host.cache import ModelCache
from ..host.files import ModelFiles
from ..host.memory import GIB
from ..host.program import Program
from ..host.webui import WebUI
from .needs import Services
from .preprocessing import Preprocessing

CACHE_OPTION, CACHE_GIB = "controlstack_model_cache", 6  # GiB of control models that stay in memory


@functools.cache
def services() -> Services:
    """Return the one instance."""
    host, program = (forge.Forge(), Program(forge.BASIS)) if forge.is_here() else (WebUI(), Program())
    budget = int(float(program.option(CACHE_OPTION, CACHE_GIB)) * GIB)
    return Services(
        host=host,
        program=program,
        files=ModelFiles(program.model_folders),
        models=ModelCache(budget, program.no_loading),
        preprocess=Preprocessing(annotators.make_runtime(program, host.device, host.residency)),
    )
