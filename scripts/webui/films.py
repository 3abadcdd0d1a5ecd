"""The script "controlnet m2m": one picture for each frame of films that units follow, and a film of the results.

Clients look for a script of this name, and send its arguments in sd-webui-controlnet's order: a film, a picture, and
whether hints are kept, for each unit of the page, then how long a frame lasts.
"""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...core.errors import ControlError, HintError
from ...units.encoded import bytes_of
from .pictures.inputs import FILM
from .pictures.reading import is_empty, read_picture
from .request.saying import about_unit, for_caller

if TYPE_CHECKING:
    from .pictures.reading import Image

TITLE = "controlnet m2m"
FOLDER = "controlnet-m2m"  # inside the folder of samples
DURATION = 50.0  # milliseconds of a frame, unless somebody says otherwise


class Track(NamedTuple):
    """What one unit is given: a film, or one picture for all frames; and whether its hints become a film too."""

    film: Any = None
    picture: Any = None
    keeps_hints: bool = False


def make_film_script() -> type:
    """Return the class that the WebUI registers; its base class exists only inside the host."""
    from modules import scripts

    return type("ControlStackFilms", (Films, scripts.Script), {"__module__": Films.__module__})


class Films:
    """What the host calls when this script is chosen."""

    def title(self) -> str:
        """Return the name under which clients look for it."""
        return TITLE

    def show(self, is_img2img: bool) -> bool:
        """Return that it can be chosen on both tabs."""
        return True

    def ui(self, is_img2img: bool) -> list[Any]:
        """Draw a tab for each unit, and return the arguments."""
        from .page.films import build

        return build(is_img2img)

    def run(self, p: Any, *args: Any) -> Any:
        """Draw a picture for each frame: callers of the API get the pictures, the page gets the film of them."""
        from modules import processing

        tracks, duration = tracks_of(args)
        if all(is_empty(track.film) for track in tracks):
            return processing.process_images(p)
        try:
            return _draw(p, tracks, duration)
        except ControlError as error:
            raise for_caller(p, error) from error


def tracks_of(args: Sequence[Any]) -> tuple[list[Track], float]:
    """Return what the script's arguments say, by unit, and how long a frame lasts in milliseconds."""
    width, count = len(Track._fields), len(args) // len(Track._fields)
    tracks = [Track(*args[start * width : (start + 1) * width]) for start in range(count)]
    return tracks, float(args[-1]) if len(args) > count * width else DURATION


def frames_of(tracks: Sequence[Track], *, trusted: bool) -> Iterator[dict[int, Image]]:
    """Yield the pictures [H, W, 3] of each frame by unit, until the shortest film ends.

    trusted: a film may be the path of a file, as the page sends it; other callers send its bytes as base64 text.
    """
    with ExitStack() as stack:
        films: dict[int, Iterator[Image]] = {}
        stills: dict[int, Image] = {}
        for number, track in enumerate(tracks):
            with about_unit(number):
                if not is_empty(track.film):
                    films[number] = stack.enter_context(_opened(track.film, trusted))
                elif not is_empty(track.picture):
                    given = track.picture["image"] if isinstance(track.picture, Mapping) else track.picture
                    stills[number] = read_picture(given)
        for pictures in zip(*films.values(), strict=False):
            yield {**stills, **dict(zip(films, pictures, strict=True))}


@contextmanager
def _opened(film: Any, trusted: bool) -> Iterator[Iterator[Image]]:
    """Open a film for as long as its frames are read; HintError if it is none."""
    import tempfile

    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(film) if trusted else Path(folder) / "film"
        if not trusted:
            path.write_bytes(bytes_of(film, "a film"))
        reader = cv2.VideoCapture(str(path))
        try:
            found, first = reader.read()
            if not found:
                raise HintError("its film is of no format that can be read here: give an mp4, webm or avi file")
            yield _frames(reader, first)
        finally:
            reader.release()


def _frames(reader: Any, frame: Any) -> Iterator[Image]:
    import numpy as np

    found = True
    while found:
        yield np.ascontiguousarray(frame[..., ::-1])  # OpenCV has blue first
        found, frame = reader.read()


def _draw(p: Any, tracks: Sequence[Track], duration: float) -> Any:
    from modules import processing, shared

    is_api = bool(getattr(p, "is_api", False))
    processing.fix_seed(p)  # the same for all frames, so that the films hold still where they do
    results: list[Any] = []
    processed: Any = None
    for pictures in frames_of(tracks, trusted=not is_api):
        if shared.state.interrupted:
            break
        each = copy.copy(p)
        each.extra_generation_params = dict(p.extra_generation_params)
        setattr(each, FILM, pictures)
        processed = processing.process_images(each)
        results.append(list(processed.images))
    if processed is None:
        raise HintError("the films were stopped before their first frame")
    processed.images = [images[0] for images in results]
    if not is_api:
        processed.images = _save(p, processed, tracks, results, duration)
    return processed


def _save(p: Any, processed: Any, tracks: Sequence[Track], results: Sequence[Sequence[Any]], duration: float) -> Any:
    """Write the films beside the pictures, and return their paths: of the results, then of each unit's hints."""
    from modules import images

    folder = Path(p.outpath_samples) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{images.get_next_sequence_number(str(folder), ''):05}-{processed.seed}-animation"
    kept = [number + 1 for number, track in enumerate(tracks) if track.keeps_hints]
    films = {stem: 0} | {f"{stem}-control{place - 1}": place for place in kept}
    paths: list[str] = []
    for name, place in films.items():
        first, *others = [each[place].convert("RGB") for each in results if len(each) > place] or [None]
        if first is not None:
            path = str(folder / f"{name}.gif")
            first.save(path, save_all=True, append_images=others, duration=duration, loop=0)
            paths.append(path)
    return paths
