"""A request's units while they act: from the begin of its sampling to its end, whatever ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..host.unet.attachment import Attachment
from ..host.unet.denoiser import Denoising
from ..host.unet.tiles import Tiles


class Running:
    """What the WebUI's callbacks reach.

    The WebUI prints and drops what its callbacks raise, so an error is kept in `failure` too, for who can end the
    request with it.
    """

    def __init__(self, attachment: Attachment, denoising: Callable[[], Denoising], ended: Callable[[], None]) -> None:
        """denoising: returns what is known of the pass that is sampled now. ended: called once, at the end."""
        self._attachment, self._denoising, self._ended = attachment, denoising, ended
        self._over = False
        self.failure: Exception | None = None

    @property
    def tiles(self) -> Tiles | None:
        """Return where others say which parts of the picture they draw."""
        return self._attachment.tiles

    def begin(self) -> None:
        """Let the units act."""
        self._attachment.begin()

    def begin_pass(self) -> None:
        """Begin the sampling of a pass; one that comes after the end is another request's."""
        if not self._over:
            self._kept(self._attachment.begin_pass)

    def announce(self, rows: int, cond_rows: int, step: int, steps: int, denoiser: Any) -> None:
        """Begin an evaluation of the denoiser; a refiner may have put another U-Net in the place of the first."""
        self._kept(lambda: self._attachment.begin_evaluation(denoiser.inner_model))
        self._denoising().announce(rows, cond_rows, step, steps, getattr(denoiser, "sampler", None))

    def end(self) -> None:
        """Leave no trace; calling it again does nothing."""
        if not self._over:
            self._over = True
            try:
                self._attachment.end()
            finally:
                self._ended()

    def _kept(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self.failure = error
            raise
