"""How much of a picture has which colour, as an embedding: an image encoder without a network.

A histogram of RGB in 4 x 4 x 4 bins, in which every pixel counts for the eight nearest bins by its distance to each
(trilinearly), as the root of its shares: so its length is 1 and small patches count too. It says nothing of places.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# numpy declares some of its functions incompletely.

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from ...core.embedding import Embedding, Encoder, Values
from ..declaration import Output
from ..perform import Preprocessor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..resize import Image
else:
    from ..lazy import np

BINS = 4  # of each channel, from 0 to 255
WIDTH = BINS**3


def colours(images: Image) -> NDArray[np.float32]:
    """Return the histograms [B, 1, 64] of pictures [B, H, W, 3]."""
    return np.stack([_histogram(image) for image in images])[:, None]


def _histogram(image: Image) -> NDArray[np.float32]:
    places = image.reshape(-1, 3).astype(np.float64) * ((BINS - 1) / 255)
    low = np.minimum(places.astype(np.int64), BINS - 2)
    beyond = places - low
    counts = np.zeros(WIDTH)
    for corner in product((0, 1), repeat=3):
        shares = np.where(corner, beyond, 1 - beyond).prod(axis=1)
        bins = ((low + corner) * (BINS * BINS, BINS, 1)).sum(axis=1)
        counts += np.bincount(bins, weights=shares, minlength=WIDTH)
    return np.sqrt(counts / len(places)).astype(np.float32)


COLOURS = Preprocessor(
    id="colours",
    title="Colours of the picture",
    doc="How much of the picture has which colour, as one token of 64 numbers, for IP-Adapters trained with it. No "
    "network is needed.",
    run=colours,
    output=Output.EMBEDDING,
    embedding=Embedding(Encoder.COLOURS, Values.IMAGE),
    control_types=("IP-Adapter",),
    batchable=True,
    resizes=False,
)
