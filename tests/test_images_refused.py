"""Images and grids that cannot be used: each told in one error that says what was given and what is needed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, ImageSequence

from gapmllm.model.image_grid import MAX_TOKENS, ClipPixels, ImageGrid
from gapmllm.model.vggt_images import vggt_images

NANO = {"patch_size": 8, "geometry_patch_size": 7}


def noise(width, height, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def stored(kind, orientation=None, **options):
    """A 64x48 picture as it comes from a file."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 48)).save(buffer, kind, exif=exif, **options)
    return buffer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, r"max_tokens, patch sizes and merge_size must be whole numbers from 1, got .*max_tokens=0"),
        ({"max_tokens": 192.0}, r"whole numbers from 1, got .*max_tokens=192.0"),
        ({"max_tokens": True}, r"whole numbers from 1, got .*max_tokens=True"),
        ({"max_tokens": "192"}, r"whole numbers from 1, got .*max_tokens='192'"),
        ({"patch_size": 16.0}, r"whole numbers from 1, got .*\(patch_size=16.0"),
        ({"geometry_patch_size": None}, r"whole numbers from 1, got .*geometry_patch_size=None"),
        ({"merge_size": float("nan")}, r"whole numbers from 1, got .*merge_size=nan"),
        ({"max_tokens": MAX_TOKENS + 1}, "max_tokens is 16385, at most 16384 a frame are allowed"),
        ({"max_tokens": 10**6}, "max_tokens is 1000000, at most 16384 a frame are allowed"),
        ({"name": "square"}, "no image grid 'square', choose from fit, released, released-inference"),
        ({"name": "released", **NANO}, r'"released" is for patches of 16 and 14 .*, got \(8, 7, 2\); use "fit"'),
    ],
)
def test_grids_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageGrid(**fields)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "0 frames were given, at least 1 is needed"),
        ([noise(64, 48), noise(64, 48), noise(48, 64)], "frame 0 has 64x48 pixels and frame 2 has 48x64; resize"),
        ([noise(64, 48), Image.new("L", (64, 48))], r"frame 1 has mode L, .* use image.convert\('RGB'\)"),
        ([Image.new("RGBA", (64, 48))], r"frame 0 has mode RGBA, 8-bit RGB is needed; use image.convert\('RGB'\)"),
        ([Image.new("I;16", (64, 48))], "frame 0 has mode I;16, .* scale it to 8 bits first"),
        ([Image.new("F", (64, 48))], "frame 0 has mode F, .* scale it to 8 bits first"),
        ([noise(64, 48)[..., 0]], r"array of uint8 \(48, 64\), .* repeat a grey channel three times"),
        ([noise(64, 48)[..., [0, 1, 2, 0]]], r"array of uint8 \(48, 64, 4\), .* drop an alpha channel"),
        ([noise(64, 48).astype(np.uint16)], r"array of uint16 \(48, 64, 3\), .* scale values to 0..255"),
        (noise(64, 48), r"frame 0 is an array of uint8 \(64, 3\), uint8 \(H, W, 3\) RGB is needed"),
        (Image.new("RGB", (64, 48)), "a list of frames is needed .*, got one Image"),
        ("room.png", "a list of frames is needed .*open files first.*, got one str: 'room.png'"),
        (["room.png"], "frame 0 is a str, .* open a file first: PIL.Image.open"),
        ([Path("room.png")], r"frame 0 is a \w*Path, .* open a file first"),
        ([noise(10, 10)], r"10x10 pixels is too small, at least 32x32 are needed \(one token: 2x2 patches of 16"),
        ([noise(1000, 31)], "1000x31 pixels is too small, at least 32x32 are needed"),
        ([noise(3300, 32)], "too long for max_tokens=48: 1x48 tokens would stretch it 2.1 times, .* max_tokens to 52"),
    ],
)
def test_frames_that_cannot_be_used(frames, message):
    with pytest.raises(ValueError, match=message):
        ImageGrid(max_tokens=48).prepare(frames)


def test_the_largest_grid_is_qwens_largest_image():
    assert ImageGrid(max_tokens=MAX_TOKENS).size(300, 300) == (4096 // 32, 4096 // 32)


@pytest.mark.parametrize("prepare", [ImageGrid().prepare, vggt_images])
class TestPicturesFromFiles:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_one_that_exif_turns_is_refused_until_it_is_turned(self, prepare, kind, orientation):
        image = Image.open(stored(kind, orientation))
        advice = rf"\(EXIF orientation {orientation}\); use PIL.ImageOps.exif_transpose\(image\)"
        for turned in (image, image.convert("RGB")):
            with pytest.raises(ValueError, match=advice):
                prepare([turned])
        upright = ImageOps.exif_transpose(image)
        assert upright.size == ((48, 64) if orientation > 4 else (64, 48))
        prepare([upright])

    @pytest.mark.parametrize("orientation", [None, 0, 1, 9])
    def test_one_that_exif_leaves_upright_is_used(self, prepare, orientation):
        prepare([Image.open(stored("JPEG", orientation))])

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
    def test_one_that_holds_several_is_refused_until_they_are_a_list(self, prepare, kind):
        others = [Image.fromarray(noise(64, 48, seed)) for seed in (1, 2)]
        image = Image.open(stored(kind, save_all=True, append_images=others))
        with pytest.raises(ValueError, match=r"(frame|image) 0 holds 3 pictures; give them as a list, \[one"):
            prepare([image])
        prepare([one.convert("RGB") for one in ImageSequence.Iterator(image)])
        prepare([image.convert("RGB")])

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_one_that_is_cut_off_is_refused(self, prepare, kind):
        whole = stored(kind)
        cut = io.BytesIO(whole.getvalue()[: len(whole.getvalue()) // 2])
        with pytest.raises(ValueError, match=r"(frame|image) 1 cannot be read: OSError: .*truncated.*; is its file"):
            prepare([Image.open(whole), Image.open(cut)])

    def test_one_whose_file_is_closed_is_refused(self, prepare, tmp_path):
        path = tmp_path / "room.png"
        path.write_bytes(stored("PNG").getvalue())
        with Image.open(path) as image:
            pass
        with pytest.raises(ValueError, match=r"(frame|image) 0 cannot be read: "):
            prepare([image])


def test_a_damaged_geometry_frame_is_named():
    cut = io.BytesIO(stored("PNG").getvalue()[:2000])
    with pytest.raises(ValueError, match="geometry frame 0 cannot be read"):
        ImageGrid().prepare([noise(64, 48)], geometry_frames=[Image.open(cut)])


def clip_of_zeros(visual=(2, 3, 32, 64), geometry=(2, 3, 28, 56), *sizes):
    return ClipPixels(torch.zeros(visual), torch.zeros(geometry), 1, 2, *sizes)


def test_a_clip_knows_the_sizes_of_its_patches():
    # 1x2 tokens of 2x2 patches: 32x64 pixels at 16 a patch, 28x56 at 14; 16x32 at 8, 12x24 at 6
    assert clip_of_zeros().num_tokens == 4
    assert clip_of_zeros((2, 3, 16, 32), (2, 3, 12, 24), 2, 8, 6).to("meta").patch_size == 8
    clip_of_zeros(geometry=(2, 3, 42, 56))  # the merger drops the third row, as of released models


@pytest.mark.parametrize(
    "arguments",
    [
        [(2, 3, 32, 65)],
        [(2, 3, 64, 64)],
        [(2, 1, 32, 64)],
        [(3, 32, 64)],
        [(2, 3, 32, 64), (1, 3, 28, 56)],
        [(2, 3, 32, 64), (2, 1, 28, 56)],
        [(2, 3, 32, 64), (2, 3, 27, 56)],
        [(2, 3, 32, 64), (2, 3, 56, 56)],
        [(2, 3, 32, 64), (2, 3, 28, 56), 2, 8],
        [(2, 3, 32, 64), (2, 3, 28, 56), 2, 16, 16],
        [(2, 3, 32, 64), (2, 3, 28, 56), 4],
    ],
)
def test_a_clip_whose_pixels_are_not_its_tokens_is_refused(arguments):
    with pytest.raises(ValueError, match=r"a clip of 1x2 tokens, .* cannot have .* let ImageGrid.prepare make it"):
        clip_of_zeros(*arguments)


def test_the_advice_for_a_long_frame_helps():
    assert ImageGrid(max_tokens=52).size(3300, 32) == (1, 52)


@pytest.mark.parametrize("others", [[noise(64, 48)], [noise(32, 48)] * 2])
def test_geometry_frames_must_be_those_of_the_clip(others):
    with pytest.raises(ValueError, match=r"geometry frames must show .*, got \d of \d\dx48 pixels for 2 of 64x48"):
        ImageGrid().prepare([noise(64, 48)] * 2, geometry_frames=others)


def test_a_frame_too_wide_for_the_released_grid_is_refused():
    with pytest.raises(ValueError, match="640x40 pixels is 518x28 at the released size, 32 rows are needed; crop it"):
        ImageGrid(name="released").size(640, 40)
