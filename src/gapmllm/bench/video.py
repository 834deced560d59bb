"""Reading frames from a video, against decoding it with PyAV and nothing else; each in a process of its own.

No torch here: the memory of these processes is that of reading.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SIZE = (1920, 1080)
RATE = 25
_CHILD = "import sys; from gapmllm.bench.video import measure; measure(*sys.argv[1:])"


def bench_video(video: Path | None, seconds: int, frames: int, repeats: int) -> dict[str, Any]:
    """Medians of both ways, in turn. video: None makes one of so many seconds. ValueError for what is no video."""
    with TemporaryDirectory() as folder:
        path = video or film(Path(folder) / "made.mp4", seconds)
        runs: dict[str, list[dict[str, float]]] = {"bare": [], "frames": []}
        for _ in range(repeats):
            for what, found in runs.items():
                found.append(_in_own_process(what, path, frames))
        bytes_ = path.stat().st_size
    took = {what: median(run["seconds"] for run in found) for what, found in runs.items()}
    peak = {what: max(run["MiB"] for run in found) for what, found in runs.items()}
    return {
        "video": f"{video.name if video else f'{seconds} s of {SIZE[0]}x{SIZE[1]}, made'}, {bytes_ / 2**20:.1f} MiB",
        "video, decoded bare, seconds": took["bare"],
        f"video, {frames} frames, seconds": took["frames"],
        f"video, {frames} frames, times as long": took["frames"] / took["bare"],
        "video, decoded bare, peak of the process, MiB": peak["bare"],
        f"video, {frames} frames, peak of the process, MiB": peak["frames"],
    }


def film(path: Path, seconds: int) -> Path:
    """A camera that moves over noise and stripes: neither still nor all new."""
    import av

    width, height = SIZE
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (height // 8 + 40, width // 8 + 40, 3), dtype=np.uint8)
    wall = small.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(seconds * RATE):
            x, y = 2 * index % 300, index % 300
            picture = np.ascontiguousarray(wall[y : y + height, x : x + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())
    return path


def measure(what: str, path: str, frames: str) -> None:
    """Print seconds and peak memory as JSON; called in a process of its own."""
    import av

    from gapmllm.scenes.footage import read_footage

    start = time.perf_counter()
    if what == "bare":
        with av.open(path) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            for _ in file.decode(stream):
                pass
    else:
        read_footage(path, num_frames=int(frames))
    print(json.dumps({"seconds": time.perf_counter() - start, "MiB": peak_memory()}))


def peak_memory() -> float:
    """MiB that this process held at most; where the system does not tell, what it holds now."""
    import psutil

    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(peak[1]) / 1024 if peak else psutil.Process().memory_info().rss / 2**20


def _in_own_process(what: str, path: Path, frames: int) -> dict[str, float]:
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, what, str(path), str(frames)], capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise ValueError(f"{path}: cannot be read: {child.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(child.stdout)
    return found
