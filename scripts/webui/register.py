"""What the entry script calls each time the WebUI loads its scripts ("Reload UI" clears all callbacks before)."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from typing import Any

from .host.console import let_warnings_through
from .request.services import services


def register() -> tuple[type, type | None, type | None]:
    """Register what calls us back, and return the classes of the scripts: the units, their page, and films.

    Beside another ControlNet there is one script, which says what to do.
    """
    from modules import script_callbacks

    from .clients import external, rival
    from .films import make_film_script
    from .page.page_script import make_page_script
    from .script import make_script

    let_warnings_through()
    other = rival.find()
    if other is not None:
        return rival.make_notice(other), None, None

    external.publish()
    script_callbacks.on_before_ui(_before_page)
    return make_script(), make_page_script(), make_film_script()


def _before_page() -> None:
    """Register the other callbacks, all of which come later, also where there is no page.

    For each, the WebUI looks up the source of every function that is running. While it loads a script, some of them are
    in no module, and it searches all modules for them: a twentieth of a second for each callback.
    """
    from modules import script_callbacks

    from .clients import api
    from .page import grid, page, paste, settings

    script_callbacks.on_app_started(api.add_routes)
    script_callbacks.on_cfg_denoiser(announce)
    script_callbacks.on_infotext_pasted(paste.pasted)
    script_callbacks.on_ui_settings(settings.register)
    script_callbacks.on_ui_tabs(page.separate_defaults)
    grid.register()


def announce(params: Any) -> None:
    """Tell the run that is in progress, if there is one, that the denoiser is about to evaluate its network."""
    active = services().active
    if active is None:
        return
    cond = params.text_cond
    rows = len(cond["crossattn"]) if isinstance(cond, dict) else len(cond)
    active.announce(len(params.x), rows, params.sampling_step, params.total_sampling_steps, params.denoiser)
