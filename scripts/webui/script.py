"""The script as the WebUI sees it: title, arguments, and the hooks it calls for each request."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core.fields import UnitArgs
from . import run
from .arguments import SLOTS, units_of
from .services import services

if TYPE_CHECKING:
    from .run import Run
    from .unit_page import UnitPage

TITLE = "ControlNet"  # the name under which clients and other extensions address units


def make_script() -> type:
    """The class that the WebUI registers; made by a function, since its base class exists only inside the host."""
    from modules import scripts

    class ControlStackScript(scripts.Script):
        """Units in an accordion of both tabs."""

        sorting_priority = 10

        def __init__(self) -> None:
            self._run: Run | None = None
            self.pages: list[UnitPage] = []
            self.watched: dict[str, Any] = {}  # the host's own widgets that the page looks at

        def title(self) -> str:
            return TITLE

        def show(self, is_img2img: bool) -> object:
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> list[Any]:
            from .page import build

            return build(self, is_img2img)

        def after_component(self, component: Any, **kwargs: Any) -> None:
            from .page import watch

            watch(self, component, kwargs.get("elem_id"))

        def process(self, p: Any, *args: Any) -> None:
            self._run = run.begin(services(), p, lambda: _collect(p, args))

        def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
            finished, self._run = self._run, None
            run.end(p)
            if finished is not None:
                show_maps(finished, p, processed)

    return ControlStackScript


def _collect(p: Any, args: Sequence[Any]) -> list[UnitArgs]:
    from .remote import with_attributes

    return with_attributes(p, units_of(args))


def show_maps(finished: Run, p: Any, processed: Any) -> None:
    """The hints, after the pictures, as users expect them; not where a script puts tiles together."""
    from PIL import Image

    host = services().host
    tiled = "sd upscale" in ", ".join(getattr(processed, "extra_generation_params", None) or {}).lower()
    pictures = [(Image.fromarray(hint), module) for hint, module in finished.maps]
    if not host.option("control_net_no_detectmap", False) and not tiled:
        processed.images.extend(picture for picture, _ in pictures)
    if host.option("control_net_detectmap_autosaving", False):
        save_maps(pictures, p, str(host.option("control_net_detectedmap_dir", "detected_maps")))


def save_maps(pictures: Sequence[tuple[Any, str]], p: Any, folder: str) -> None:
    """Each map into a folder named after its preprocessor, beside the pictures unless the setting is absolute."""
    from pathlib import Path

    from modules import images

    for picture, module in pictures:
        if module != "none":
            images.save_image(picture, str(Path(p.outpath_samples) / folder / module), module)


__all__ = ["SLOTS", "TITLE", "make_script"]
