"""A clip of a video, from a start to an end in seconds, is loaded as if it were the video."""

import numpy as np
import pytest

from vsgrpo.errors import DataError
from vsgrpo.families import FAMILIES
from vsgrpo.video.budget import VisionBudget
from vsgrpo.video.loader import VideoLoader
from vsgrpo.video.reader import probe, read_frames, read_uniform_frames
from vsgrpo.video.writer import write_video

FPS, LEVELS = 10, 4
"""Frame i is grey of level 4 i, and shown at i / 10 s."""


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds, 60 frames."""
    path = tmp_path_factory.mktemp("clips") / "film.mp4"
    write_video(path, (np.full((56, 84, 3), LEVELS * i, dtype=np.uint8) for i in range(60)), FPS, keyframe_interval=7)
    return path


def shown(frames):
    """Return the numbers of frames by their grey; H.264 moves a level by less than 2."""
    return [round(float(level) / LEVELS) for level in frames.mean(axis=(1, 2, 3))]


@pytest.mark.parametrize(
    ("clip", "first", "last"),
    [
        ((0, 6), 0, 59),
        ((2, 4), 20, 40),  # ceil(2 * 10) to floor(4 * 10), both shown
        ((2.05, 3.99), 21, 39),
        ((0.3, 0.7), 3, 7),  # 0.3 * 10 is 3.0000000000000004 as a float: the frame at 0.3 s is in it all the same
        ((5.5, 1000), 55, 59),  # what the film has not is left out
        ((2.02, 2.08), 20, 20),  # between two frames: the one on screen
        ((5.95, 5.99), 59, 59),
    ],
)
def test_frames_of_a_clip_are_those_shown_in_its_time(film, clip, first, last):
    header, frames = read_uniform_frames(film, 4, clip=clip)
    assert (header.num_frames, header.fps, header.height, header.width) == (last - first + 1, FPS, 56, 84)
    wanted = np.linspace(first, last, 4).round().astype(int).tolist()
    assert shown(frames) == wanted and np.array_equal(frames, read_frames(film, wanted))
    assert probe(film, clip=clip) == header


def test_decord_gives_the_same_clip(film):
    pytest.importorskip("decord")
    ours, theirs = (read_uniform_frames(film, 4, backend, clip=(2, 4)) for backend in ("pyav", "decord"))
    assert ours[0] == theirs[0] and shown(ours[1]) == shown(theirs[1]) == [20, 27, 33, 40]


def test_times_begin_with_the_clip(film):
    budget = VisionBudget(num_frames=4)
    loader = VideoLoader(budget)
    medium = loader.load(film, "video", 2, 4).medium
    assert medium == loader.medium(film, "video", 2, 4) == budget.medium("video", 56, 84, 21, FPS)
    # frames 0, 7, 13, 20 of the clip: 0, 0.7, 1.3, 2 s; the mean of each pair
    assert medium.timestamps == (pytest.approx(0.35), pytest.approx(1.65))
    assert medium.seconds_per_patch == pytest.approx(2 / (4 / 21 * 10))  # 1.05 s
    text = FAMILIES["qwen3_vl"].written(medium)
    assert text.startswith("<0.3 seconds>") and "<1.6 seconds>" in text  # the library rounds halves of floats down
    whole = loader.medium(film)
    assert (whole.seconds_per_patch, whole.grid_thw) == (pytest.approx(3), medium.grid_thw)


@pytest.mark.parametrize("cache", ["off", "memory", "disk"])
def test_clips_of_one_file_have_keys_and_frames_of_their_own(film, tmp_path, cache):
    loader = VideoLoader(VisionBudget(num_frames=4), frame_cache=cache, cache_dir=tmp_path, timeout_s=30)
    spans = ((), (0, 2), (2, 4), (2, 4.5))
    for _ in range(2):
        found = [loader.load(film, "video", *span) for span in spans]
        numbers = [shown(item.frames.permute(0, 2, 3, 1).numpy()) for item in found]
        assert numbers == [[0, 20, 39, 59], [0, 7, 13, 20], [20, 27, 33, 40], [20, 28, 37, 45]]
        assert len({item.key for item in found}) == 4
    assert loader.num_decoded == (8 if cache == "off" else 4)
    assert loader.key(film, "video", 2, 4) == loader.key(film, "video", 2.0, 4.0)
    assert np.array_equal(loader.undecoded(film, "video", 2, 4).frames, found[2].frames)


def test_a_clip_after_the_end_is_refused_and_the_others_are_not(film):
    loader = VideoLoader(VisionBudget(num_frames=4))
    for _ in range(2):
        with pytest.raises(DataError, match=r"film\.mp4: a clip from 7 to 9 s is asked for, it ends at 5\.90 s"):
            loader.load(film, "video", 7, 9)
    assert loader.load(film, "video", 2, 4).medium.grid_thw[0] == 2
