"""Videos written here: exact, deterministic, whole."""

import io
import itertools

import av
import numpy as np
import pytest
from numbered_video import numbered_frame, read_numbers
from PIL import Image

from vsgrpo.errors import DataError
from vsgrpo.video.reader import probe, read_frames
from vsgrpo.video.writer import fit_size, write_video


def to_jpeg(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "jpeg", quality=90)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1296, 968), (640, 480)),  # 640 / 1296 = .49383 -> height 478.02, within 1 % of 480
        ((1920, 1080), (640, 360)),
        ((480, 640), (360, 480)),
        ((640, 480), (640, 480)),
        ((320, 240), (320, 240)),
        ((57, 41), (56, 40)),
    ],
)
def test_fit_size_by_hand(size, expected):
    assert fit_size(*size) == expected


def test_arrays_come_back_and_are_counted(tmp_path):
    frames = [numbered_frame(i) for i in range(64)]
    assert write_video(tmp_path / "new" / "a.mp4", iter(frames), fps=24, keyframe_interval=10) == 64
    back = read_frames(tmp_path / "new" / "a.mp4", range(64))
    assert read_numbers(back) == list(range(64))
    assert np.abs(back.astype(int) - np.stack(frames)).mean() < 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_keyframes_come_at_the_interval(video_100):
    with av.open(str(video_100)) as container:
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    assert keys[0] == 0 and all(later - earlier <= 30 for earlier, later in itertools.pairwise(keys))
    assert len(keys) < 10  # 4 by the interval, and a few scene cuts


def test_jpegs_are_resized_and_keep_their_colours(tmp_path):
    frames = [np.full((96, 128, 3), (200, 60, 30 + i), np.uint8) for i in range(6)]
    path = tmp_path / "a.mp4"
    assert write_video(path, [to_jpeg(frame) for frame in frames], fps=24, size=(64, 48)) == 6
    assert probe(path).width == 64 and probe(path).height == 48
    assert np.abs(read_frames(path, [5])[0].astype(int) - (200, 60, 35)).max() <= 8


def test_jpegs_are_not_all_keyframes(tmp_path):
    write_video(tmp_path / "a.mp4", [to_jpeg(numbered_frame(0))] * 20, fps=24)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size) == 1


def noisy_frames(side: int) -> list[np.ndarray]:
    """Scene cuts and motion in noise: with AVX-512 code 24 of them at 56x56 gave 11 files in 60 encodes."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return [np.roll(noise, 2 * i, 1) if i % 7 else rng.integers(0, 256, noise.shape, np.uint8) for i in range(24)]


@pytest.mark.integration
@pytest.mark.parametrize("side", [36, 56])
def test_equal_frames_give_equal_bytes(tmp_path, side):
    written = set()
    for number in range(30):
        held = bytearray(50_000 * (number % 7))  # other addresses, other leftovers in memory
        write_video(tmp_path / "a.mp4", noisy_frames(side), fps=24)
        written.add((tmp_path / "a.mp4").read_bytes())
        del held
    assert len(written) == 1


@pytest.mark.parametrize("preset", ["veryfast", "ultrafast"])
def test_the_bytes_are_those_of_x264_in_c(tmp_path, monkeypatch, preset):
    write_video(tmp_path / "a.mp4", noisy_frames(56), fps=24, preset=preset)
    monkeypatch.setattr("vsgrpo.video.writer._X264_CODE", "0")
    write_video(tmp_path / "b.mp4", noisy_frames(56), fps=24, preset=preset)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_odd_side_loses_one_pixel(tmp_path):
    frame = numbered_frame(5, height=49, width=65)
    write_video(tmp_path / "a.mp4", [frame, frame], fps=24)
    back = read_frames(tmp_path / "a.mp4", [1])
    assert back.shape == (1, 48, 64, 3) and read_numbers(back) == [5]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "no frames"),
        ([numbered_frame(0), numbered_frame(0, height=64)], "frame 1 is 64x64, the first is 64x48"),
        ([to_jpeg(numbered_frame(0)), b"not a jpeg"], "source frame 1 is not a readable JPEG"),
        ([to_jpeg(numbered_frame(0))[:600]], "source frame 0 is not a readable JPEG"),
        ([b""], "source frame 0 is not a readable JPEG"),
    ],
)
def test_bad_frames_leave_no_file(tmp_path, frames, words):
    with pytest.raises(DataError, match=words):
        write_video(tmp_path / "a.mp4", frames, fps=24)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    def frames():
        yield numbered_frame(0)
        raise KeyboardInterrupt

    write_video(tmp_path / "a.mp4", [numbered_frame(1)], fps=24)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", frames(), fps=24)
    assert read_numbers(read_frames(tmp_path / "a.mp4", [0])) == [1]
    assert len(list(tmp_path.iterdir())) == 1
