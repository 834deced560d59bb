"""Whether two frames agree on the room: depth of one, seen from the other."""

from __future__ import annotations

import numpy as np

from gapmllm.geometry import project, unproject
from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.records import Frame


def depth_disagreement(a: Frame, b: Frame) -> FloatArray:
    """(n,) relative errors |z - z_b| / z_b of the points of frame a that fall on known depth of frame b.

    z is the point's depth in camera b, z_b what frame b has at the nearest pixel. Points that something hides in b are
    among them: look at the median. Empty where the frames do not overlap, or one has no depth.
    """
    depth_a, depth_b = a.depth_map(), b.depth_map()
    if depth_a is None or depth_b is None:
        return np.zeros(0)
    points = unproject(depth_a, a.depth_camera(), a.camera_to_world).reshape(-1, 3)
    pixels, z = project(points[np.isfinite(points[:, 0])], b.depth_camera(), b.camera_to_world)
    pixels, z = pixels[z > 0], z[z > 0]
    height, width = depth_b.shape
    inside = ((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5))).all(axis=1)
    columns, rows = np.rint(pixels[inside]).astype(int).T
    seen = depth_b[rows, columns].astype(np.float64)
    known = seen > 0
    return np.abs(z[inside][known] - seen[known]) / seen[known]
