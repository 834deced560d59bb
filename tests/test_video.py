"""Frames of video files that are made here: each frame's grey level tells its number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from gapmllm.scenes import choosing
from gapmllm.scenes.video import Cut, read_video
from gapmllm.scenes.video import _display_matrix as display_matrix
from gapmllm.scenes.video import _Reader as Reader

SIZE = (64, 48)
RATE = 25


def grey(index: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), 5 * index, np.uint8)


def noisy(index: int) -> np.ndarray:
    """The same, with noise that fills the file."""
    return np.clip(grey(index) + np.random.default_rng(index).integers(-40, 41, (SIZE[1], SIZE[0], 1)), 0, 255).astype(
        np.uint8
    )


def film(path: Path, draw=grey, frames: int = 50, codec: str = "mpeg4", setup=None, layout=None, **options) -> Path:
    """A video of `draw(index)`; setup: called with the stream; layout: options of the container."""
    with av.open(str(path), "w", options=layout or {}) as file:
        fine = {"qmin": "1", "qmax": "2"} if codec == "mpeg4" else {}
        stream = file.add_stream(codec, rate=RATE, options=fine | options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        if setup:
            setup(stream)
        for index in range(frames):
            picture = draw(index)
            frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def numbers(images) -> list[int]:
    return [round(float(image.mean()) / 5) for image in images]


def cut_off(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two seconds, 50 frames."""
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_frames_are_evenly_spaced_with_the_first_and_the_last_and_their_times(clip):
    found = read_video(clip, Cut(num_frames=4))
    assert numbers(found.images) == [0, 16, 33, 49]  # by hand: 0, 16.3, 32.7, 49
    assert found.times == pytest.approx([0, 16 / 25, 33 / 25, 49 / 25])
    assert {image.shape for image in found.images} == {(48, 64, 3)}
    assert found.notes == ()
    assert numbers(read_video(clip, Cut(num_frames=1)).images) == [0]


def test_with_fps_the_first_frame_of_each_interval_is_taken(clip):
    assert numbers(read_video(clip, Cut(num_frames=None, fps=5)).images) == list(range(0, 50, 5))
    # 10 a second of 25 a second: the frames at or after 0, 0.1, 0.2, … s
    assert numbers(read_video(clip, Cut(num_frames=None, fps=10, end=0.45)).images) == [0, 3, 5, 8, 10]
    assert numbers(read_video(clip, Cut(num_frames=3, fps=5)).images) == [0, 20, 45]  # 0 and 9 and, of 4.5, the even
    assert len(read_video(clip, Cut(num_frames=None, fps=1000)).images) == 50


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.webm", "a.h264", "a.mov"])
def test_start_and_end_mean_the_same_in_all_containers(tmp_path, name):
    codec = {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(name[1:], "libx264")
    path = film(tmp_path / name, codec=codec, g="10")
    found = read_video(path, Cut(num_frames=None, fps=25, start=1, end=1.4))
    assert numbers(found.images) == list(range(25, 36))
    assert found.times[0] == pytest.approx(1)


def test_a_part_that_holds_no_frame_is_an_error(clip):
    with pytest.raises(ValueError, match=r"clip.mp4: no frame between 3 s and the end; the last one before is at 1.96"):
        read_video(clip, Cut(num_frames=4, start=3))
    with pytest.raises(ValueError, match=r"no frame between 1.01 s and 1.02 s"):
        read_video(clip, Cut(num_frames=4, start=1.01, end=1.02))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_frames": 0}, "number of frames must be 1 to 512, got 0"),
        ({"num_frames": 513}, "number of frames must be 1 to 512"),
        ({"fps": 0}, "fps must be a number above 0"),
        ({"fps": float("nan")}, "fps must be a number above 0"),
        ({"start": -1}, "start must be 0 to 1e\\+07 seconds"),
        ({"start": 2, "end": 2}, "end must be after start"),
        ({"choose": "best"}, "choose must be even or coverage, got 'best'"),
    ],
)
def test_wrong_cuts_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Cut(**{"num_frames": 4, **wrong})


def test_more_frames_than_can_be_looked_at_are_refused(clip, monkeypatch):
    monkeypatch.setattr(choosing, "MAX_FRAMES", 10)
    with pytest.raises(ValueError, match=r"clip.mp4: more than 10 frames; give num_frames, a lower fps"):
        read_video(clip, Cut(num_frames=None, fps=25))


def test_coverage_finds_the_views_of_a_video_that_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "_MOST", 16)  # far fewer than frames
    noise = np.random.default_rng(0).integers(0, 6, (200, 48, 64, 3), dtype=np.uint8)

    def draw(index: int) -> np.ndarray:
        picture = noise[index] + 100
        if 57 <= index < 60:
            picture[:, :32] += 60
        if 130 <= index < 133:
            picture[:24, :, 0] -= 60
        return picture

    path = film(tmp_path / "still.mp4", draw, frames=200)
    found = [round(time * RATE) for time in read_video(path, Cut(num_frames=3, choose="coverage")).times]
    assert found[0] == 0
    assert found[1] in (57, 58, 59)
    assert found[2] in (130, 131, 132)
    even = [round(time * RATE) for time in read_video(path, Cut(num_frames=3)).times]
    assert not {*range(57, 60), *range(130, 133)} & set(even)


def test_coverage_gives_as_many_as_are_wanted_even_if_all_are_alike(tmp_path):
    path = film(tmp_path / "black.mp4", lambda index: grey(0), frames=20)
    assert len(read_video(path, Cut(num_frames=6, choose="coverage")).images) == 6


def corner(index: int) -> np.ndarray:
    """Red at the top left."""
    picture = grey(0)
    picture[:24, :32, 0] = 200
    return picture


@pytest.mark.parametrize(
    ("turn", "row", "column"),
    [
        ((0,), 0, 0),
        ((90,), 1, 0),  # counterclockwise: the top left goes to the bottom left
        ((-90,), 0, 1),
        ((180,), 1, 1),
        ((0, True), 0, 1),  # mirrored
        ((0, False, True), 1, 0),
    ],
)
def test_frames_are_turned_as_the_file_says(tmp_path, turn, row, column):
    path = film(tmp_path / "turned.mp4", corner, 2, setup=lambda stream: stream.set_display_rotation(*turn))
    image = read_video(path, Cut(num_frames=1)).images[0]
    assert image.shape == ((64, 48, 3) if turn[0] in (90, -90) else (48, 64, 3))
    quarter = image[:, :, 0].reshape(2, image.shape[0] // 2, 2, -1).mean((1, 3))
    assert np.argwhere(quarter > 100).tolist() == [[row, column]]


def test_side_data_that_pyav_does_not_know_leaves_the_rotation():
    class Frame(SimpleNamespace):
        @property
        def side_data(self):
            raise ValueError("28 is not a valid Type")

    np.testing.assert_allclose(display_matrix(Frame(rotation=90)), [[0, -1], [1, 0]], atol=1e-9)


def test_pixels_become_square(tmp_path):
    def wide(stream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    assert read_video(film(tmp_path / "wide.mp4", setup=wide), Cut(num_frames=1)).images[0].shape == (48, 96, 3)


@pytest.mark.parametrize(("transfer", "level", "notes"), [(16, 255, 1), (18, 164, 1), (1, 148, 0)])
def test_ten_bits_become_eight_and_hdr_is_mapped_and_said(tmp_path, transfer, level, notes):
    """PQ 0.58 is diffuse white, 203 cd/m2 (BT.2408); without a transfer function it is 0.58 of 255."""

    def setup(stream) -> None:
        stream.pix_fmt = "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, 9 if notes else 1
        stream.codec_context.colorspace, stream.codec_context.color_range = 9 if notes else 1, 1

    def draw(index: int) -> av.VideoFrame:
        frame = av.VideoFrame(*SIZE, "yuv420p10le")
        for plane, value in zip(frame.planes, (64 + 876 * 0.5807, 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
        return frame

    found = read_video(film(tmp_path / "ten.mkv", draw, 2, "ffv1", setup), Cut(num_frames=1))
    assert float(found.images[0].mean()) == pytest.approx(level, abs=3)
    assert [note for note in found.notes if "HDR" in note] == ["HDR video: colours are approximate"] * notes


def test_a_video_that_was_cut_off_gives_what_there_is_and_says_so(tmp_path):
    path = film(tmp_path / "short.mp4", noisy, codec="libx264", layout={"movflags": "faststart"}, g="5")
    whole = read_video(path, Cut(num_frames=4))
    found = read_video(cut_off(path, 0.7), Cut(num_frames=4))
    assert whole.notes == ()
    assert any(note.startswith(f"the video ends after {found.times[-1] + 0.08:.1f} of 2.0 s") for note in found.notes)
    assert len(found.images) == 4
    assert numbers(found.images)[-1] == round(found.times[-1] * RATE) < 45


def test_a_fragmented_video_that_was_cut_off_says_what_is_damaged(tmp_path):
    layout = {"movflags": "frag_keyframe+empty_moov"}
    path = cut_off(film(tmp_path / "fragments.mp4", noisy, codec="libx264", layout=layout, g="5"), 0.6)
    assert read_video(path, Cut(num_frames=4)).notes == ("damaged parts of the video that were left out: 1",)


def test_damage_in_the_middle_is_left_out(tmp_path):
    path = film(tmp_path / "damaged.mp4", noisy, layout={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = slice(len(data) * 6 // 10, len(data) * 8 // 10)
    data[middle] = bytes(255 - value for value in data[middle])
    path.write_bytes(data)
    found = read_video(path, Cut(num_frames=None, fps=25))
    assert "damaged parts of the video that were left out" in found.notes[0]
    lost = int(found.notes[0].rpartition(" ")[2])
    assert 20 < len(found.images) <= 50 - lost < 50  # nothing that was patched up is taken
    assert found.times[0] == 0
    assert found.times[-1] == pytest.approx(49 / 25)


def test_damage_before_the_start_does_not_matter(tmp_path):
    path = film(tmp_path / "damaged.avi", noisy)  # read from the beginning, see below
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 10, len(data) * 3 // 10, 50):  # no frame there is whole, none is skipped in silence
        data[at] ^= 255
    path.write_bytes(data)
    assert read_video(path, Cut(num_frames=4)).notes[0].startswith("damaged parts")
    assert read_video(path, Cut(num_frames=4, start=1)).notes == ()


@pytest.mark.parametrize(("name", "most"), [("a.mp4", 20), ("a.mkv", 20), ("a.ts", 50)])
def test_where_there_is_an_index_reading_begins_before_the_start(tmp_path, monkeypatch, name, most):
    decoded = []

    def count(reader):
        for frame in all_frames(reader):
            decoded.append(frame.pts)
            yield frame

    all_frames = Reader._decoded
    monkeypatch.setattr(Reader, "_decoded", count)
    read_video(film(tmp_path / name, codec="libx264", g="10"), Cut(num_frames=4, start=1.6))
    assert len(decoded) == most if most == 50 else 10 <= len(decoded) <= most


def test_one_frame_is_enough_and_said(tmp_path):
    found = read_video(film(tmp_path / "one.mp4", frames=1), Cut(num_frames=4))
    assert (len(found.images), found.notes) == (1, ("4 frames were wanted, the video has 1",))


def sound(path: Path, cover: bool = False, layout: str | None = None) -> None:
    """A sound file; with a cover picture, or with a video track that holds nothing."""
    with av.open(str(path), "w", format=layout) as file:
        if cover or layout:
            picture = file.add_stream("mjpeg" if cover else "mpeg4", rate=1)
            picture.width, picture.height, picture.pix_fmt = *SIZE, "yuvj420p" if cover else "yuv420p"
        stream = file.add_stream("aac", rate=16000)
        if cover:
            picture.disposition = Disposition.attached_pic
            file.mux([*picture.encode(av.VideoFrame.from_ndarray(grey(9))), *picture.encode()])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        file.mux([*stream.encode(frame), *stream.encode()])


def playlist(path: Path) -> None:
    film(path.with_name("part.ts"))
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n", encoding="utf-8")


def test_a_playlist_is_not_followed(tmp_path):
    playlist(tmp_path / "clip.m3u8")
    with av.open(str(tmp_path / "clip.m3u8")) as file:
        assert file.format.name == "hls"  # PyAV would
    with pytest.raises(ValueError, match=r"clip.m3u8: no video in a format that is read"):
        read_video(tmp_path / "clip.m3u8", Cut(num_frames=4))


def recoded(path: Path) -> None:
    film(path, codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def still(path: Path) -> None:
    """A file that PyAV would open, as it opens HEIC."""
    film(path)
    path.write_bytes(path.read_bytes()[:8] + b"heic" + path.read_bytes()[12:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("no video " * 99, encoding="utf-8"), "no video in a format that is read"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: cut_off(film(path), 0.6), r"no index \(moov\), its recording was cut off"),
        (
            lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + film(path).read_bytes()[12:]),
            "a HEIC or AVIF picture; convert it",
        ),
        (lambda path: sound(path, layout="matroska"), "the video holds no frames"),
        (lambda path: sound(path, cover=True), r"no video in it \(sound only\?\)"),
        (sound, r"no video in it \(sound only\?\)"),
        (recoded, "no decoder for this kind of video"),
    ],
)
def test_what_is_no_video_is_refused_in_words_and_nothing_is_printed(tmp_path, capfd, make, message):
    make(tmp_path / "clip.mp4")
    capfd.readouterr()
    with pytest.raises(ValueError, match=f"^clip.mp4: .*{message}") as caught:
        read_video(tmp_path / "clip.mp4", Cut(num_frames=4))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_huge_frames_are_refused_before_they_are_decoded(clip, monkeypatch):
    monkeypatch.setattr("gapmllm.scenes.video.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"clip.mp4: 64x48 pixels, at most 1000 are decoded"):
        read_video(clip, Cut(num_frames=4))
