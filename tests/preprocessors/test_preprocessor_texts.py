"""Texts in pictures, whoever wrote them, and pictures that are not what was written."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from controlstack.core.errors import HintError
from controlstack.preprocessors.images import count_frames, read_frames, read_image
from controlstack.preprocessors.texts import WEBUI, read_texts
from controlstack.standalone.terminal.preprocessing import KEY, is_hint
from controlstack.units.record import pixels_of, plain_pixels
from PIL import Image, PngImagePlugin

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def png(path: Path, text: str = "", key: str = WEBUI) -> Path:
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text(key, text)
    Image.fromarray(PIXELS).save(path, pnginfo=info)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge() -> bytes:
    """A PNG that claims 3,600 megapixels and holds none."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_texts_before_and_behind_the_pixels_are_read(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", "a house")
    assert read_texts(path) == {WEBUI: "a house"}
    behind = tmp_path / "behind.png"  # where exiftool writes what is new
    content = png(tmp_path / "none.png").read_bytes()
    behind.write_bytes(content[:-12] + chunk(b"tEXt", b"parameters\0a house") + content[-12:])
    assert read_texts(behind) == {WEBUI: "a house"}


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_the_comment_of_a_camera_format_is_the_text_of_webuis(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "ein Haus ü".encode("utf-16-be")
    Image.fromarray(PIXELS).save(tmp_path / name, exif=exif)
    assert read_texts(tmp_path / name) == {WEBUI: "ein Haus ü"}


def test_texts_of_no_picture_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(HintError, match="the file is no picture of a known format"):
        read_texts(tmp_path / "a.png", "the file")
    (tmp_path / "b.png").write_bytes(huge())
    with pytest.raises(HintError, match="more than 64 megapixels"):
        read_texts(tmp_path / "b.png")
    assert not is_hint(tmp_path / "b.png")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]", json.dumps({"preprocessor": 1})])
def test_any_text_may_stand_under_our_name(tmp_path: Path, text: str) -> None:
    assert is_hint(png(tmp_path / "a.png", text, KEY)) == ("preprocessor" in text)


def test_a_changed_bit_is_no_other_picture(tmp_path: Path) -> None:
    content = bytearray(png(tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(HintError, match="its check sum is wrong"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["gif", "png", "tiff"])
def test_an_animation_that_ends_too_early_is_not_a_short_one(tmp_path: Path, kind: str) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, each, 1)) for each in range(4)]
    whole = tmp_path / f"whole.{kind}"
    frames[0].save(whole, save_all=True, append_images=frames[1:])
    assert count_frames(whole) == len(list(read_frames(whole))) == 4
    broken = tmp_path / f"broken.{kind}"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(HintError, match="damaged"):
        list(read_frames(broken))


def test_pixels_of_a_record_are_held_to_the_rules_of_files() -> None:
    assert np.array_equal(pixels_of("image", plain_pixels(PIXELS)), PIXELS)
    assert np.array_equal(pixels_of("mask", plain_pixels(PIXELS[..., 0])), PIXELS[..., 0])
    with pytest.raises(HintError, match="the picture in 'image' of a record has more than 64 megapixels"):
        pixels_of("image", {"png": base64.b64encode(huge()).decode()})
