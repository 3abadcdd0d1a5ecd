"""What the entry script calls each time the WebUI loads its scripts ("Reload UI" clears all callbacks before)."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .host.console import let_warnings_through
from .request.services import services


def register() -> tuple[type, type | None, type | None]:
    """Register all callbacks, and return the classes of the scripts: the units, their page, and films.

    Beside another ControlNet there is one script, which says what to do.
    """
    from .clients import external, rival
    from .films import make_film_script
    from .page.page_script import make_page_script
    from .script import make_script

    let_warnings_through()
    other = rival.find()
    if other is not None:
        return rival.make_notice(other), None, None

    external.publish()
    with ThreadPoolExecutor(1) as beside:
        beside.submit(_add_callbacks).result()
    return make_script(), make_page_script(), make_film_script()


def _add_callbacks() -> None:
    """Register all callbacks, in a thread of its own, on which few functions are running.

    For each callback the WebUI looks up the source of every function that runs. While it loads a script, some of them
    are in no module, and it searches all modules for them: 0.06 s of each callback, and 0.3 s in Forge.
    """
    from modules import script_callbacks

    from .clients import api
    from .page import grid, page, paste, settings

    script_callbacks.on_app_started(api.add_routes)
    script_callbacks.on_cfg_denoiser(announce)
    script_callbacks.on_infotext_pasted(paste.pasted)
    script_callbacks.on_ui_settings(settings.register)
    script_callbacks.on_before_ui(grid.register)
    script_callbacks.on_ui_tabs(page.separate_defaults)


def announce(params: Any) -> None:
    """Tell the run that is in progress, if there is one, that the denoiser is about to evaluate its network."""
    active = services().active
    if active is None:
        return
    cond = params.text_cond
    rows = len(cond["crossattn"]) if isinstance(cond, dict) else len(cond)
    active.announce(len(params.x), rows, params.sampling_step, params.total_sampling_steps, params.denoiser)
