"""Pictures from disk: every form a user may have, and every way a file can be bad."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlstack.core.errors import HintError
from controlstack.preprocessors.images import (
    WRITES,
    convert_image,
    decode_image,
    eight_bit,
    read_image,
    read_mask,
    readable,
    write_image,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage import data

PHOTO = data.astronaut()[100:211, 50:203]  # 111 x 153

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF 2.3, tag 0x0112
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


def png_header(width: int, height: int, colour: int = 2) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg", "jfif", "gif"])
def test_known_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    options: dict[str, Any] = {"webp": {"lossless": True}, "jpg": {"quality": 95}, "jfif": {"quality": 95}}.get(
        suffix, {}
    )
    Image.fromarray(PHOTO).save(path, **options)
    image = read_image(path)
    assert (image.shape, image.dtype) == (PHOTO.shape, np.uint8)
    tolerance = {"jpg": 3.0, "jfif": 3.0, "gif": 10.0}.get(suffix, 0.0)
    assert np.abs(image.astype(int) - PHOTO).mean() <= tolerance
    image[0, 0] = 0  # the result is the caller's own and can be written to


def test_the_content_tells_the_format_and_a_text_path_is_fine(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.dat", format="PNG")
    assert np.array_equal(read_image(str(tmp_path / "photo.dat")), PHOTO)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colour_models_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.tiff"
    source = Image.fromarray(PHOTO).convert(mode)
    source.save(path)
    if mode == "YCbCr" and not _pillow_reads(path):
        pytest.skip("this Pillow cannot read the YCbCr picture that it writes; 12.3 cannot")
    assert np.array_equal(read_image(path), np.asarray(source.convert("RGB")))


def _pillow_reads(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except OSError:
        return False
    return True


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(PHOTO[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(PHOTO[..., :1], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white_for_pictures_and_on_black_for_masks(tmp_path: Path, mode: str) -> None:
    alpha = np.zeros(PHOTO.shape[:2], np.uint8)
    alpha[:, 50:100] = 255
    alpha[:, 100:] = 128
    source = Image.fromarray(PHOTO).convert(mode[:-1])
    colours = np.asarray(source.convert("RGB")).astype(float)
    source.putalpha(Image.fromarray(alpha))
    source.save(tmp_path / "layer.png")
    share = alpha[..., None] / 255
    image = read_image(tmp_path / "layer.png")
    assert np.abs(image - (colours * share + 255 * (1 - share))).max() <= 1
    assert (image[:, :50] == 255).all()
    mask = read_mask(tmp_path / "layer.png")
    assert (mask[:, :50] == 0).all()
    assert np.abs(mask[:, 50:100].astype(int) - source.convert("L").crop((50, 0, 100, 111))).max() <= 1


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    source = Image.new("P", (4, 4), 1)
    source.putpalette([9, 9, 9, 200, 100, 50])
    source.putpixel((0, 0), 0)
    source.save(tmp_path / "palette.png", transparency=0)
    image = read_image(tmp_path / "palette.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[1, 1].tolist() == [200, 100, 50]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    image = read_image(tmp_path / f"deep.{suffix}")
    assert np.array_equal(image[..., 1], np.rint(levels / 257).astype(np.uint8))
    assert np.array_equal(read_mask(tmp_path / f"deep.{suffix}"), image[..., 0])


@pytest.mark.parametrize("low_high", [(0, 65535), (300, 9000)])
def test_sixteen_bits_are_scaled_however_they_come(low_high: tuple[int, int]) -> None:
    levels = np.linspace(*low_high, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.rint(levels / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, kind)
        assert np.array_equal(decode_image(buffer.getvalue(), "a picture")[..., 2], expected)
        with Image.open(buffer) as opened:
            assert np.array_equal(convert_image(opened, "a picture")[..., 0], expected)
    assert np.array_equal(convert_image(Image.fromarray(levels), "a picture")[..., 0], expected)
    assert np.array_equal(convert_image(levels, "a picture")[..., 1], expected)
    assert np.array_equal(np.asarray(eight_bit(Image.fromarray(levels), "a mask").convert("L")), expected)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_arrays_are_pictures(shape: tuple[int, ...], kind: type) -> None:
    full = np.iinfo(kind).max
    image = convert_image(np.full(shape, full, kind), "a picture")
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8 and image.min() == 255
    if shape[2:] == (4,):  # black that is clear lies on white
        assert convert_image(np.zeros(shape, kind), "a picture").min() == 255


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.float32), r"the mask is float32 \[4, 4\], expected uint8 or uint16"),
        (np.zeros((4, 4, 2), np.uint8), r"the mask is uint8 \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), r"the mask is uint8 \[0, 4, 3\]"),
        (np.zeros((4,), np.uint8), r"the mask is uint8 \[4\]"),
        (np.broadcast_to(np.uint8(0), (8000, 8001, 3)), "the mask is 8001x8000, more than 64 megapixels"),
        (Image.new("1", (8001, 8000)), "the mask is 8001x8000, more than 64 megapixels"),
        (Image.new("F", (4, 4)), "the mask has 32 bits a channel"),
        (Image.new("I", (4, 4)), "the mask has 32 bits a channel"),
    ],
)
def test_what_is_no_picture_in_memory_is_refused(picture: Any, message: str) -> None:
    with pytest.raises(HintError, match=message):
        convert_image(picture, "the mask")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", png_header(8, 8), png_header(8001, 8000)])
def test_bytes_are_refused_without_the_names_of_objects(content: bytes) -> None:
    with pytest.raises(HintError, match="the picture of a client") as caught:
        decode_image(content, "the picture of a client")
    assert "object at" not in str(caught.value) and "BytesIO" not in str(caught.value)


def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    if "AVIF" not in readable() or "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow knows no AVIF")
    Image.fromarray(PHOTO).save(tmp_path / "photo.avif", quality=95)
    assert np.abs(read_image(tmp_path / "photo.avif").astype(int) - PHOTO).mean() <= 4


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("m" * 251 + ".png")
    write_image(path, PHOTO)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    with pytest.raises(HintError, match="name too long"):
        write_image(tmp_path / ("m" * 252 + ".png"), PHOTO)


def test_sixteen_bit_colour_is_scaled(tmp_path: Path) -> None:
    import cv2

    levels = PHOTO.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), levels[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "deep.png"), PHOTO)


def test_floats_have_no_known_white(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(HintError, match="32 bits a channel"):
        read_image(tmp_path / "float.tiff")


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("deep", [False, True])
def test_the_camera_says_where_up_is(tmp_path: Path, orientation: int, deep: bool) -> None:
    grey = PHOTO[..., 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = grey.astype(np.uint16) * 257 if deep else grey
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png")[..., 0], UPRIGHT[orientation](grey))


def test_the_first_picture_of_several_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for name in ("frames.gif", "frames.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert read_image(tmp_path / name)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "there is no picture .*missing.png"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello, I am a text", "is no picture of a known format"),
        ("header.png", b"\x89PNG\r\n\x1a\n", "is no picture of a known format"),
        ("pixels.png", png_header(8, 8), "is damaged or truncated"),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture of a known format"),
        ("large.png", png_header(8001, 8000), "8001x8000, more than 64 megapixels: scale it down"),
        ("bomb.png", png_header(60000, 60000), "more than 64 megapixels: scale it down"),
        ("warned.png", png_header(10000, 10000), "more than 64 megapixels: scale it down"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, read: Any, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HintError, match=message):
        read(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(HintError, match="is a folder"):
        read_image(tmp_path)


def test_a_format_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png", format="ICO")
    with pytest.raises(HintError, match="PNG, JPEG, WEBP"):
        read_image(tmp_path / "photo.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_half_a_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(PHOTO).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(HintError, match=r"damaged|truncated"):
        read_image(path)


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(png_header(8, 8))
    path.chmod(0)
    with pytest.raises(HintError, match="Permission denied"):
        read_image(path)


@pytest.mark.parametrize("suffix", WRITES)
@pytest.mark.parametrize("grey", [False, True])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str, grey: bool) -> None:
    image = PHOTO[..., 0] if grey else PHOTO
    path = tmp_path / f"hint{suffix.upper()}"
    write_image(path, image)
    read = read_mask(path) if grey else read_image(path)
    assert np.abs(read.astype(int) - image).mean() <= (2 if suffix.startswith(".j") else 0)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_settings_travel_in_a_png(tmp_path: Path) -> None:
    metadata = {"units": '[{"weight": 1.0}]', "prompt": "a café, 東京"}
    write_image(tmp_path / "result.png", PHOTO, metadata)
    with Image.open(tmp_path / "result.png") as picture:
        assert dict(picture.info) == metadata
    with pytest.raises(HintError, match=r"only PNG files carry settings; name it result\.png"):
        write_image(tmp_path / "result.jpg", PHOTO, metadata)


def test_text_of_others_does_not_harm(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("parameters", "x" * 10_000, zip=True)
    Image.fromarray(PHOTO).save(tmp_path / "photo.png", pnginfo=text)
    assert np.array_equal(read_image(tmp_path / "photo.png"), PHOTO)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "hint.webp"
    write_image(path, PHOTO)
    before = path.read_bytes()
    with pytest.raises(HintError, match="cannot write"):
        write_image(path, np.zeros((2, 20_000, 3), np.uint8))  # WebP has at most 16383 pixels a side
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["hint.webp"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "hint.png", PHOTO)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("hint.svg", PHOTO, r"must end in \.png"),
        ("hint", PHOTO, r"must end in \.png"),
        ("no/such/folder/hint.png", PHOTO, "No such file or directory"),
        ("hint.png", PHOTO.astype(np.float32), r"cannot write float32 \[111, 153, 3\]"),
        ("hint.png", PHOTO[None], r"cannot write uint8 \[1, 111, 153, 3\]"),
        ("hint.png", PHOTO[:0], r"cannot write uint8 \[0, 153, 3\]"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, image: np.ndarray, message: str) -> None:
    with pytest.raises(HintError, match=message):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []
