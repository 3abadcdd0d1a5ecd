"""A batch inside the host: what each of the script's hooks does with it."""

# pyright: reportMissingImports=false
# The host's own modules exist only inside it.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....core.errors import ControlError
from ....units.webui.fields import UnitArgs
from .batch import Batch, batch_of
from .saying import warn
from .services import services


class Batches:
    """The batch of one request; most requests have none."""

    def __init__(self, p: Any, args: Sequence[Any]) -> None:
        """Set the count of batches before the host counts its pictures; errors wait, since the host drops them here."""
        from modules import shared

        self._error: ControlError | None = None
        self._batch: Batch | None = None
        allowed = not getattr(p, "is_api", False) and not shared.cmd_opts.hide_ui_dir_config
        try:
            self._batch = batch_of(args, allowed)
        except ControlError as error:
            self._error = error
        if self.count is not None:
            p.n_iter = self.count
            p.do_not_save_samples = p.do_not_save_samples or self._output is not None
        for remark in () if self._batch is None else self._batch.remarks:
            warn(p, remark)

    @property
    def count(self) -> int | None:
        """Return how many pictures the folders ask for."""
        return None if self._batch is None else self._batch.count

    @property
    def changes(self) -> bool:
        """Return whether each of the host's batches has other units."""
        return self._batch is not None

    def units(self, number: int, otherwise: Callable[[], list[UnitArgs]]) -> list[UnitArgs]:
        """Return the units for the host's batch `number`."""
        if self._error is not None:
            raise self._error
        return otherwise() if self._batch is None else self._batch.units(number, services().program.basis)

    def fix_seeds(self, p: Any) -> None:
        """Give all pictures of a folder the same seeds, unless the settings say otherwise."""
        if self.count is None or services().program.option("controlnet_increment_seed_during_batch", False):
            return
        for seeds in (p.all_seeds, p.all_subseeds):
            seeds[:] = [seeds[index % p.batch_size] for index in range(len(seeds))]

    def finished(self, pictures: Any) -> None:
        """Keep the first picture of a batch that the host has drawn, float [B, 3, H, W]."""
        if self._batch is not None:
            self._batch.remember(pictures[0])

    def save(self, p: Any, picture: Any) -> None:
        """Write a result into the output folder, if one is named."""
        if self._batch is None or self._output is None or self.count is None:
            return
        from modules import images, processing, shared

        text = processing.create_infotext(
            p, p.prompts, p.seeds, p.subseeds, index=p.batch_index, all_negative_prompts=p.negative_prompts
        )
        name = self._batch.name(p.iteration, p.batch_index)
        images.save_image(
            picture, str(self._output), "", extension=shared.opts.samples_format, info=text, p=p,
            forced_filename=name, save_to_dirs=False,
        )  # fmt: skip

    @property
    def _output(self) -> Any:
        return None if self._batch is None else self._batch.output
