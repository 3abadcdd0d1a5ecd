"""How a call of a preprocessor is carried out: the size rule, chunks, and the cache of results.

A declaration says what a preprocessor is; here is what happens between a picture and its hint. A batch is cut into
chunks that fit into memory; between two chunks the host hears of the progress and may interrupt.
"""

# pyright: reportUnknownMemberType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import PreprocessorError
from .call import CHUNK_PIXELS, MAX_PIXELS, Call
from .declaration import Declaration
from .networks.network import files_of
from .resize import gray_to_rgb, pad_to_multiple, resize_mask, scale_short_side, scaled_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .poses.points import Poses
    from .resize import Image
    from .runtime import Runtime
else:
    from .lazy import np


def perform(preprocessor: Declaration, call: Call, runtime: Runtime | None) -> Image:
    """The hints of a call, [B, h, w, C], in memory of their own."""
    if runtime is None and preprocessor.networks:
        from .runtime import standalone

        runtime = standalone()
    if runtime is None:
        result = _join([_chunk(preprocessor, part, ()) for part, _ in _parts(call, CHUNK_PIXELS)])
    else:
        weights = [runtime.store.identity(file) for file in files_of(preprocessor.networks)]
        result = runtime.cache.through(preprocessor, call, _with(preprocessor, runtime), weights)
    return np.array(result) if np.may_share_memory(result, call.batch) else np.ascontiguousarray(result)


def find_poses(preprocessor: Declaration, call: Call, runtime: Runtime | None) -> tuple[Poses, ...]:
    """What a preprocessor that finds poses would draw, one for each picture."""
    if runtime is None:
        from .runtime import standalone

        runtime = standalone()
    return tuple(pose for part in _chunks(preprocessor, call, runtime, _found) for pose in part)


def _with(preprocessor: Declaration, runtime: Runtime) -> Callable[[Call], Image]:
    """What makes hints with the networks of a runtime, chunk by chunk."""
    return lambda call: _join(list(_chunks(preprocessor, call, runtime, _chunk)))


def _chunks(
    preprocessor: Declaration, call: Call, runtime: Runtime, do: Callable[[Declaration, Call, Sequence[object]], Any]
) -> Iterator[Any]:
    """The results of some work on each chunk, with the networks loaded; the host hears of it, and may interrupt."""
    with ExitStack() as stack:
        runtime.check_interrupt()
        loaded = [stack.enter_context(runtime.ready(network)) for network in preprocessor.networks]
        for part, done in _parts(call, runtime.pixels_at_once(preprocessor)):
            runtime.check_interrupt()
            yield do(preprocessor, part, loaded)
            runtime.progress(done, len(call.batch))


def _parts(call: Call, pixels: int) -> Iterator[tuple[Call, int]]:
    """The call in chunks of at most so many pixels, and how many pictures are done after each."""
    height, width = _run_size(call)
    count = max(1, pixels // (height * width))
    for start in range(0, len(call.batch), count):
        stop = min(start + count, len(call.batch))
        yield call.part(slice(start, stop)), stop


def _join(results: Sequence[Image]) -> Image:
    return results[0] if len(results) == 1 else np.concatenate(results)


def _run_size(call: Call) -> tuple[int, int]:
    size = (call.batch.shape[1], call.batch.shape[2])
    return size if call.resolution is None else scaled_size(size, call.resolution)


def _chunk(preprocessor: Declaration, call: Call, networks: Sequence[object]) -> Image:
    """The hints of one chunk, [B, h, w, C]."""
    plain, padded = _prepared(preprocessor, call)
    hints = _run(preprocessor, padded, networks)
    height, width = plain.batch.shape[1:3]
    if padded.batch.shape != plain.batch.shape:
        hints = hints[:, :height, :width]
    if preprocessor.finish is None:
        return np.ascontiguousarray(hints)
    pairs = zip(hints, plain.batch, strict=True)
    return np.stack([_colour(preprocessor.finish(hint, image, **call.arguments), 3) for hint, image in pairs])


def _found(preprocessor: Declaration, call: Call, networks: Sequence[object]) -> Sequence[Poses]:
    return _run(preprocessor, _prepared(preprocessor, call)[1], networks)


def _prepared(preprocessor: Declaration, call: Call) -> tuple[Call, Call]:
    """The chunk at the wanted size, and with its edges padded; networks need whole cells even without a resolution."""
    height, width = _run_size(call)
    if height * width > MAX_PIXELS:
        raise PreprocessorError(
            f"{preprocessor.id}: at resolution {call.resolution} a picture of {call.batch.shape[2]}x"
            f"{call.batch.shape[1]} becomes {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels: "
            "choose a smaller resolution"
        )
    batch, masks = np.ascontiguousarray(call.batch), call.masks
    if call.resolution is not None:
        batch = np.stack([scale_short_side(image, call.resolution) for image in batch])
        masks = None if masks is None else np.stack([resize_mask(mask, (height, width)) for mask in masks])
    plain = replace(call, batch=batch, masks=masks)
    if call.resolution is None and not preprocessor.networks:
        return plain, plain
    batch = np.stack([pad_to_multiple(image, preprocessor.pad) for image in batch])
    masks = None if masks is None else np.stack([pad_to_multiple(mask, preprocessor.pad) for mask in masks])
    return plain, replace(call, batch=batch, masks=masks)


def _run(preprocessor: Declaration, call: Call, networks: Sequence[object]) -> Any:
    """`run` on a batch or picture by picture; equal channels are made three."""
    if preprocessor.batchable:
        given = {} if call.masks is None else {"mask": call.masks}
        return _colour(preprocessor.run(call.batch, *networks, **given, **call.arguments), 4)
    results = _one_by_one(preprocessor, call, networks)
    return _colour(next(results), 3)[None] if len(call.batch) == 1 else _gathered(results, len(call.batch))


def _one_by_one(preprocessor: Declaration, call: Call, networks: Sequence[object]) -> Iterator[Any]:
    for row, image in enumerate(call.batch):
        given = {} if call.masks is None else {"mask": call.masks[row]}
        yield preprocessor.run(image, *networks, **given, **call.arguments)


def _gathered(results: Iterator[Any], count: int) -> Any:
    """Pictures as one batch, each written to its place as it comes: a second copy of all would cost more than Canny."""
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
    """Three channels, unless it has channels or is not yet a picture."""
    if not isinstance(result, np.ndarray):
        return result
    pixels = cast("NDArray[Any]", result)
    if pixels.ndim == rank or pixels.dtype != np.uint8:
        return pixels
    return gray_to_rgb(pixels) if rank == 3 else np.stack([gray_to_rgb(each) for each in pixels])
