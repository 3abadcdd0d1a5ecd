"""The histogram of colours: shares of bins, by distance, whatever the picture's size and places."""

from __future__ import annotations

import numpy as np
import pytest
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.preprocessors import encoding, find
from controlstack.preprocessors.encoders.colours import BINS, WIDTH


def bins(image: np.ndarray) -> np.ndarray:
    """The shares of the bins, [4, 4, 4]."""
    return np.square(find("colours")(image)).reshape(BINS, BINS, BINS)


def flat(*colour: int) -> np.ndarray:
    return np.full((6, 5, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("colour", "place"), [((0, 0, 0), (0, 0, 0)), ((255, 0, 85), (3, 0, 1)), ((170, 255, 255), (2, 3, 3))]
)
def test_a_colour_of_a_bin_counts_there_alone(colour: tuple[int, ...], place: tuple[int, ...]) -> None:
    found = bins(flat(*colour))
    assert found[place] == pytest.approx(1)
    assert found.sum() == pytest.approx(1)


def test_a_colour_between_bins_counts_for_both_by_its_distance() -> None:
    found = bins(flat(85 + 17, 0, 0))  # a fifth of the way from the second to the third bin of red
    assert found[1, 0, 0] == pytest.approx(0.8, abs=1e-6)
    assert found[2, 0, 0] == pytest.approx(0.2, abs=1e-6)


def test_shares_are_those_of_pixels_and_places_do_not_count() -> None:
    image = np.concatenate([np.repeat(flat(255, 0, 0), 3, axis=0), flat(0, 0, 255)])
    found = bins(image)
    assert found[3, 0, 0] == pytest.approx(0.75)
    assert found[0, 0, 3] == pytest.approx(0.25)
    assert np.allclose(bins(image[::-1, ::-1].copy()), found)


def test_a_batch_is_its_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), np.uint8)
    found = find("colours")(images)
    assert found.shape == (3, 1, WIDTH)
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    assert all(np.array_equal(find("colours")(image), found[row]) for row, image in enumerate(images))


def test_it_is_the_encoder_of_its_embedding() -> None:
    assert encoding(Embedding(Encoder.COLOURS, Values.IMAGE)).id == "colours"
