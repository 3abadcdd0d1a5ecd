"""Base models load through diffusers and transformers, which say a lot that nobody asked for.

They warn of packages that nobody needs here, and of base models that differ from the published ones. Whatever stops a
load is an exception, and stays one.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager


@contextmanager
def quiet() -> Generator[None]:
    """Let these libraries report errors alone, and show bars on terminals alone, while this is open."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as stack:
        for library in (diffusers_logging, transformers_logging):
            stack.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity_error()
            if library.is_progress_bar_enabled() and not sys.stderr.isatty():
                stack.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
