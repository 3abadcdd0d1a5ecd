"""A preprocessor as programs call it: what is checked, how pictures become hints, and what a program brings for that.

Pictures are uint8 RGB, [H, W, 3] or [B, H, W, 3], from end to end; floats appear only inside. A batch is cut into
chunks that fit into memory; between two chunks the host hears of the progress and may interrupt.
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import HintError, MissingDependencyError, PreprocessorError
from .cache import ResultCache
from .declaration import MAX_PIXELS, RESOLUTION, Declaration
from .networks.network import Network, files_of, missing_packages
from .networks.pool import PlainManager, Pool
from .networks.store import Store, default_folder
from .resize import gray_to_rgb, pad_to_multiple, resize_mask, scale_short_side, scaled_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .poses.points import Poses
    from .resize import Image
else:
    from .lazy import np

CHUNK_PIXELS = 16_000_000  # of all pictures that a preprocessor without networks gets at once
SHARE = 0.5  # of free memory that one chunk may take; networks differ in what they need


def _nobody(_done: int, _total: int) -> None:
    return None


def _never() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a program brings to preprocessors: weights, loaded networks, a cache of results, progress, interruption.

    `progress(done, total)` counts pictures; `check_interrupt` raises the host's own interruption.
    """

    store: Store
    pool: Pool
    cache: ResultCache = field(default_factory=ResultCache)
    progress: Callable[[int, int], None] = _nobody
    check_interrupt: Callable[[], None] = _never

    def ready(self, network: Network) -> AbstractContextManager[object]:
        """Return a context in which the network is loaded and lies where it computes.

        MissingDependencyError if a package is not installed, PreprocessorError if a file is not there or damaged.
        """
        if reason := missing_packages([network]):
            raise MissingDependencyError(f"{network.id}: {reason}")
        return self.pool.ready(network, self.store)

    def pixels_at_once(self, preprocessor: Declaration) -> int:
        """Return how many pixels of pictures go through a preprocessor in one chunk."""
        if not preprocessor.networks:
            return CHUNK_PIXELS
        hungriest = max(network.memory for network in preprocessor.networks)
        return max(1, int(SHARE * self.pool.manager.free_memory() / hungriest))


@cache
def default_runtime() -> Runtime:
    """Return the runtime of this process: our own folder of weights, and the GPU if PyTorch has one."""
    return Runtime(store=Store(default_folder()), pool=Pool(PlainManager()))


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
        """Return the hint of uint8 RGB `image`, [H, W, 3] or a batch [B, H, W, 3], as a new array of that rank.

        mask: uint8 [h, w] or [B, h, w] of any size. resolution: None works at the picture's own size; a number scales
        the short side to so many pixels, and the long side with it (both rounded), and the result has that size.
        Source: `resize_image_with_pad` of sd-webui-controlnet. runtime: brings networks, progress, interruption and
        the cache of results; without one, networks run on `default_runtime()`.

        Raises HintError for what is no picture or mask, PreprocessorError for parameters that do not exist or are out
        of range, and for networks that are not there.
        """
        result = _hints(self, _checked(self, image, mask, resolution, seed, parameters), runtime)
        return result if image.ndim == 4 else result[0]

    def poses(
        self, image: Image, *, resolution: int | None = None, runtime: Runtime | None = None
    ) -> tuple[Poses, ...]:
        """Return everybody in each picture, on a canvas of the hint's size, for editors and JSON; nothing is cached.

        PreprocessorError if this preprocessor finds no poses; other errors as a call.
        """
        call = _checked(self, image, None, resolution, 0, {})
        if not self.finds_poses:
            raise PreprocessorError(f"{self.id} finds no poses: choose a preprocessor such as openpose")
        return tuple(pose for part in _by_chunks(self, call, runtime or default_runtime(), _found) for pose in part)

    def draw(self, poses: Poses, **parameters: object) -> Image:
        """Return the hint [height, width, 3] of poses that were found, edited or read; errors as `poses`."""
        if not self.finds_poses or self.finish is None:
            raise PreprocessorError(f"{self.id} draws no poses: choose a preprocessor such as openpose_full")
        canvas = np.zeros((poses.height, poses.width, 3), np.uint8)
        return self.finish(poses, canvas, **self.settings(parameters))

    def missing(self, runtime: Runtime | None = None) -> str:
        """Return why no unit can use it now (no hint, a package, a file), in a sentence; "" if one can."""
        if self.refusal or not self.networks:
            return self.refusal
        if packages := missing_packages(self.networks):
            return packages
        store = (runtime or default_runtime()).store
        return " ".join(store.how_to_get(file) for file in store.missing(self.networks))


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """What was asked for, checked: pictures [B, H, W, 3], their masks [B, H, W], the short side, the parameters."""

    batch: Image
    masks: Image | None
    resolution: int | None
    arguments: Mapping[str, Any]

    def part(self, rows: slice | Sequence[int]) -> _Call:
        """Return the same call for some of the pictures."""
        chosen = rows if isinstance(rows, slice) else list(rows)
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, batch=self.batch[chosen], masks=masks)

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width at which the preprocessor works, before padding."""
        own = (self.batch.shape[1], self.batch.shape[2])
        return own if self.resolution is None else scaled_size(own, self.resolution)


def _checked(
    preprocessor: Declaration,
    image: object,
    mask: object,
    resolution: int | None,
    seed: object,
    parameters: Mapping[str, object],
) -> _Call:
    """Return what was asked for; HintError and PreprocessorError as a call of the preprocessor says."""
    if preprocessor.absent:
        raise PreprocessorError(f"{preprocessor.id}: {preprocessor.absent}")
    pixels = _checked_image(image, preprocessor.id)
    arguments: dict[str, Any] = preprocessor.settings(parameters)
    if not preprocessor.deterministic:
        arguments["seed"] = _checked_seed(seed, preprocessor.id)
    batch = pixels if pixels.ndim == 4 else pixels[None]
    side = None
    if resolution is not None and preprocessor.resizes:
        side = int(RESOLUTION.check(resolution, preprocessor.id))
    call = _Call(batch, _checked_masks(mask, batch, preprocessor), side, arguments)
    height, width = call.size
    if side is not None and height * width > MAX_PIXELS:
        raise PreprocessorError(
            f"{preprocessor.id}: at resolution {side} a picture of {batch.shape[2]}x{batch.shape[1]} becomes "
            f"{width}x{height}, more than {MAX_PIXELS // 10**6} megapixels: choose a smaller resolution"
        )
    return call


def _checked_image(image: object, owner: str) -> Image:
    """Return the picture or batch; HintError for anything else."""
    expected = "a uint8 RGB picture [H, W, 3] or a batch of them [B, H, W, 3]"
    if not isinstance(image, np.ndarray):
        raise HintError(f"{owner}: expected {expected} as a numpy array, got {type(image).__name__}")
    array = cast("NDArray[Any]", image)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise HintError(f"{owner}: expected {expected}, got {array.dtype} {list(array.shape)}")
    return array


def _checked_masks(mask: object, batch: Image, preprocessor: Declaration) -> Image | None:
    """Return the masks [B, H, W] of a batch, 0 or 255, at the pictures' size; None where none is taken."""
    owner = preprocessor.id
    if not preprocessor.takes_mask:
        if mask is not None:
            raise HintError(f"{owner} takes no mask: leave it out, or choose an inpaint preprocessor")
        return None
    expected = "a uint8 mask [H, W], or one for each picture [B, H, W], 255 where the model is to invent"
    if mask is None:
        raise HintError(
            f"{owner} needs {expected}, got none: give an inpaint mask (inpaint=FILE in a unit of the command line, "
            "--mask of `preprocess`); the effect mask of a unit is another one, and says where it acts"
        )
    if not isinstance(mask, np.ndarray):
        raise HintError(f"{owner} needs {expected}, got {type(mask).__name__}")
    array = cast("NDArray[Any]", mask)
    counts = ((), (1,), (batch.shape[0],))
    if array.dtype != np.uint8 or array.ndim < 2 or 0 in array.shape or array.shape[:-2] not in counts:
        raise HintError(f"{owner}: expected {expected}, got {array.dtype} {list(array.shape)}")
    rows = array if array.ndim == 3 else array[None]
    scaled = np.stack([resize_mask(row, (batch.shape[1], batch.shape[2])) for row in rows])
    return np.broadcast_to(scaled, batch.shape[:3])


def _checked_seed(seed: object, owner: str) -> int:
    """Return the seed as an int; PreprocessorError unless it is a whole number from 0 on."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or int(seed) < 0:  # pyright: ignore[reportArgumentType]
        raise PreprocessorError(f"{owner}: the seed is {seed!r}; it must be a whole number from 0 on")
    return int(seed)  # pyright: ignore[reportArgumentType]


def _hints(preprocessor: Declaration, call: _Call, runtime: Runtime | None) -> Image:
    """Return the hints of a call, [B, h, w, C], in memory of their own."""
    if runtime is None and preprocessor.networks:
        runtime = default_runtime()
    if runtime is None:
        result = _join([_chunk(preprocessor, part, ()) for part, _ in _parts(call, CHUNK_PIXELS)])
    else:
        result = _cached(preprocessor, call, runtime)
    return np.array(result) if np.may_share_memory(result, call.batch) else np.ascontiguousarray(result)


def _cached(preprocessor: Declaration, call: _Call, runtime: Runtime) -> Image:
    """Return the hints of a call: those that the runtime remembers, and the others made now."""
    weights = [runtime.store.identity(file) for file in files_of(preprocessor.networks)]
    settings = sorted(call.arguments.items())
    about = repr((preprocessor.id, preprocessor.version, call.resolution, settings, weights)).encode()

    def make(rows: Sequence[int]) -> Image:
        part = call if len(rows) == len(call.batch) else call.part(rows)
        return _join(list(_by_chunks(preprocessor, part, runtime, _chunk)))

    return runtime.cache.through(about, call.batch, call.masks, make)


def _by_chunks(
    preprocessor: Declaration, call: _Call, runtime: Runtime, do: Callable[[Declaration, _Call, Sequence[object]], Any]
) -> Iterator[Any]:
    """Yield the result of `do` for each chunk, with the networks loaded; the host hears of it, and may interrupt."""
    with ExitStack() as stack:
        runtime.check_interrupt()
        loaded = [stack.enter_context(runtime.ready(network)) for network in preprocessor.networks]
        for part, done in _parts(call, runtime.pixels_at_once(preprocessor)):
            runtime.check_interrupt()
            yield do(preprocessor, part, loaded)
            runtime.progress(done, len(call.batch))


def _parts(call: _Call, pixels: int) -> Iterator[tuple[_Call, int]]:
    """Yield the call in chunks of at most so many pixels, and how many pictures are done after each."""
    height, width = call.size
    count = max(1, pixels // (height * width))
    for start in range(0, len(call.batch), count):
        stop = min(start + count, len(call.batch))
        yield call.part(slice(start, stop)), stop


def _join(results: Sequence[Image]) -> Image:
    return results[0] if len(results) == 1 else np.concatenate(results)


def _chunk(preprocessor: Declaration, call: _Call, networks: Sequence[object]) -> Image:
    """Return the hints of one chunk, [B, h, w, C]."""
    plain = _scaled(call)
    padded = _padded(preprocessor, plain)
    hints = _run(preprocessor, padded, networks)
    height, width = plain.batch.shape[1:3]
    if padded.batch.shape != plain.batch.shape:
        hints = hints[:, :height, :width]
    if preprocessor.finish is None:
        return np.ascontiguousarray(hints)
    pairs = zip(hints, plain.batch, strict=True)
    return np.stack([_colour(preprocessor.finish(hint, image, **call.arguments), 3) for hint, image in pairs])


def _found(preprocessor: Declaration, call: _Call, networks: Sequence[object]) -> Sequence[Poses]:
    return _run(preprocessor, _padded(preprocessor, _scaled(call)), networks)


def _scaled(call: _Call) -> _Call:
    """Return the call with its pictures and masks at the size at which the preprocessor works."""
    batch, masks = np.ascontiguousarray(call.batch), call.masks
    if call.resolution is not None:
        batch = np.stack([scale_short_side(image, call.resolution) for image in batch])
        masks = None if masks is None else np.stack([resize_mask(mask, call.size) for mask in masks])
    return replace(call, batch=batch, masks=masks)


def _padded(preprocessor: Declaration, call: _Call) -> _Call:
    """Return the call with its edges padded; networks need whole cells even without a resolution."""
    if call.resolution is None and not preprocessor.networks:
        return call
    batch = np.stack([pad_to_multiple(image, preprocessor.pad) for image in call.batch])
    masks = None if call.masks is None else np.stack([pad_to_multiple(mask, preprocessor.pad) for mask in call.masks])
    return replace(call, batch=batch, masks=masks)


def _run(preprocessor: Declaration, call: _Call, networks: Sequence[object]) -> Any:
    """Return what `run` makes of the batch, at once or picture by picture; equal channels are made three."""
    if preprocessor.batchable:
        given = {} if call.masks is None else {"mask": call.masks}
        return _colour(preprocessor.run(call.batch, *networks, **given, **call.arguments), 4)
    results = _one_by_one(preprocessor, call, networks)
    return _colour(next(results), 3)[None] if len(call.batch) == 1 else _gathered(results, len(call.batch))


def _one_by_one(preprocessor: Declaration, call: _Call, networks: Sequence[object]) -> Iterator[Any]:
    for row, image in enumerate(call.batch):
        given = {} if call.masks is None else {"mask": call.masks[row]}
        yield preprocessor.run(image, *networks, **given, **call.arguments)


def _gathered(results: Iterator[Any], count: int) -> Any:
    """Return pictures as one batch, each written to its place as it comes: a second copy would cost more than Canny."""
    batch: Any = None
    for row, result in enumerate(results):
        gray = result.ndim == 2 and result.dtype == np.uint8
        if batch is None:
            batch = np.empty((count, *result.shape, *((3,) if gray else ())), result.dtype)
        if gray:
            gray_to_rgb(result, into=batch[row])
        else:
            batch[row] = result
    return batch


def _colour(result: Any, rank: int) -> Any:
    """Return the result with three channels, unless it has channels or is not yet a picture."""
    if not isinstance(result, np.ndarray):
        return result
    pixels = cast("NDArray[Any]", result)
    if pixels.ndim == rank or pixels.dtype != np.uint8:
        return pixels
    return gray_to_rgb(pixels) if rank == 3 else np.stack([gray_to_rgb(each) for each in pixels])
