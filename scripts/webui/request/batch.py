"""Pictures of folders, and pictures that follow from the one before: other units for each of the host's batches.

The host draws `n_iter` batches in one request. A folder raises that number to its pictures, and before each batch the
units are prepared anew, so nothing of the host is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....core.errors import UnitError
from ....core.schedule import RangeBasis
from ....preprocessors.folders import Listing, list_pictures
from ....preprocessors.images import read_image, suffixes
from ....units.webui.fields import InputMode, UnitArgs
from .arguments import raw_units, read_unit
from .saying import about_unit


class Batch:
    """The units of a request of the page, some of which have a folder or use their last result."""

    def __init__(self, units: Sequence[Mapping[str, Any]], allowed: bool = True) -> None:
        """allowed: whether this caller may name folders of the server. UnitError for folders that cannot be."""
        self._units = [(number, unit) for number, unit in enumerate(units) if unit.get("enabled")]
        named = [(number, unit) for number, unit in self._units if _has_folder(unit)]
        if named and not allowed:
            raise UnitError("a unit has a folder, which only the page may name, and not with --hide-ui-dir-config")
        listings: dict[int, Listing] = {}
        for number, unit in named:
            with about_unit(number):
                listings[number] = pictures_in(str(unit.get("batch_folder") or ""))
        self._files = {number: listing.files for number, listing in listings.items()}
        self.remarks = [_remark(number, listing) for number, listing in listings.items() if listing.left_out]
        outputs = [str(unit.get("output_folder") or "").strip().strip('"') for _, unit in named]
        self.output = next((Path(each) for each in outputs if each), None)
        self._last: Any = None

    @property
    def count(self) -> int | None:
        """Return how many batches the folders make: as many as the shortest has pictures; None without folders."""
        return min((len(files) for files in self._files.values()), default=None)

    def units(self, number: int, basis: RangeBasis = RangeBasis.WEBUI) -> list[UnitArgs]:
        """Return the enabled units for batch `number`. basis: what a range means here, where a unit does not say so."""
        return [read_unit(index, self._filled(index, unit, number), basis) for index, unit in self._units]

    def remember(self, picture: Any) -> None:
        """Keep a result, float [3, H, W] in 0..1, for the units that loop; cut to 8 bits as the host saves it."""
        self._last = (picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()

    def name(self, number: int, index: int) -> str:
        """Return the file that a result gets in the output folder: as its input, numbered where there are several."""
        first = next(iter(self._files.values()))
        return first[number].stem + (f"-{index}" if index else "")

    def _filled(self, index: int, unit: Mapping[str, Any], number: int) -> dict[str, Any]:
        image = unit.get("image")
        if index in self._files:
            with about_unit(index):
                image = read_image(self._files[index][number])
        if number and unit.get("loopback") and self._last is not None:
            image = self._last
        return {**unit, "image": image}


def batch_of(args: Sequence[Any], allowed: bool) -> Batch | None:
    """Return the batch that a script's arguments ask for, if any unit that is on does."""
    units = raw_units(args)
    if not all(isinstance(unit, Mapping) for unit in units):
        return None  # objects of other extensions have neither
    asked = any(unit.get("enabled") and (_has_folder(unit) or unit.get("loopback")) for unit in units)
    return Batch(units, allowed) if asked else None


def _has_folder(unit: Mapping[str, Any]) -> bool:
    """Return whether the page says so; clients of the API may send the mode without it, for a unit of one picture."""
    return unit.get("input_mode") == InputMode.BATCH.value and "batch_folder" in unit


def pictures_in(folder: str) -> Listing:
    """Return the pictures of a folder, frame2 before frame10, and what else is in it.

    UnitError if the folder does not exist, or has no pictures.
    """
    path = Path(folder.strip().strip('"'))
    if not folder.strip() or not path.is_dir():
        raise UnitError(f"the batch folder '{folder}' does not exist: name a folder of the server, or use Single Image")
    listing = list_pictures(path)
    if not listing.files:
        others = f": left out {listing.remark()}" if listing.left_out else ""
        raise UnitError(f"the batch folder '{folder}' has no pictures ({', '.join(suffixes())}){others}")
    return listing


def _remark(number: int, listing: Listing) -> str:
    used = "1 picture is" if len(listing.files) == 1 else f"{len(listing.files)} pictures are"
    return f"unit {number}: of its batch folder {used} used, and left out {listing.remark()}"
