"""Our warnings on the console of hosts that let nothing but errors through.

Forge Neo sets the root logger to ERROR unless SD_WEBUI_LOG_LEVEL says otherwise, and our loggers would follow it.
"""

from __future__ import annotations

import logging

log = logging.getLogger("controlstack")


def let_warnings_through() -> None:
    """Let our own logger give warnings, where the host's level would hold them back."""
    if not log.isEnabledFor(logging.WARNING):
        log.setLevel(logging.WARNING)
