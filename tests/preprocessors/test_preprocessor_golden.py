"""Every preprocessor against its formula, written a second time here in numpy, scipy, scikit-image or plain cv2."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from controlstack.core.errors import PreprocessorError
from controlstack.preprocessors import REGISTRY, find
from controlstack.preprocessors.pictures.inpaint import invented
from scipy import ndimage
from skimage import color, data, filters

ODD = (511, 513)
PHOTOS: dict[str, Callable[[], np.ndarray]] = {
    "astronaut": data.astronaut,
    "coffee": lambda: data.coffee()[: ODD[0], : ODD[1]],
    "chelsea": data.chelsea,
}
photos = pytest.mark.parametrize("photo", PHOTOS, indirect=True)


@pytest.fixture
def photo(request: pytest.FixtureRequest) -> np.ndarray:
    return np.ascontiguousarray(PHOTOS[request.param]())


def gaussian(image: np.ndarray, sigma: float, truncate: float = 4.0) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="mirror", truncate=truncate)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_every_preprocessor_has_a_golden_test() -> None:
    tested = {name.removeprefix("test_golden_") for name in globals() if name.startswith("test_golden_")}
    pictures = [each for each in REGISTRY if not each.networks and not each.by_model and each.embedding is None]
    assert tested == {each.id.replace("+", "_") for each in pictures}


@photos
def test_golden_none(photo: np.ndarray) -> None:
    assert np.array_equal(find("none")(photo), photo)


@photos
def test_golden_normal_opengl(photo: np.ndarray) -> None:
    expected = photo * np.array([-1, 1, 1]) + np.array([255, 0, 0])
    assert np.array_equal(find("normal_opengl")(photo), expected)
    right, up, front = [255, 128, 128], [128, 255, 128], [128, 128, 255]
    hint = find("normal_opengl")(np.array([[right, up, front]], np.uint8))
    assert difference(hint, np.array([[[0, 128, 128], up, front]])) <= 1  # red is left, green is up


@photos
def test_golden_normal_directx(photo: np.ndarray) -> None:
    expected = photo * np.array([-1, -1, 1]) + np.array([255, 255, 0])
    assert np.array_equal(find("normal_directx")(photo), expected)


@photos
def test_golden_invert(photo: np.ndarray) -> None:
    assert np.array_equal(find("invert")(photo).astype(int) + photo, np.full(photo.shape, 255))


@photos
@pytest.mark.parametrize(("low", "high"), [(100, 200), (20, 60)])
def test_golden_canny(photo: np.ndarray, low: int, high: int) -> None:
    """The channel with the strongest gradient decides, pixel by pixel."""
    padded = np.pad(photo, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int16)
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx, dy = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    strongest = (np.abs(dx) + np.abs(dy)).argmax(axis=2)[..., None]
    dx, dy = (np.take_along_axis(each, strongest, axis=2)[..., 0] for each in (dx, dy))
    expected = cv2.Canny(np.ascontiguousarray(dx), np.ascontiguousarray(dy), low, high)
    assert np.array_equal(find("canny")(photo, low=low, high=high)[..., 0], expected)
    assert not np.array_equal(cv2.Canny(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), low, high), expected)


@photos
def test_golden_pyracanny(photo: np.ndarray) -> None:
    """Written over levels and percentiles of a sum of maps, as Fooocus does it channel by channel."""
    height, width = photo.shape[:2]
    levels = []
    for channel in range(3):
        total = None
        for scale in (0.2, 0.4, 0.6, 0.8, 1.0):
            size = int(width * scale), int(height * scale)
            small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)[..., channel]
            edges = cv2.Canny(np.ascontiguousarray(small), 64, 128).astype(np.float32) / 255
            total = edges if total is None else cv2.resize(total, size) * 0.75 + edges * 0.25
        levels.append(total)
    summed = np.sum(levels, axis=0)
    low, high = np.percentile(summed, (1, 99))
    expected = ((summed - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    assert difference(find("pyracanny")(photo)[..., 0], expected) <= 1


def test_pyracanny_of_nothing_is_black() -> None:
    assert find("pyracanny")(np.full((40, 40, 3), 200, np.uint8)).max() == 0


@photos
def test_golden_binary(photo: np.ndarray) -> None:
    gray = np.rint(photo @ np.array([0.299, 0.587, 0.114]))
    for threshold in (50, 100):
        differing = (find("binary")(photo, threshold=threshold)[..., 0] == 255) != (gray <= threshold)
        assert differing.mean() < 0.01  # cv2 rounds its own weights
    found = filters.threshold_otsu(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
    for automatic in (0, 255):
        assert np.array_equal(
            find("binary")(photo, threshold=automatic)[..., 0] == 255, cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY) <= found
        )


def test_ink_on_paper_becomes_white_on_black() -> None:
    drawing = np.full((40, 40, 3), 250, np.uint8)
    drawing[10:12] = 30
    hint = find("binary")(drawing)
    assert hint[10:12].min() == 255
    assert np.delete(hint, (10, 11), axis=0).max() == 0


@photos
def test_golden_gray(photo: np.ndarray) -> None:
    assert difference(find("gray")(photo)[..., 0], np.rint(photo @ np.array([0.299, 0.587, 0.114]))) <= 1


@photos
@pytest.mark.parametrize("threshold", [0, 127, 254])
def test_golden_threshold(photo: np.ndarray, threshold: int) -> None:
    hint = find("threshold")(photo, threshold=threshold)
    assert np.array_equal(hint[..., 0] == 255, photo.min(axis=2) > threshold)


@photos
@pytest.mark.parametrize("threshold", [1, 32, 33, 64])
def test_golden_scribble_xdog(photo: np.ndarray, threshold: int) -> None:
    dog = np.clip(255 - (gaussian(photo, 5) - gaussian(photo, 0.5)).min(axis=2), 0, 255).astype(np.uint8)
    expected = 2 * (255 - dog.astype(int)) > threshold
    differing = (find("scribble_xdog")(photo, threshold=threshold)[..., 0] == 255) != expected
    assert differing.mean() < 2e-4  # ties, which float32 and float64 break differently


def test_xdog_keeps_the_strongest_strokes() -> None:
    """A difference from 128 levels on wraps in uint8 arithmetic, and such strokes vanish from the peers' maps."""
    drawing = np.full((64, 64, 3), 255, np.uint8)
    drawing[31:35] = 0
    dog = np.clip(255 - (gaussian(drawing, 5) - gaussian(drawing, 0.5)).min(axis=2), 0, 255).astype(np.uint8)
    wrapped = (2 * (255 - dog)).astype(np.uint8) > 64
    hint = find("scribble_xdog")(drawing, threshold=64)[..., 0]
    assert hint[31:35].min() == 255
    assert not wrapped[31:35].all()


@photos
@pytest.mark.parametrize(("sigma", "threshold"), [(6.0, 8), (2.0, 30)])
def test_golden_lineart_standard(photo: np.ndarray, sigma: float, threshold: int) -> None:
    darker = (gaussian(photo, sigma) - photo).min(axis=2).clip(0, 255)
    typical = max(16, np.median(darker[darker > threshold]))
    expected = (darker / typical * 127).clip(0, 255).astype(np.uint8)
    assert difference(find("lineart_standard")(photo, sigma=sigma, threshold=threshold)[..., 0], expected) <= 1


def test_line_art_of_nothing_is_black() -> None:
    assert find("lineart_standard")(np.full((40, 40, 3), 200, np.uint8)).max() == 0


def test_padding_stays_out_of_the_median_of_line_art() -> None:
    """Right beside a multiple of 64, the repeated edge would hold half of all strokes."""
    drawing = np.full((130, 130, 3), 255, np.uint8)
    drawing[::8] = 200
    drawing[:, -3:] = 0
    padded = np.pad(drawing, ((0, 62), (0, 62), (0, 0)), mode="edge")
    lineart = find("lineart_standard")
    assert np.array_equal(lineart(drawing, resolution=130), lineart(drawing))
    assert difference(lineart(padded)[:130, :130], lineart(drawing)) > 10


@photos
@pytest.mark.parametrize("sigma", [1.0, 9.0])
def test_golden_blur_gaussian(photo: np.ndarray, sigma: float) -> None:
    expected = np.rint(gaussian(photo, sigma, truncate=3.0))
    assert difference(find("blur_gaussian")(photo, sigma=sigma), expected) <= 1


def test_repeated_edges_do_not_enter_a_blurred_border() -> None:
    """The padding is removed before (`blur_gaussian` of sd-webui-controlnet): beyond the border is its mirror image."""
    picture = data.astronaut()[:130, 200:330]
    blur = find("blur_gaussian")
    assert np.array_equal(blur(picture, resolution=130), blur(picture))


@pytest.mark.parametrize("rate", [2, 4, 8])
def test_golden_tile_resample(rate: int) -> None:
    photo = data.astronaut()
    side = 512 // rate
    means = photo.reshape(side, rate, side, rate, 3).mean(axis=(1, 3))
    expected = cv2.resize(np.rint(means).astype(np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
    assert difference(find("tile_resample")(photo, rate=rate), expected) <= 2
    assert np.array_equal(find("tile_resample")(photo, rate=1.09), photo)


@photos
def test_golden_tile_colorfix(photo: np.ndarray) -> None:
    assert np.array_equal(find("tile_colorfix")(photo, variation=3), photo)


@photos
def test_golden_tile_colorfix_sharp(photo: np.ndarray) -> None:
    assert np.array_equal(find("tile_colorfix+sharp")(photo, sharpness=2), photo)


@photos
def test_golden_tile_guided(photo: np.ndarray) -> None:
    """Each window is fitted by a line in the guide, and the fits are averaged."""
    hint = find("tile_guided")(photo, scale=1, blur=0, radius=4, softness=0.02)

    def box(image: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(image, (9, 9, 0), mode="nearest")

    guide = photo / 255
    covariance = box(guide * guide) - box(guide) ** 2
    slope = covariance / (covariance + 0.02)
    expected = box(slope) * guide + box(box(guide) - slope * box(guide))
    assert difference(hint, np.rint(expected.clip(0, 1) * 255)) <= 1


def rectangle(photo: np.ndarray) -> np.ndarray:
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[40:90, 30:200] = 255
    return mask


@photos
def test_golden_inpaint_global_harmonious(photo: np.ndarray) -> None:
    mask = rectangle(photo)
    hint = find("inpaint_global_harmonious")(photo, mask=mask)
    assert np.array_equal(hint, np.dstack([photo, mask]))


@photos
def test_what_is_to_be_invented_is_minus_one(photo: np.ndarray) -> None:
    hint = find("inpaint_only")(photo, mask=rectangle(photo))
    floats = invented(hint)
    assert floats.dtype == np.float32 and floats.shape == photo.shape
    assert (floats[40:90, 30:200] == -1).all()
    assert np.allclose(floats[100:], photo[100:] / 255)
    batch = invented(np.stack([hint, hint[::-1]]))
    assert np.array_equal(batch, np.stack([floats, floats[::-1]]))


def test_a_pixel_is_to_be_invented_from_half_a_mask_on() -> None:
    hint = np.array([[[51, 0, 255, alpha] for alpha in (0, 1, 127, 128, 255)]], np.uint8)
    kept, gone = [np.float32(0.2), 0, 1], [-1, -1, -1]
    assert np.array_equal(invented(hint)[0], np.array([kept, kept, kept, gone, gone], np.float32))
    assert np.array_equal(invented(hint[..., :3])[0], np.array([kept] * 5, np.float32))


def test_outpainting_invents_the_margins_and_a_seam() -> None:
    hint = find("outpaint")(np.full((512, 512, 3), 77, np.uint8))
    share = (invented(hint) == -1).all(axis=-1).mean()
    assert hint.shape == (640, 640, 4)
    assert round(float(share), 3) == 0.419  # all of (640² - 512²) / 640² = 0.36, and what is feathered over a half


@photos
def test_golden_inpaint_only(photo: np.ndarray) -> None:
    mask = rectangle(photo) // 2 + 1  # 128 is set, 1 is not
    hint = find("inpaint_only")(photo, mask=mask)
    assert np.array_equal(hint, np.dstack([photo, rectangle(photo)]))


@photos
def test_golden_inpaint_black(photo: np.ndarray) -> None:
    expected = photo.copy()
    expected[40:90, 30:200] = 0
    assert np.array_equal(find("inpaint_black")(photo, mask=rectangle(photo)), expected)


@photos
def test_golden_mask(photo: np.ndarray) -> None:
    mask = rectangle(photo)
    assert np.array_equal(find("mask")(photo, mask=mask)[..., 0], mask)
    grown = find("mask")(photo, mask=mask, grow=5)[..., 0]
    rows, columns = np.ogrid[-5:6, -5:6]
    disk = rows**2 + columns**2 <= 25
    assert np.array_equal(grown[35:95, 60:150], ndimage.binary_dilation(mask, disk)[35:95, 60:150] * np.uint8(255))
    soft = find("mask")(photo, mask=mask, blur=4)[..., 0]
    assert difference(soft, gaussian(mask[..., None], 4, truncate=3.0)[..., 0]) <= 2


@photos
def test_golden_outpaint(photo: np.ndarray) -> None:
    """Soft by the square of the distance to the nearest margin, counted from 0."""
    hint = find("outpaint")(photo, left=16, top=8, right=0, bottom=0, feather=10)
    height, width = photo.shape[:2]
    assert hint.shape == (height + 8, width + 16, 4)
    assert np.array_equal(hint[8:, 16:, :3], photo)
    assert (hint[:8, :, :3] == 128).all()
    assert (hint[:8, :, 3] == 255).all()
    for row, column in ((0, 50), (3, 50), (50, 7), (9, 2), (10, 10), (height - 1, width - 1)):
        expected = max(0, 10 - min(row, column)) / 10
        assert hint[8 + row, 16 + column, 3] == round(255 * expected**2)
    assert find("outpaint")(photo[:15, :15], left=8, top=0, right=0, bottom=0, feather=8)[..., 8:, 3].max() == 0


def test_outpainting_stops_at_what_memory_holds() -> None:
    margins = dict.fromkeys(("left", "right", "top", "bottom"), 4096)
    with pytest.raises(PreprocessorError, match="more than 64 megapixels: choose smaller margins"):
        find("outpaint")(np.zeros((1000, 1000, 3), np.uint8), **margins)


@photos
def test_golden_reference_only(photo: np.ndarray) -> None:
    assert np.array_equal(find("reference_only")(photo, fidelity=1), photo)


@photos
def test_golden_reference_adain(photo: np.ndarray) -> None:
    assert np.array_equal(find("reference_adain")(photo), photo)


@photos
def test_golden_reference_adain_attn(photo: np.ndarray) -> None:
    assert np.array_equal(find("reference_adain+attn")(photo), photo)


@photos
@pytest.mark.parametrize("cell", [64, 24, 7])
def test_golden_color_grid(photo: np.ndarray, cell: int) -> None:
    high, wide = (-(-side // cell) for side in photo.shape[:2])
    missing = (0, high * cell - photo.shape[0]), (0, wide * cell - photo.shape[1])
    squares = cv2.resize(np.pad(photo, (*missing, (0, 0)), mode="edge"), (wide, high), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.indices(photo.shape[:2]) // cell
    assert np.array_equal(find("color_grid")(photo, cell=cell), squares[rows, columns])


def test_the_color_grid_is_8_by_8_at_512() -> None:
    hint = find("color_grid")(data.astronaut()[:300, :300], resolution=512)
    assert hint.shape == (512, 512, 3)
    assert np.array_equal(hint, hint[::64, ::64].repeat(64, axis=0).repeat(64, axis=1))


@photos
@pytest.mark.parametrize("gamma", [1.0, 0.5, 1.7])
def test_golden_recolor_luminance(photo: np.ndarray, gamma: float) -> None:
    lightness = color.rgb2lab(photo)[..., 0] / 100
    hint = find("recolor_luminance")(photo, gamma=gamma)[..., 0]
    steepest = 255 * ((2 / 255) ** gamma) if gamma < 1 else 2  # levels by which one level of L can move the result
    assert difference(hint, np.rint(255 * lightness**gamma)) <= steepest + 1


def test_luminance_reads_red_as_red() -> None:
    """L of the sRGB primaries, scaled to 255: 136, 224 and 82; with red and blue exchanged, 82 and 136."""
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert find("recolor_luminance")(primaries)[0, :, 0].tolist() == [136, 224, 82]


@photos
@pytest.mark.parametrize("gamma", [1.0, 0.5, 1.7])
def test_golden_recolor_intensity(photo: np.ndarray, gamma: float) -> None:
    value = color.rgb2hsv(photo)[..., 2]
    assert difference(find("recolor_intensity")(photo, gamma=gamma)[..., 0], np.rint(255 * value**gamma)) <= 1


@pytest.mark.parametrize("gamma", [1.0, 0.1, 0.45, 2.0])
def test_gamma_rounds_and_does_not_truncate(gamma: float) -> None:
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    expected = [round(255 * (grey / 255) ** gamma) for grey in range(256)]
    assert find("recolor_intensity")(greys, gamma=gamma)[0, :, 0].tolist() == expected


def test_intensity_is_not_luminance() -> None:
    photo = data.astronaut()
    assert not np.array_equal(find("recolor_intensity")(photo), find("recolor_luminance")(photo))


@photos
@pytest.mark.parametrize("seed", [0, 7])
def test_golden_shuffle(photo: np.ndarray, seed: int) -> None:
    """The displacement as ControlNet 1.1 makes it: noise at full size, with a margin that is cut off again."""
    height, width, _ = photo.shape
    random = np.random.default_rng(seed)
    maps = []
    for length in (width, height):
        points = random.uniform(0, 1, (height // 256 + 2, width // 256 + 2))
        noise = cv2.resize(points, (width + 512, height + 512), interpolation=cv2.INTER_CUBIC)
        noise = noise[256 : 256 + height, 256 : 256 + width]
        noise = (noise - noise.min()) / (noise - noise.min()).max()
        maps.append(noise * (length - 1))
    expected = np.stack(
        [ndimage.map_coordinates(photo[..., channel].astype(float), maps[::-1], order=1) for channel in range(3)], -1
    )
    hint = find("shuffle")(photo, seed=seed)
    assert np.abs(hint - expected).mean() < 1.0  # cv2 counts in 32nds of a pixel
    assert np.percentile(np.abs(hint - expected), 99) <= 6


def test_padding_is_not_shuffled_in() -> None:
    photo = np.ascontiguousarray(data.astronaut()[:100, :130])
    assert np.array_equal(find("shuffle")(photo, resolution=100), find("shuffle")(photo))


@photos
def test_the_size_rule(photo: np.ndarray) -> None:
    """Short side to the resolution, edges repeated up to a multiple of 64, run, cut."""
    for resolution in (200, 700):
        k = resolution / min(photo.shape[:2])
        height, width = round(photo.shape[0] * k), round(photo.shape[1] * k)
        filtered = cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)
        padded = np.pad(filtered, ((0, -height % 64), (0, -width % 64), (0, 0)), mode="edge")
        expected = cv2.Canny(padded, 100, 200)[:height, :width]
        assert np.array_equal(find("canny")(photo, resolution=resolution)[..., 0], expected)


def test_full_hd_at_512_keeps_its_aspect() -> None:
    assert find("canny")(np.zeros((1080, 1920, 3), np.uint8), resolution=512).shape == (512, 910, 3)
