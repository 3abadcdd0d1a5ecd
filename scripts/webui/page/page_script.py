"""The page's widgets are the arguments of a script of their own, whose title nobody looks for.

sd-webui-controlnet's script has one argument for each unit, and other extensions take all arguments of the script that
is called ControlNet for units. So that script of ours has none but units, and this one draws the page.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .unit.widgets import UnitPage

TITLE = "ControlStack"


def make_page_script() -> type:
    """Return the class that the WebUI registers; its base class exists only inside the host."""
    from modules import scripts

    return type("ControlStackPage", (PageHooks, scripts.Script), {"__module__": PageHooks.__module__})


class PageHooks:
    """What the host calls while it builds its page; `ui` once for each tab."""

    sorting_priority = 10
    is_img2img: bool  # these three are set by the host
    args_from: int
    args_to: int

    def __init__(self) -> None:
        self.pages: list[UnitPage] = []
        self.watched: dict[str, Any] = {}  # the host's own widgets that the page looks at

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> object:
        from modules import scripts

        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        from .page import build

        return build(self, is_img2img)

    def after_component(self, component: Any, **kwargs: Any) -> None:
        from .page import watch

        watch(self, component, kwargs.get("elem_id"))


def with_page(runner: Any, own: Sequence[Any], script_args: Sequence[Any]) -> list[Any]:
    """Return the arguments `own` of the script with the units, and behind them those of the page, if it takes part.

    runner: the tab's, or one of another extension, which may have left out the page. script_args: of all its scripts.
    """
    scripts = getattr(runner, "alwayson_scripts", None) or ()
    page = next((each for each in scripts if isinstance(each, PageHooks)), None)
    return [*own] if page is None else [*own, *script_args[page.args_from : page.args_to]]
