"""Pictures that are the frames of a video: all of them are shown, the last repeated to whole temporal patches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vsgrpo.errors import DataError
from vsgrpo.video.budget import Medium, VisionBudget
from vsgrpo.video.loader import BadVideo, VideoLoader
from vsgrpo.video.place import FrameList, files_of, place_name

BUDGET = VisionBudget(num_frames=16)


def frame_list(folder, number, size=(56, 56), fps=0.5):
    """Return pictures of one grey each, frame k of level 40 k."""
    files = tuple(folder / f"{k}.png" for k in range(number))
    for k, file in enumerate(files):
        Image.new("RGB", (size[1], size[0]), (40 * k,) * 3).save(file)
    return FrameList(files, fps, position_fps=2.0)


def test_all_frames_are_shown_and_the_last_fills_the_last_patch(tmp_path):
    frames = frame_list(tmp_path, 3)
    loader = VideoLoader(BUDGET, timeout_s=None)
    found = loader.load(frames)
    assert found.frames.shape == (4, 3, 56, 56) and found.frames.dtype == torch.uint8
    assert found.frames.float().mean(dim=(1, 2, 3)).tolist() == [0, 40, 80, 80]
    # 4 of 4 frames, 2 a patch: 2 patches of 4 x 4 patches of 14 pixels, 2 * 4 * 4 / 4 = 8 tokens. At 0.5 a second they
    # are at 0, 2, 4 and 6 s: 1 and 5 s in the middle of each pair. Positions count 2 frames a second: 1 s a patch.
    assert found.medium == loader.medium(frames) == Medium("video", (2, 4, 4), 8, 1.0, (1.0, 5.0))
    assert torch.equal(loader.undecoded(frames).frames, found.frames)
    assert loader.num_decoded == 2  # no cache is set


def test_frames_equal_qwen_vl_utils(tmp_path):
    theirs = pytest.importorskip("qwen_vl_utils.vision_process")
    generator = np.random.default_rng(0)
    files = tuple(tmp_path / f"{k}.bmp" for k in range(3))
    for file in files:
        Image.fromarray(generator.integers(0, 256, (120, 240, 3), dtype=np.uint8)).save(file)
    # sqrt(120 * 240 / 7200) = 2: 60 x 120 pixels, 56 x 112 in multiples of 28 and of 56
    entry = {"video": [str(file) for file in files], "min_pixels": 3136, "max_pixels": 7200, "sample_fps": 0.5}
    (video, metadata) = theirs.fetch_video(entry, image_patch_size=14, return_video_metadata=True)
    ours = VideoLoader(replace(BUDGET, max_pixels=7200), timeout_s=None).load(FrameList(files, 0.5, 2.0))
    assert video.shape == (4, 3, 56, 112) and torch.equal(video[2], video[3])
    assert torch.equal(ours.frames.float(), video)
    times = [index / metadata["fps"] for index in metadata["frames_indices"]]
    assert ours.medium.timestamps == ((times[0] + times[1]) / 2, (times[2] + times[3]) / 2) == (1.0, 5.0)


def test_the_key_holds_contents_order_number_and_rates_but_no_num_frames(tmp_path):
    loader, frames = VideoLoader(BUDGET, timeout_s=None), frame_list(tmp_path, 3)
    key = loader.key(frames)
    copies = tmp_path / "copies"
    copies.mkdir()
    assert loader.key(frame_list(copies, 3)) == key
    assert VideoLoader(replace(BUDGET, num_frames=4), timeout_s=None).key(frames) == key
    files = frames.files
    others = [replace(frames, files=files[:2]), replace(frames, files=(*files, files[2])), replace(frames, fps=1.0)]
    others += [replace(frames, files=files[::-1]), replace(frames, position_fps=1.0)]
    keys = {key, *map(loader.key, others), VideoLoader(replace(BUDGET, max_pixels=3136), timeout_s=None).key(frames)}
    assert len(keys) == 7


def test_a_bad_frame_is_named_and_frames_have_one_size(tmp_path):
    frames = frame_list(tmp_path, 3)
    frames.files[1].write_bytes(b"no picture")
    loader = VideoLoader(BUDGET, timeout_s=None, on_bad="skip")
    with pytest.raises(BadVideo, match=r"1\.png"):
        loader.load(frames)
    assert [name.rpartition("/")[2] for name in loader.quarantine] == ["1.png"]
    Image.new("RGB", (84, 56)).save(frames.files[1])
    with pytest.raises(DataError, match=r"1\.png: 84x56, 0\.png 56x56: frames of a video have one size"):
        VideoLoader(BUDGET, timeout_s=None).load(frames)


def test_files_and_names_of_places(tmp_path):
    frames = FrameList((tmp_path / "a.png", tmp_path / "b.png"), 1.0, 2.0)
    media = [("video", frames), ("image", tmp_path / "c.png"), ("video", tmp_path / "d.mp4", 1.0, 2.5)]
    assert [(kind, path.name) for kind, path in files_of(media)] == [
        *(("image", name) for name in ("a.png", "b.png", "c.png")),
        ("video", "d.mp4"),
    ]
    names = [place_name(place).removeprefix(f"{tmp_path}/") for place in media]
    assert names == ["a.png to b.png (2 frames)", "c.png", "d.mp4 (1 to 2.5 s)"]
