"""One grid of tokens for both encoders: sizes, pixels, patches; the sizes of public VGGT and of the released models."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from gapmllm.model.image_grid import ImageGrid, to_patches
from gapmllm.model.vggt_images import vggt_images

NANO = {"patch_size": 8, "geometry_patch_size": 7}
SIZES = [(256, 192), (640, 480), (192, 256), (300, 300), (1000, 100), (100, 900), (33, 47)]
"""(width, height), both larger and smaller than the grid's own, portrait and panoramic."""


def noise(width, height, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def dot(width, height, x, y, radius):
    """Black, but for a white square around pixel (x, y)."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = 255
    return image


def token_means(pixels, rows, cols):
    """(S, 3, H, W) -> (S, rows, cols): the mean of each token's pixels."""
    frames, channels, height, width = pixels.shape
    return pixels.reshape(frames, channels, rows, height // rows, cols, width // cols).mean((1, 3, 5))


def brightest_token(pixels, rows, cols):
    return divmod(int(token_means(pixels, rows, cols)[0].argmax()), cols)


# Sizes


@pytest.mark.parametrize(
    ("max_tokens", "size", "expected"),
    [
        (48, (256, 192), (6, 8)),
        (192, (256, 192), (12, 16)),
        (192, (1296, 968), (12, 16)),
        (221, (640, 480), (13, 17)),
        (192, (480, 640), (16, 12)),
        (192, (1920, 1080), (10, 18)),  # 10 x 19 would fit, too, but not show more: the rows are the coarser direction
        (48, (100, 100), (6, 6)),
        (48, (1000, 100), (2, 20)),
        (1, (256, 192), (1, 1)),
    ],
)
def test_the_grid_of_usual_sizes(max_tokens, size, expected):
    assert ImageGrid(max_tokens=max_tokens).size(*size) == expected


@given(st.integers(32, 3000), st.integers(32, 3000), st.integers(1, 120))
def test_the_grid_is_the_best_of_all_that_fit(width, height, max_tokens):
    assume(max(width, height) <= 2 * max_tokens * min(width, height))
    rows, cols = ImageGrid(max_tokens=max_tokens).size(width, height)

    def stretch(r, c):
        ratio = (c / r) / (width / height)
        return max(ratio, 1 / ratio)

    assert rows >= 1
    assert cols >= 1
    assert rows * cols <= max_tokens
    assert stretch(rows, cols) <= 2
    best = max(r * c / stretch(r, c) for r in range(1, max_tokens + 1) for c in range(1, max_tokens // r + 1))
    assert rows * cols / stretch(rows, cols) == pytest.approx(best)
    assert ImageGrid(max_tokens=max_tokens).size(height, width) == (cols, rows)


@pytest.mark.parametrize("patches", [{}, NANO])
@pytest.mark.parametrize("size", SIZES)
def test_both_encoders_get_the_same_number_of_patches(size, patches):
    grid = ImageGrid(max_tokens=30, **patches)
    clip = grid.prepare([noise(*size)] * 3)
    rows, cols = grid.size(*size)
    assert clip.visual.shape == (3, 3, rows * 2 * grid.patch_size, cols * 2 * grid.patch_size)
    assert clip.geometry.shape == (3, 3, rows * 2 * grid.geometry_patch_size, cols * 2 * grid.geometry_patch_size)
    assert (clip.num_frames, clip.tokens_per_frame, clip.num_tokens) == (3, rows * cols, 3 * rows * cols)
    assert clip.grid_thw().tolist() == [[1, 2 * rows, 2 * cols]] * 3
    assert (clip.merge_size, clip.patch_size) == (2, grid.patch_size)
    assert clip.geometry_patch_size == grid.geometry_patch_size
    assert clip.to("meta").visual.device.type == clip.to("meta").geometry.device.type == "meta"
    for pixels in (clip.visual, clip.geometry):
        assert pixels.dtype == torch.float32
        assert pixels.is_contiguous()
        assert 0 <= pixels.min() < pixels.max() <= 1


# Pixels


def test_images_and_arrays_are_resized_once_by_pillow():
    array = noise(256, 192)
    image = Image.fromarray(array)
    clip = ImageGrid(max_tokens=48, **NANO).prepare([array, image])
    for pixels, size in ((clip.visual, (128, 96)), (clip.geometry, (112, 84))):
        expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        np.testing.assert_array_equal((pixels * 255).round().numpy(), [expected, expected])


def test_marked_frames_are_for_qwen_and_plain_ones_for_vggt():
    plain, marked = noise(64, 48), noise(64, 48, seed=1)
    grid = ImageGrid(max_tokens=12)
    clip = grid.prepare([marked], geometry_frames=[plain])
    assert torch.equal(clip.visual, grid.prepare([marked]).visual)
    assert torch.equal(clip.geometry, grid.prepare([plain]).geometry)
    assert not torch.equal(clip.geometry, grid.prepare([marked]).geometry)


@pytest.mark.parametrize("patches", [{}, NANO])
@pytest.mark.parametrize("size", SIZES)
def test_a_dot_lights_the_same_token_in_both_encoders(size, patches):
    grid = ImageGrid(max_tokens=30, **patches)
    rows, cols = grid.size(*size)
    radius = max(min(size[0] / cols, size[1] / rows) // 4, 1)
    for row, col in {(0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1), (rows // 2, cols // 2)}:
        x, y = int((col + 0.5) * size[0] / cols), int((row + 0.5) * size[1] / rows)
        clip = grid.prepare([dot(*size, x, y, int(radius))])
        assert brightest_token(clip.visual, rows, cols) == (row, col)
        assert brightest_token(clip.geometry, rows, cols) == (row, col)
        assert grid.token_of_pixel(x, y, *size) == (row, col)


def test_a_ramp_has_the_same_brightness_in_both_encoders():
    # Pixel x has the value x; token c of 8 covers the pixels 32c to 32c + 31, whose mean is 32c + 15.5.
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (192, 256, 3))
    clip = ImageGrid(max_tokens=48).prepare([ramp])
    for pixels in (clip.visual, clip.geometry):
        means = token_means(pixels, 6, 8)[0] * 255
        np.testing.assert_allclose(means, np.broadcast_to(32 * np.arange(8) + 15.5, (6, 8)), atol=0.3)


def test_the_released_grid_does_not_keep_both_encoders_together():
    # What the two tests above look for: at width 518, x = 483 is token 483 / 32 = 15.1 for Qwen, and for VGGT, which
    # sees all 518 pixels in the same 16 tokens, 483 / 518 * 16 = 14.9.
    clip = ImageGrid(name="released").prepare([dot(518, 392, 483, 200, 1)])
    assert brightest_token(clip.visual, 12, 16) == (6, 15)
    assert brightest_token(clip.geometry, 12, 16) == (6, 14)


@pytest.mark.parametrize(
    ("name", "size", "pixel", "token"),
    [
        ("fit", (256, 192), (0, 0), (0, 0)),
        ("fit", (256, 192), (15, 16), (1, 0)),  # tokens of 16 pixels: 0..15, 16..31
        ("fit", (256, 192), (255, 191), (11, 15)),
        ("fit", (256, 192), (-0.4, 191.4), (11, 0)),  # still inside: the first pixel begins at -0.5
        ("released", (518, 392), (511, 383), (11, 15)),
        ("released", (518, 690), (31, 84), (0, 0)),  # 84 of 686 rows are cropped above, here 84.49
        ("released-inference", (518, 392), (517, 391), (12, 16)),
    ],
)
def test_the_token_of_a_pixel(name, size, pixel, token):
    assert ImageGrid(name=name).token_of_pixel(*pixel, *size) == token


@pytest.mark.parametrize("pixel", [(-1, 0), (256, 0), (0, 192), (0, -0.6), (float("nan"), 0)])
def test_a_pixel_outside_the_frame_is_refused(pixel):
    with pytest.raises(ValueError, match=r"pixel \(.*\) lies outside a frame of 256x192 pixels; x must be 0 to 255"):
        ImageGrid().token_of_pixel(*pixel, 256, 192)


@pytest.mark.parametrize(("size", "pixel"), [((518, 392), (512, 0)), ((518, 392), (0, 384)), ((518, 690), (0, 83))])
def test_a_pixel_that_a_released_grid_crops_away_is_refused(size, pixel):
    with pytest.raises(ValueError, match=r'pixel .* is cropped away by the grid "released"; use "fit"'):
        ImageGrid(name="released").token_of_pixel(*pixel, *size)


# Patches


@pytest.mark.parametrize("patch_size", [16, 8])
def test_patches_are_those_of_transformers_image_processor(patch_size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    half = [0.5, 0.5, 0.5]
    processor = Qwen2VLImageProcessorPil(
        patch_size=patch_size, merge_size=2, temporal_patch_size=2, image_mean=half, image_std=half, do_resize=False
    )
    clip = ImageGrid(max_tokens=6, patch_size=patch_size).prepare([noise(96, 64, seed) for seed in range(2)])
    frames = [frame.permute(1, 2, 0).numpy() for frame in (clip.visual * 255).round().byte()]
    expected = processor(images=frames, return_tensors="pt")
    torch.testing.assert_close(to_patches(clip.visual, patch_size, 2), expected["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(clip.grid_thw(), expected["image_grid_thw"])


# Public VGGT and the released models


@pytest.fixture(scope="module")
def photos(golden):
    return [Image.open(path) for path in sorted((golden / "vggt_preprocess").glob("*.png"))]


@pytest.mark.parametrize("name", [*(f"crop_single_{i}" for i in range(5)), "crop_batch", "pad_batch"])
def test_photos_are_prepared_as_public_vggt_does(golden, golden_json, photos, name):
    mode, _, index = name.partition("_")
    images = photos[:4] if index == "batch" else [photos[int(index[-1])]]
    pixels = vggt_images(images, mode=mode)
    expected = golden_json("vggt_preprocess/config.json")["outputs"][name]
    assert list(pixels.shape) == expected["shape"]
    assert pixels.double().mean().item() == pytest.approx(expected["mean"], abs=1e-7)
    with np.load(golden / "vggt_preprocess" / "outputs.npz") as outputs:
        np.testing.assert_array_equal(pixels[..., ::7, ::7].numpy(), outputs[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "0 images were given, at least 1 is needed"),
        (([Image.new("L", (50, 50))],), r'mode RGB or RGBA is needed, got L; use image.convert\("RGB"\)'),
        (([Image.new("RGB", (1000, 10))],), "sides of 10 and 1000 pixels has nothing left at VGGT's size; crop it"),
        (([Image.new("RGB", (50, 50))], "fill"), 'mode must be "crop" or "pad", got \'fill\''),
    ],
)
def test_photos_that_vggt_cannot_use(arguments, message):
    with pytest.raises(ValueError, match=message):
        vggt_images(*arguments)


@pytest.mark.parametrize(
    ("name", "size", "tokens", "visual", "geometry"),
    [
        ("released", (640, 480), (12, 16), (384, 512), (336, 448)),  # the first four: facts of the released code
        ("released", (1296, 968), (12, 16), (384, 512), (336, 448)),
        ("released-inference", (640, 480), (13, 17), (416, 544), (364, 476)),
        ("released-inference", (1296, 968), (13, 17), (416, 544), (364, 476)),
        ("released", (480, 640), (16, 16), (512, 512), (448, 448)),  # portrait: the middle 518 rows of 686
        ("released-inference", (480, 640), (16, 16), (512, 512), (448, 448)),
        ("released", (300, 200), (10, 16), (320, 512), (294, 448)),  # 350 rows: 21 patches, the merger drops the last
        ("released-inference", (300, 200), (12, 18), (384, 576), (336, 504)),
    ],
)
def test_the_sizes_of_the_released_models(name, size, tokens, visual, geometry):
    grid = ImageGrid(name=name)
    clip = grid.prepare([noise(*size)] * 2)
    assert grid.size(*size) == (clip.rows, clip.cols) == tokens
    assert clip.visual.shape == (2, 3, *visual)
    assert clip.geometry.shape == (2, 3, *geometry)


@given(st.integers(32, 2000), st.integers(32, 2000))
def test_released_inference_follows_the_resize_rule_of_transformers(width, height):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    assume(width <= 30 * height)
    shown = min(round(height * (518 / width) / 14) * 14, 518)
    expected = smart_resize(shown, 518, factor=32, min_pixels=200_704)
    rows, cols = ImageGrid(name="released-inference").size(width, height)
    assert (rows * 32, cols * 32) == expected


def test_released_training_pixels_are_a_crop_and_a_bilinear_resize_of_vggts():
    # One black step at x = 259, the middle of 518: VGGT sees it in the middle of 448, Qwen where it was.
    step = np.zeros((392, 518, 3), dtype=np.uint8)
    step[:, 259:] = 255
    clip = ImageGrid(name="released").prepare([step])
    assert torch.equal(clip.visual[0, 0], torch.from_numpy(step[:384, :512, 0] / np.float32(255)))
    row = clip.geometry[0, 0, 100]
    assert row[223] < 0.5 < row[224]
    assert row[:223].max() == 0
    assert row[225:].min() == 1


def test_released_inference_sends_frames_through_jpeg():
    image = Image.fromarray(noise(518, 392))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    decoded = Image.open(buffer).convert("RGB")
    clip = ImageGrid(name="released-inference").prepare([image])
    resized = decoded.resize((544, 416), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal((clip.visual[0] * 255).round().numpy(), np.asarray(resized).transpose(2, 0, 1))
    without = np.asarray(image.resize((544, 416), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs((clip.visual[0] * 255).numpy() - without).mean() > 5
    pixels = torch.from_numpy(np.array(decoded)).permute(2, 0, 1)[None] / 255
    smaller = torch.nn.functional.interpolate(pixels, (364, 476), mode="bilinear", align_corners=False)
    torch.testing.assert_close(clip.geometry, smaller, rtol=0, atol=1e-6)
