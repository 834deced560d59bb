"""A user's pictures of all kinds."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gapmllm.scenes.footage import read_footage
from gapmllm.scenes.images import ImageError, encode_image
from gapmllm.scenes.pictures import read_picture


def picture(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def save(path: Path, values: np.ndarray, **options) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


def noise() -> bytes:
    """JPEG."""
    return encode_image(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_kinds_of_files(tmp_path, suffix):
    found = read_footage(save(tmp_path / f"a{suffix}", picture(100)))
    assert found.images[0].shape == (48, 64, 3)
    assert abs(int(found.images[0][0, 0, 0]) - 100) <= 1


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    values = picture(0)
    values[:24, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise: the top left goes to the top right
    for suffix in ("jpg", "png", "webp", "tiff"):
        image = read_picture(save(tmp_path / f"a.{suffix}", values, exif=exif)).pixels
        assert image.shape == (64, 48, 3)
        assert image[10, 40, 0] > 200 > 50 > image[10, 10, 0]


def test_other_kinds_of_pixels_become_8_bit_rgb():
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    for values in (grey, Image.fromarray(grey)):
        found = read_picture(values)
        assert found.pixels.tolist() == [[[0] * 3, [100] * 3, [255] * 3]]
        assert found.notes == ("16-bit values were scaled to 8 bits (is it a depth image?)",)
    half = np.array([[[200, 0, 0, 51], [9, 9, 9, 255]]], np.uint8)
    for values in (half, Image.fromarray(half)):
        found = read_picture(values)
        assert found.pixels.tolist() == [[[244, 204, 204], [9, 9, 9]]]  # by hand: 0.2 * 200 + 0.8 * 255 = 244
        assert found.notes == ("transparent parts became white",)
    palette = Image.fromarray(picture(50)).convert("P")
    assert read_picture(palette).pixels[0, 0].tolist() == pytest.approx([50] * 3, abs=3)
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    assert read_picture(palette).pixels[0, 0].tolist() == [255] * 3
    assert read_picture(Image.fromarray(picture(50)).convert("L")).pixels[0, 0].tolist() == [50] * 3
    cmyk = read_picture(Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    assert cmyk.pixels[0, 0].tolist() == [255, 0, 0]
    assert cmyk.notes == ("CMYK was converted to RGB: colours are approximate",)


def test_16_bit_colour_is_scaled_and_not_clipped(tmp_path):
    import av

    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 4, 4, "rgb48be", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((4, 4, 3), 0x6400, np.uint16), format="rgb48le")
    data = b"".join(bytes(packet) for packet in [*codec.encode(frame.reformat(format="rgb48be")), *codec.encode(None)])
    (tmp_path / "a.png").write_bytes(data)
    assert read_picture(tmp_path / "a.png").pixels[0, 0].tolist() == [0x64] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.touch(), r"not a picture in .* \(the file is empty\)"),
        (lambda path: save(path, picture(0), format="GIF"), r"not a picture in JPEG, .* \(starts with b'GIF8"),
        (lambda path: path.write_bytes(noise()[:-300]), "the picture is damaged"),
        (lambda path: Image.new("F", (4, 4)).save(path, "TIFF"), r"32 bits a value \(HDR, or a depth image\)"),
        (lambda path: Image.new("I", (4, 4)).save(path, "TIFF"), r"32 bits a value"),
        (lambda path: save(path, picture(0, 80), format="PNG"), "80x48 pixels, at most 3072 are decoded"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused_by_name(tmp_path, monkeypatch, make, message):
    monkeypatch.setattr("gapmllm.scenes.pictures.MAX_PIXELS", 64 * 48)
    make(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=f"^a.jpg: .*{message}"):
        read_footage(tmp_path / "a.jpg")


def test_damaged_pictures_of_all_kinds_raise_nothing_else(tmp_path):
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, kind)
        whole = buffer.getvalue()
        for _ in range(60):
            data = bytearray(whole)
            for place in random.integers(0, min(len(data), 200), 4):
                data[place] = random.integers(256)
            (tmp_path / "a.png").write_bytes(data[: random.integers(1, len(data))])
            with contextlib.suppress(ImageError):
                read_picture(tmp_path / "a.png")
