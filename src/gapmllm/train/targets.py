"""What is true of each patch or token of a clip: depth, cameras, 3D points, centres, places, classes, labels, marks.

All are read at the pixels that `ImageGrid` makes of a frame: one resize of the whole picture, no crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gapmllm.geometry import encode_cameras, euler_to_matrix, invert_pose, resize_intrinsics, unproject_pixels
from gapmllm.model import IGNORE, ClipPixels
from gapmllm.scenes.records import Frame, Mark
from gapmllm.scenes.synth.scene import labels
from gapmllm.tasks import COLORS, draw_marks
from gapmllm.tasks.questions.plan import asked_objects, boxes_in_camera
from gapmllm.train.samples import Sample

CLASSES = tuple(sorted(labels()))
"""What the losses `classes` and `labels` tell apart; other labels are not learned."""
_NUMBER = {label: place for place, label in enumerate(CLASSES)}


def depth_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(S, H, W) metres along z at VGGT's pixels, 0 = unknown."""
    height, width = clip.geometry.shape[-2:]
    return torch.stack([torch.from_numpy(_depth_at(frame, *_pixels(frame, height, width))) for frame in sample.frames])


def camera_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(S, 9) pose encodings at VGGT's resolution; the world is the camera frame of the first frame, in metres."""
    height, width = clip.geometry.shape[-2:]
    matrices = [resize_intrinsics(frame.intrinsics, frame.size, (width, height)) for frame in sample.frames]
    encodings = encode_cameras(_to_first(sample.frames), np.stack(matrices), height, width)
    return torch.from_numpy(encodings).float()


def points_target(sample: Sample, rows: int, cols: int) -> Tensor:
    """(S, rows, cols, 3) the 3D point at the centre of each cell, camera frame of the first frame, NaN = unknown."""
    found = []
    for frame, pose in zip(sample.frames, _to_first(sample.frames), strict=True):
        x, y = _pixels(frame, rows, cols)
        depth = _depth_at(frame, x, y).astype(np.float64)
        pixels = np.stack(np.broadcast_arrays(x, y), axis=-1)
        points = unproject_pixels(pixels.reshape(-1, 2), depth.reshape(-1), frame.intrinsics, pose)
        points[depth.reshape(-1) == 0] = np.nan
        found.append(points.reshape(rows, cols, 3))
    return torch.from_numpy(np.stack(found)).float()


def centers_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(S, rows, cols, 3) centre of the box of the object that covers most of each token, camera frame of the first
    frame; NaN where that is none, or unknown."""
    return _of_boxes(sample, clip, lambda box: box[:3], 3)


def yaws_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(S, rows, cols, 2) where that box's own x axis points, seen from above (in x and z of the first camera): cosine
    and sine of twice the angle, so that half a turn changes nothing; else NaN. Euler angles jump before a level camera.
    """
    return _of_boxes(sample, clip, _yaw, 2)


def classes_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(S, rows, cols) number in `CLASSES` of what covers most of each token, `IGNORE` where that is not known."""
    return torch.from_numpy(_cover(_class_maps(sample), clip, unknown=IGNORE))


def labels_target(sample: Sample, clip: ClipPixels) -> Tensor:
    """(S, rows, cols) number in `CLASSES` of what is under the centre of a cross, at its token; `IGNORE` elsewhere."""
    found = np.full((clip.num_frames, clip.rows, clip.cols), IGNORE)
    maps = _class_maps(sample)
    for mark, (row, col) in crosses(sample, clip):
        if (classes := maps[mark.frame]) is not None:
            found[mark.frame, row, col] = classes[mark.y, mark.x]
    return torch.from_numpy(found)


def places_target(clip: ClipPixels) -> Tensor:
    """(S, rows, cols, 2) x and y of each token's centre, in shares of the frame's width and height."""
    y, x = ((torch.arange(size) + 0.5) / size for size in (clip.rows, clip.cols))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(clip.num_frames, -1, -1, -1)


def marks_target(sample: Sample, clip: ClipPixels, size: Callable[[int], tuple[int, int]]) -> Tensor:
    """(S, rows, cols) 0 without a mark; 1 + number of its colour where a cross has its centre; `IGNORE` where a cross
    reaches into the token, or two have their centres. size: width of a frame -> (arm, thickness) of its crosses."""
    colors, centres = list(COLORS), {}
    found = np.zeros((clip.num_frames, clip.rows, clip.cols), dtype=np.int64)
    for mark, (row, col) in crosses(sample, clip):
        width, height = sample.frames[mark.frame].size
        blank = np.zeros((height, width, 3), dtype=np.uint8)
        (drawn,) = draw_marks([blank], [replace(mark, frame=0, color="white")], *size(width))
        found[mark.frame][cell_shares(drawn[:, :, 0] > 0, clip.rows, clip.cols) > 0] = IGNORE
        place = mark.frame, row, col
        centres[place] = IGNORE if place in centres else 1 + colors.index(mark.color)
    for place, color in centres.items():
        found[place] = color
    return torch.from_numpy(found)


def crosses(sample: Sample, clip: ClipPixels) -> Iterator[tuple[Mark, tuple[int, int]]]:
    """Each mark that questions ask about, with the row and column of the token where its cross has its centre."""
    for mark in dict.fromkeys(question.mark for question in sample.questions if question.mark is not None):
        width, height = sample.frames[mark.frame].size
        yield mark, ((2 * mark.y + 1) * clip.rows // (2 * height), (2 * mark.x + 1) * clip.cols // (2 * width))


def _class_maps(sample: Sample) -> list[NDArray[np.int64] | None]:
    """Of each frame (H, W) numbers in `CLASSES`, `IGNORE` where that is not known; None without instances."""
    of_id = {item.id: _NUMBER.get(item.label, IGNORE) for item in sample.scene.objects}
    maps = [frame.instance_map() for frame in sample.frames]
    return [None if ids is None else _of_ids(ids, of_id, np.array(IGNORE)) for ids in maps]


def _of_boxes(
    sample: Sample, clip: ClipPixels, value: Callable[[Sequence[float]], Sequence[float]], size: int
) -> Tensor:
    """(S, rows, cols, size): a value of the box of what covers most of each token, NaN without."""
    boxes = boxes_in_camera(asked_objects(sample.scene).values(), sample.frames[0])
    maps = [frame.instance_map() for frame in sample.frames]
    most = _cover([None if ids is None else ids.astype(int) for ids in maps], clip, unknown=-1)
    return torch.from_numpy(
        _of_ids(most, {key: value(box) for key, box in boxes.items()}, np.full(size, np.nan))
    ).float()


def _yaw(box: Sequence[float]) -> tuple[float, float]:
    x, _, z = euler_to_matrix(box[6:], "zxy")[:, 0]
    length = max(x * x + z * z, 1e-9)  # 0 where the axis is upright
    return (x * x - z * z) / length, 2 * x * z / length


def _of_ids(ids: NDArray[Any], of_id: Mapping[int, Any], unknown: NDArray[Any]) -> NDArray[Any]:
    """Object ids (...) -> (..., *shape of a value) what each has, `unknown` where there is none; -1 has none."""
    table = np.full((max(of_id, default=-1) + 2, *unknown.shape), unknown)  # the last row is that of all others
    for key, value in of_id.items():
        table[key] = value
    return table[np.where(ids < len(table) - 1, ids, -1)]


def _cover(maps: Sequence[NDArray[np.int64] | None], clip: ClipPixels, unknown: int) -> NDArray[np.int64]:
    """(S, rows, cols): of each frame's (H, W) numbers the one that covers most of each token; `unknown` without."""
    blank = np.full((clip.rows, clip.cols), unknown)
    return np.stack([blank if values is None else _most(values, clip.rows, clip.cols) for values in maps])


def _to_first(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """(S, 4, 4) from each camera to the first one."""
    return invert_pose(frames[0].camera_to_world) @ np.stack([frame.camera_to_world for frame in frames])


def _pixels(frame: Frame, rows: int, cols: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x (1, cols) and y (rows, 1) in the frame's image of the centres of a grid of cells over it."""
    width, height = frame.size
    x = (np.arange(cols) + 0.5) * width / cols - 0.5
    y = (np.arange(rows) + 0.5) * height / rows - 0.5
    return x[None, :], y[:, None]


def _depth_at(frame: Frame, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    """Depth at pixels of the image, the nearest known or unknown one of the depth image, 0 outside it."""
    depth = frame.depth_map()
    if depth is None:
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    image, camera = frame.intrinsics, frame.depth_camera()
    columns = np.rint((x - image[0, 2]) / image[0, 0] * camera[0, 0] + camera[0, 2]).astype(int)
    rows = np.rint((y - image[1, 2]) / image[1, 1] * camera[1, 1] + camera[1, 2]).astype(int)
    height, width = depth.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return np.where(inside, depth[rows.clip(0, height - 1), columns.clip(0, width - 1)], np.float32(0))


def _most(values: NDArray[np.int64], rows: int, cols: int) -> NDArray[np.int64]:
    """(H, W) whole numbers -> (rows, cols): the one that covers most of each cell, the smallest among equals."""
    kinds = np.unique(values)
    return kinds[np.argmax([cell_shares(values == kind, rows, cols) for kind in kinds], axis=0)]


def cell_shares(mask: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.float64]:
    """(H, W) -> (rows, cols): pixels of each cell that are set; a pixel belongs where its centre lies."""
    (top, left), (height, width) = (np.arange(rows), np.arange(cols)), mask.shape
    per_row = np.add.reduceat(mask.astype(np.float64), (2 * top * height + rows - 1) // (2 * rows), axis=0)
    return np.add.reduceat(per_row, (2 * left * width + cols - 1) // (2 * cols), axis=1)
