"""The script as the WebUI sees it: title, arguments, and the hooks it calls for each request."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core.fields import UnitArgs
from . import sampling
from .arguments import SLOTS, units_of
from .batches import Batches
from .services import services

if TYPE_CHECKING:
    from .run import Run
    from .unit_page import UnitPage

TITLE = "ControlNet"  # the name under which clients and other extensions address units


def make_script() -> type:
    """The class that the WebUI registers; made by a function, since its base class exists only inside the host."""
    from modules import scripts

    return type("ControlStackScript", (Hooks, scripts.Script), {"__module__": Hooks.__module__})


class Hooks:
    """What the host calls, in this order for each request; `ui` once for each tab."""

    sorting_priority = 10
    is_img2img: bool  # set by the host

    def __init__(self) -> None:
        self._run: Run | None = None
        self._batches: Batches | None = None
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

    def before_process(self, p: Any, *args: Any) -> None:
        self._batches = Batches(p, args)

    def process(self, p: Any, *args: Any) -> None:
        if self._batches is not None:
            self._batches.fix_seeds(p)
        self._run = self._begin(p, args, 0)

    def before_process_batch(self, p: Any, *args: Any, batch_number: int = 0, **_: Any) -> None:
        if batch_number and self._batches is not None and self._batches.changes:
            if self._run is not None:
                save_maps(self._run, p)
            self._run = self._begin(p, args, batch_number)

    def process_before_every_sampling(self, p: Any, *args: Any, **_: Any) -> None:
        if self._run is not None:
            self._run.join(p)

    def postprocess_batch(self, p: Any, *args: Any, images: Any = None, **_: Any) -> None:
        if self._run is not None:
            self._run.finish_pictures(images)
        if self._batches is not None:
            self._batches.finished(images)

    def postprocess_image_after_composite(self, p: Any, result: Any, *args: Any) -> None:
        if self._batches is not None:
            self._batches.save(p, result.image)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        finished, self._run = self._run, None
        batches, self._batches = self._batches, None
        sampling.end(p)
        if finished is not None:
            save_maps(finished, p)
            if batches is None or not batches.changes:
                show_maps(finished, processed)

    def _begin(self, p: Any, args: Sequence[Any], number: int) -> Run | None:
        return sampling.begin(services(), p, lambda: _collect(p, args, self._batches, number))


def _collect(p: Any, args: Sequence[Any], batches: Batches | None, number: int) -> list[UnitArgs]:
    from .remote import with_attributes

    def own() -> list[UnitArgs]:
        return units_of(args, services().host.basis)

    return with_attributes(p, own() if batches is None else batches.units(number, own))


def show_maps(finished: Run, processed: Any) -> None:
    """The hints, after the pictures, as users expect them; not where a script puts tiles together."""
    from PIL import Image

    tiled = "sd upscale" in ", ".join(getattr(processed, "extra_generation_params", None) or {}).lower()
    if not services().host.option("control_net_no_detectmap", False) and not tiled:
        processed.images.extend(Image.fromarray(hint) for hint, _ in finished.maps)


def save_maps(finished: Run, p: Any) -> None:
    """If the settings say so, each map into a folder named after its preprocessor.

    It lies beside the pictures, unless the setting is an absolute path.
    """
    from pathlib import Path

    from modules import images
    from PIL import Image

    host = services().host
    if not host.option("control_net_detectmap_autosaving", False):
        return
    folder = Path(p.outpath_samples) / str(host.option("control_net_detectedmap_dir", "detected_maps"))
    for hint, module in finished.maps:
        if module != "none":
            images.save_image(Image.fromarray(hint), str(folder / module), module)


__all__ = ["SLOTS", "TITLE", "make_script"]
