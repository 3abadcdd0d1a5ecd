"""A preprocessor: a declaration beside its code, and the one way of calling it.

Pictures are uint8 RGB, [H, W, 3] or [B, H, W, 3], from end to end; floats appear only inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import PreprocessorError
from .call import MAX_PIXELS, Call, check_image, check_mask, check_present, check_seed
from .calling import find_poses, perform
from .declaration import PAD, RESOLUTION, Declaration, Output, Parameter, nearest
from .networks.network import missing_packages

if TYPE_CHECKING:
    from .poses.points import Poses
    from .resize import Image
    from .runtime import Runtime

__all__ = ["MAX_PIXELS", "PAD", "RESOLUTION", "Image", "Output", "Parameter", "Preprocessor", "nearest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessor(Declaration):
    """Photograph -> hint: what is declared, and how it is called."""

    def __call__(
        self,
        image: Image,
        *,
        mask: Image | None = None,
        resolution: int | None = None,
        seed: int = 0,
        runtime: Runtime | None = None,
        **parameters: object,
    ) -> Image:
        """The hint of uint8 RGB `image`, [H, W, 3] or a batch [B, H, W, 3]; the result is a new array of that rank.

        `resolution` None works at the picture's own size. A number scales the short side to so many pixels, and the
        long side with it (both rounded): the result has that size. Source: `resize_image_with_pad` of
        sd-webui-controlnet. `mask` is uint8 [h, w] or [B, h, w] of any size. `runtime` brings networks, progress,
        interruption and the cache of results; without one, networks run on `runtime.standalone()`.

        Raises HintError for what is no picture or mask, PreprocessorError for parameters that do not exist or are out
        of range, and for networks that are not there.
        """
        check_present(self)
        check_image(image, self.id)
        arguments: dict[str, Any] = self.settings(parameters)
        if not self.deterministic:
            arguments["seed"] = check_seed(seed, self.id)
        batch = image if image.ndim == 4 else image[None]
        size = None if resolution is None or not self.resizes else int(RESOLUTION.check(resolution, self.id))
        masks = check_mask(mask, batch, self)
        result = perform(self, Call(batch, masks, size, arguments), runtime)
        return result if image.ndim == 4 else result[0]

    def poses(
        self, image: Image, *, resolution: int | None = None, runtime: Runtime | None = None
    ) -> tuple[Poses, ...]:
        """Everybody in each picture, on a canvas of the hint's size, for editors and JSON; nothing is cached.

        PreprocessorError unless this one finds poses; else like a call.
        """
        check_present(self)
        check_image(image, self.id)
        if not self.finds_poses:
            raise PreprocessorError(f"{self.id} finds no poses: choose a preprocessor such as openpose")
        batch = image if image.ndim == 4 else image[None]
        size = None if resolution is None else int(RESOLUTION.check(resolution, self.id))
        return find_poses(self, Call(batch, None, size, self.settings({})), runtime)

    def draw(self, poses: Poses, **parameters: object) -> Image:
        """The hint [height, width, 3] of poses that were found, edited or read; errors as `poses`."""
        if not self.finds_poses or self.finish is None:
            raise PreprocessorError(f"{self.id} draws no poses: choose a preprocessor such as openpose_full")
        import numpy as np

        canvas = np.zeros((poses.height, poses.width, 3), np.uint8)
        return self.finish(poses, canvas, **self.settings(parameters))

    def missing(self, runtime: Runtime | None = None) -> str:
        """Why it cannot run now (an entry that is absent, a package, a file), in a sentence; empty if it can."""
        if self.absent or not self.networks:
            return self.absent
        if packages := missing_packages(self.networks):
            return packages
        from .runtime import standalone

        store = (runtime or standalone()).store
        return " ".join(store.how_to_get(file) for file in store.missing(self.networks))
