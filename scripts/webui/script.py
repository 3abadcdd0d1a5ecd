"""What the script called ControlNet does with each request, hook by hook."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.errors import ControlError
from ...core.network.base import LATENT
from ...units.webui.fields import UnitArgs
from .host.unet.tiles import Tiles
from .page.page_script import with_page
from .request import sampling
from .request.arguments import misspelt, units_of, unsaid
from .request.batches import Batches
from .request.preparing import write_text
from .request.saying import warn
from .request.services import services
from .slots import Slots

if TYPE_CHECKING:
    from .request.run import Run

log = logging.getLogger("controlstack")

REQUEST = "controlstack_request"  # attribute of a request


def make_script() -> type:
    """Return the class that the WebUI registers; its base class exists only inside the host."""
    from modules import scripts

    return type("ControlStackScript", (Hooks, scripts.Script), {"__module__": Hooks.__module__})


class Hooks(Slots):
    """What the host calls for each request, in this order."""

    def __init__(self) -> None:
        self._tiles: Tiles | None = None  # of the request that is being prepared

    @property
    def latest_network(self) -> Tiles | None:
        """Return where extensions that draw in tiles look for hints, from `process` to the end of the sampling."""
        active = services().active
        return self._tiles if active is None else active.tiles

    def before_process(self, p: Any, *args: Any) -> None:
        vars(p).pop(REQUEST, None)  # of the run before, where a script draws one request several times
        _request(p).batches = Batches(p, with_page(p.scripts, args, p.script_args))

    def process(self, p: Any, *args: Any) -> None:
        request = _request(p)
        if request.batches is not None:
            request.batches.fix_seeds(p)
        found = _foresee(p, with_page(p.scripts, args, p.script_args), request.batches)
        request.tiles = self._tiles = services().host.tiles(lambda: canvas(p)) if found else None

    def before_process_batch(self, p: Any, *args: Any, batch_number: int = 0, **_: Any) -> None:
        """Prepare the units here: in `process`, other scripts exchange sizes, pictures and `p.sample`."""
        request = _request(p)
        if batch_number and not request.changes:
            return
        if request.run is not None:
            save_maps(request.run, p)
        given = with_page(p.scripts, args, p.script_args)
        for index in unsaid(given):
            warn(p, f"unit {index} is off, since it does not say that it is on: send enabled: true with it")
        for told in misspelt(given):
            warn(p, told)
        collect = functools.partial(_collect, p, given, request.batches, batch_number)
        request.run = sampling.begin(services(), p, collect, request.tiles)

    def process_before_every_sampling(self, p: Any, *args: Any, **_: Any) -> None:
        run = _request(p).run
        if run is not None:
            run.begin_pass()

    def postprocess_batch(self, p: Any, *args: Any, images: Any = None, **_: Any) -> None:
        request = _request(p)
        if request.run is not None:
            request.run.finish_pictures(images)
        if request.batches is not None:
            request.batches.finished(images)

    def postprocess_image_after_composite(self, p: Any, result: Any, *args: Any) -> None:
        batches = _request(p).batches
        if batches is not None:
            batches.save(p, result.image)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        request = _request(p)
        del vars(p)[REQUEST]
        self._tiles = None
        sampling.end(p)
        if request.run is not None:
            save_maps(request.run, p)
            if not request.changes:
                show_maps(request.run, processed)


@dataclass
class Request:
    """What the hooks know of one request. It lies on the request: ADetailer draws others before one has ended.

    ADetailer also lets the hooks end a copy of a request that goes on, so a copy and its original part here.
    """

    batches: Batches | None = None
    tiles: Tiles | None = None
    run: Run | None = None

    @property
    def changes(self) -> bool:
        """Return whether each of the host's batches has other units."""
        return self.batches is not None and self.batches.changes


def _request(p: Any) -> Request:
    return vars(p).setdefault(REQUEST, Request())


def canvas(p: Any) -> tuple[int, int]:
    """Return height and width of a request's first pass in latent pixels, as scripts have left them."""
    return p.height // LATENT, p.width // LATENT


def _foresee(p: Any, args: Sequence[Any], batches: Batches | None) -> bool:
    """Return whether a request has units. Their text is written now, to stand where sd-webui-controlnet's does."""
    try:
        return bool(write_text(services(), p, _collect(p, args, batches, 0)))
    except ControlError:
        return True  # `sampling.begin` collects them again, and says what is wrong


def _collect(p: Any, args: Sequence[Any], batches: Batches | None, number: int) -> list[UnitArgs]:
    from .clients.remote import with_attributes

    def own() -> list[UnitArgs]:
        return units_of(args, services().program.basis)

    return with_attributes(p, own() if batches is None else batches.units(number, own))


def show_maps(finished: Run, processed: Any) -> None:
    """Put the hints behind the pictures, as users expect them; not where a script puts tiles together."""
    from PIL import Image

    tiled = "sd upscale" in ", ".join(getattr(processed, "extra_generation_params", None) or {}).lower()
    if not services().program.option("control_net_no_detectmap", False) and not tiled:
        processed.images.extend(Image.fromarray(hint) for hint, _ in finished.maps)


def save_maps(finished: Run, p: Any) -> None:
    """Save each map into a folder named after its preprocessor, if the settings say so.

    It lies beside the pictures, unless the setting is an absolute path.
    """
    from pathlib import Path

    from modules import images
    from PIL import Image

    program = services().program
    if not program.option("control_net_detectmap_autosaving", False):
        return
    folder = Path(p.outpath_samples) / str(program.option("control_net_detectedmap_dir", "detected_maps"))
    for hint, module in finished.maps:
        if module != "none":
            images.save_image(Image.fromarray(hint), str(folder / module), module)
