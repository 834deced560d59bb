"""Frames of a video file: one pass, bounded memory, and no trust in what the file says of its own length.

Only the formats below are opened, never a playlist: those name other files and addresses.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from gapmllm.geometry.camera import FloatArray
from gapmllm.scenes.choosing import MAX_FRAMES, THUMBNAIL, Choice, Kept
from gapmllm.scenes.images import MAX_PIXELS
from gapmllm.scenes.pictures import FORMATS

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,h264,hevc,m4v"
_INDEXED = ("mov", "matroska")  # where a frame is found by its time; elsewhere what lies before it is read, too
_WORDS = "MP4, MOV, MKV, WebM, AVI, MPEG, WMV, FLV, Ogg"
_STILLS = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # files of the same family as MP4 that hold pictures
_SAME_TIME = 1e-6  # seconds
_LONGEST = 1e7  # seconds of a video
_HDR = (16, 18)  # transfer functions PQ and HLG, as ITU-T H.273 numbers them
_SRGB, _BT709 = 13, 1  # transfer function and primaries of sRGB, likewise


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which frames of a video are wanted."""

    num_frames: int | None
    """None: all, up to MAX_FRAMES."""
    fps: float | None = None
    """Of the video, first take so many frames a second."""
    start: float = 0
    """Seconds from the beginning."""
    end: float | None = None
    choose: Choice = "even"

    def __post_init__(self) -> None:
        count = self.num_frames
        if count is not None and (type(count) is not int or not 1 <= count <= MAX_FRAMES):
            raise ValueError(f"the number of frames must be 1 to {MAX_FRAMES}, got {count}")
        if self.fps is not None and not 0 < self.fps < np.inf:
            raise ValueError(f"fps must be a number above 0, got {self.fps}")
        if not 0 <= self.start <= _LONGEST:
            raise ValueError(f"start must be 0 to {_LONGEST:g} seconds, got {self.start}")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"end must be after start, got start {self.start} and end {self.end} s")
        if self.choose not in get_args(Choice):
            raise ValueError(f"choose must be {' or '.join(get_args(Choice))}, got {self.choose!r}")


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """The chosen frames, in order of time."""

    images: tuple[NDArray[np.uint8], ...]
    """(H, W, 3) RGB each, upright."""
    times: tuple[float, ...]
    """Seconds from the beginning of the video."""
    notes: tuple[str, ...]
    """What users must know."""


def read_video(path: Path, cut: Cut) -> VideoFrames:
    """The frames that are wanted of a video file.

    even: evenly spaced among all frames, the first and the last among them. coverage: those that differ most, the
    first among them. Raises ValueError that names the file for what is no video, and where no frame can be decoded.
    """
    import av

    _refuse_stills(path)
    try:
        file = av.open(str(path.absolute()), options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise ValueError(f"{path.name}: {_why_not_opened(path)}") from error
    try:
        with file:
            return _Reader(file, cut).read()
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


class _Reader:
    """One pass over one open file."""

    def __init__(self, file: InputContainer, cut: Cut) -> None:
        self.file, self.cut, self.stream = file, cut, _video_stream(file)
        self.stream.thread_type = "AUTO"
        unit = self.stream.time_base
        assert unit is not None
        self.unit, self.origin = unit, (self.stream.start_time or 0) * unit  # seconds
        self.last: float | None = None
        """Time of the last frame that was decoded, seconds from the origin."""
        self.reached = 0.0
        """End of the last packet that was read, likewise."""
        self.damaged = 0
        """Packets and frames that could not be decoded."""

    def read(self) -> VideoFrames:
        from av.video.reformatter import VideoReformatter

        shrink, convert = VideoReformatter(), VideoReformatter()  # kept: their tables take time, for HDR seconds
        kept: Kept[tuple[float, VideoFrame]] = Kept(self.cut.num_frames)
        fps, interval = self.cut.fps, -1
        for time, frame in self._wanted():
            if fps is not None:
                before, interval = interval, math.floor((time - self.cut.start) * fps + 1e-6)
                if interval == before:
                    continue
            features = _features(frame, shrink) if self.cut.choose == "coverage" else None
            kept.add((time, frame), sum(plane.buffer_size for plane in frame.planes), features)
        shots = kept.take()
        if not shots:
            raise ValueError(self._why_nothing())
        notes = self._notes(len(shots))
        if any(frame.color_trc in _HDR for _, frame in shots):
            notes.append("HDR video: colours are approximate")
        times = tuple(time for time, _ in shots)
        aspect = float(self.stream.sample_aspect_ratio or 1)
        images = []
        while shots:  # so that each frame is freed once it is converted
            images.append(_upright_rgb(shots.pop(0)[1], aspect, convert))
        return VideoFrames(tuple(images), times, tuple(notes))

    def _wanted(self) -> Iterator[tuple[float, VideoFrame]]:
        """(time, frame) from start to end."""
        import av

        cut = self.cut
        if cut.start and self.file.format.name.startswith(_INDEXED):
            with contextlib.suppress(av.FFmpegError):  # then it is read from the beginning
                self.file.seek(int((cut.start + self.origin) / self.unit), stream=self.stream)
        for count, frame in enumerate(self._decoded()):
            if frame.pts is None:
                time = count / float(self.stream.average_rate or 25)
            else:
                time = float(frame.pts * self.unit - self.origin)
            if cut.end is not None and time > cut.end + _SAME_TIME:
                self.reached = math.inf
                return
            self.last = time
            if time >= cut.start - _SAME_TIME:
                yield time, frame
            else:
                self.damaged = 0  # what lies before the start does not matter

    def _decoded(self) -> Iterator[VideoFrame]:
        """All whole frames, in order of time; what is damaged is counted."""
        import av

        packets = self.file.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * self.unit - self.origin)
                    self.reached = max(self.reached, end)
                frames = [] if packet.is_corrupt else packet.decode()
                self.damaged += packet.is_corrupt
            except av.FFmpegError:
                self.damaged += 1  # if the file cannot be read on, `packets` ends now
                continue
            self.damaged += sum(frame.is_corrupt for frame in frames)
            yield from (frame for frame in frames if not frame.is_corrupt)

    def _notes(self, found: int) -> list[str]:
        notes = []
        stated = self._stated_seconds()
        if stated is not None and stated - self.reached > max(0.5, 0.02 * stated):
            notes.append(f"the video ends after {self.reached:.1f} of {stated:.1f} s")
        if self.damaged:
            notes.append(f"damaged parts of the video that were left out: {self.damaged}")
        if self.cut.num_frames is not None and found < self.cut.num_frames:
            notes.append(f"{self.cut.num_frames} frames were wanted, the video has {found}")
        return notes

    def _stated_seconds(self) -> float | None:
        if self.stream.duration is not None:
            return float(self.stream.duration * self.unit)
        return None if self.file.duration is None else self.file.duration / 1e6

    def _why_nothing(self) -> str:
        if self.last is not None:
            end = "the end" if self.cut.end is None else f"{self.cut.end:g} s"
            return f"no frame between {self.cut.start:g} s and {end}; the last one before is at {self.last:.2f} s"
        return "no frame of it can be decoded: damaged, or encrypted" if self.damaged else "the video holds no frames"


def _video_stream(file: InputContainer) -> VideoStream:
    """The first that is a film and no cover picture. Raises ValueError."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    stream = next((stream for stream in file.streams.video if not stream.disposition & covers), None)
    if stream is None:
        raise ValueError("the file has no video in it (sound only?)")
    if stream.codec_context is None:
        raise ValueError("there is no decoder for this kind of video here; convert it to H.264 first")
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width}x{stream.height}"
        raise ValueError(f"{size} pixels, at most {MAX_PIXELS} are decoded; scale the video down first")
    return stream


def _refuse_stills(path: Path) -> None:
    """A HEIC picture would open, and be one of the tiles that it is made of."""
    with path.open("rb") as stream:
        head = stream.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _STILLS:
        raise ValueError(f"{path.name}: a HEIC or AVIF picture; convert it to JPEG or PNG first")


def _why_not_opened(path: Path) -> str:
    with path.open("rb") as stream:
        if not (head := stream.read(8)):
            return "the file is empty"
        stream.seek(0)
        if head[4:] == b"ftyp" and not _has_index(stream):
            return "the video has no index (moov), its recording was cut off; repair the file, or film again"
    return f"no video in a format that is read ({_WORDS}), and no picture ({', '.join(FORMATS)})"


def _has_index(stream: BinaryIO) -> bool:
    """Whether the MP4 file has a box `moov`."""
    while len(head := stream.read(16)) >= 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind == b"moov":
            return True
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            return False
        stream.seek(size - len(head), 1)
    return False


def _features(frame: VideoFrame, shrink: VideoReformatter) -> FloatArray:
    """(N,) what tells views apart: a thumbnail."""
    width, height = THUMBNAIL
    small = shrink.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
    return small.to_ndarray().astype(np.float64).ravel()


def _upright_rgb(frame: VideoFrame, aspect: float, convert: VideoReformatter) -> NDArray[np.uint8]:
    """(H, W, 3), turned as the file says, with square pixels. aspect: width of a pixel over its height."""
    colors = {"dst_color_trc": _SRGB, "dst_color_primaries": _BT709} if frame.color_trc in _HDR else {}
    pixels = convert.reformat(frame, width=round(frame.width * aspect), format="rgb24", **colors).to_ndarray()
    (a, b), (c, d) = _display_matrix(frame)
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(frame: VideoFrame) -> FloatArray:
    """(2, 2) that acts on rows (x, y) of pixels and gives where they are shown (ISO/IEC 14496-12, track header)."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        return np.eye(2) if matrix is None else np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    except ValueError:  # the frame has side data that PyAV does not know
        angle = np.radians(frame.rotation)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
