"""The loader against transformers' processor and qwen-vl-utils; its caches and its quarantine."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from numbered_video import numbered_frame, read_numbers
from PIL import Image
from transformers.video_utils import VideoMetadata

from untimed_video import write_untimed
from vsgrpo.errors import ConfigError, DataError, SetupError
from vsgrpo.video.budget import VisionBudget, frame_indices
from vsgrpo.video.cache import DiskCache
from vsgrpo.video.loader import BadVideo, MemoryCache, VideoLoader
from vsgrpo.video.writer import write_video

SMALL = VisionBudget(num_frames=4)


@pytest.mark.parametrize(("height", "width", "num_frames"), [(56, 56, 8), (96, 128, 5), (30, 300, 16), (480, 640, 16)])
def test_tokens_from_the_header_equal_the_processors(tmp_path, height, width, num_frames):
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    path = tmp_path / "a.mp4"
    write_video(path, (numbered_frame(i, height, width) for i in range(12)), fps=24, preset="ultrafast")
    loader = VideoLoader(VisionBudget(num_frames=num_frames))
    from_header = loader.medium(path)
    inputs = loader.load(path)
    processor = Qwen2VLVideoProcessor(cap_pixels_per_frame=False)
    batch = processor(videos=[inputs.frames], do_sample_frames=False, do_resize=False, return_tensors="pt")
    grid = tuple(batch["video_grid_thw"][0].tolist())
    assert from_header == inputs.medium
    assert inputs.medium.grid_thw == grid and inputs.medium.num_tokens == batch["pixel_values_videos"].shape[0] // 4


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_a_temporal_patch_lasts_as_long_as_the_processor_says(tmp_path, backend):
    path = tmp_path / "a.mp4"
    write_video(path, (numbered_frame(i) for i in range(30)), fps=12, preset="ultrafast")
    budget = VisionBudget(num_frames=8)
    first, second = (VideoLoader(budget, backend, frame_cache="disk", cache_dir=tmp_path / "c") for _ in range(2))
    source = VideoMetadata(30, fps=12, frames_indices=frame_indices(30, 8))
    # 30 frames at 12 per second last 2.5 s, 4 patches of 0.625 s
    assert first.load(path).medium.seconds_per_patch == 2 / source.sampled_fps == 0.625
    assert second.undecoded(path).medium.seconds_per_patch == 0.625
    assert second.load(path).medium.seconds_per_patch == 0.625 and second.num_decoded == 0
    assert budget.medium("video", 56, 56, 30, 0.0).seconds_per_patch is None


def test_an_animation_has_a_header_as_a_picture_and_another_as_a_video(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(numbered_frame(i)) for i in range(8)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    loader = VideoLoader(SMALL, "pyav")
    assert loader.undecoded(path, "image").medium.seconds_per_patch is None
    # 8 frames at 10 per second last 0.8 s, 2 patches of 0.4 s
    assert loader.undecoded(path).medium.seconds_per_patch == pytest.approx(0.4)
    assert loader.undecoded(path, "image").medium.seconds_per_patch is None
    assert loader.key(path) != loader.key(path, "image")


def test_a_640x480_video_costs_936_tokens(tmp_path):
    write_video(tmp_path / "a.mp4", [np.zeros((480, 640, 3), np.uint8)] * 2, fps=24, preset="ultrafast")
    medium = VideoLoader(VisionBudget()).medium(tmp_path / "a.mp4")
    assert (medium.grid_thw, medium.num_tokens) == ((8, 18, 26), 936)


def test_frames_equal_qwen_vl_utils_within_one_level(tmp_path):
    theirs = pytest.importorskip("qwen_vl_utils.vision_process")
    path = tmp_path / "a.mp4"
    write_video(path, (numbered_frame(i, 240, 320) for i in range(30)), fps=24, preset="ultrafast")
    video, _ = theirs._read_video_decord({"video": str(path), "nframes": 6})[:2]
    height, width = theirs.smart_resize(240, 320, 28, 3136, 30000)
    expected = theirs.transforms.functional.resize(
        video, [height, width], interpolation=theirs.InterpolationMode.BICUBIC, antialias=True
    )
    inputs = VideoLoader(VisionBudget(6, 3136, 30000)).load(path)
    difference = (inputs.frames.int() - expected.int()).abs()
    assert inputs.frames.dtype == torch.uint8 and inputs.frames.shape == expected.shape
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3  # uint8 against float32 arithmetic


def test_a_short_video_repeats_its_frames(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, (numbered_frame(i, 56, 84) for i in range(3)), fps=24)
    frames = VideoLoader(VisionBudget(num_frames=6)).load(path).frames
    # linspace(0, 2, 6) = 0 .4 .8 1.2 1.6 2
    assert read_numbers(frames.permute(0, 2, 3, 1).numpy()) == [0, 0, 1, 1, 2, 2]


def test_key_follows_content_and_budget_not_the_path(video_100, tmp_path):
    copy = shutil.copy(video_100, tmp_path / "copy.mp4")
    key = VideoLoader(SMALL).load(video_100).key
    assert VideoLoader(SMALL, backend="pyav").load(copy).key == VideoLoader(SMALL).key(copy) == key
    assert VideoLoader(VisionBudget(num_frames=6)).key(video_100) != key
    loader = VideoLoader(SMALL)
    loader.key(copy)
    write_video(copy, [numbered_frame(9)] * 2, fps=24)
    assert loader.key(copy) != key  # the file changed under the same name


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cached_video_is_decoded_once(video_100, tmp_path, kind):
    loader = VideoLoader(SMALL, frame_cache=kind, cache_dir=tmp_path)
    first, second = loader.load(video_100), loader.load(video_100)
    assert torch.equal(first.frames, second.frames)
    assert (first.medium, first.key) == (second.medium, second.key)
    assert loader.num_decoded == 1


def test_without_a_cache_each_load_decodes(video_100):
    loader = VideoLoader(SMALL)
    assert torch.equal(loader.load(video_100).frames, loader.load(video_100).frames)
    assert loader.num_decoded == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "longer"])
def test_a_corrupt_entry_is_computed_again_and_counted(video_100, tmp_path, damage):
    expected = VideoLoader(SMALL, frame_cache="disk", cache_dir=tmp_path).load(video_100)
    (entry,) = tmp_path.rglob("*.npy")
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    entry.write_bytes({"cut": content[:-500], "empty": b"", "flipped": content, "longer": content + b"x"}[damage])
    loader = VideoLoader(SMALL, frame_cache="disk", cache_dir=tmp_path)
    assert torch.equal(loader.load(video_100).frames, expected.frames)
    assert (loader.num_decoded, loader.cache.num_corrupt) == (1, 1)
    assert torch.equal(loader.load(video_100).frames, expected.frames) and loader.num_decoded == 1


def test_processes_may_share_a_disk_cache(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 56, 56)).astype(np.uint8)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            cache = DiskCache(tmp_path)
            for _ in range(20):
                cache.put("ab01", frames)
                back = cache.get("ab01")
                if back is None or (back != frames).any():
                    os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ab01.npy"]


def test_the_memory_cache_forgets_the_least_recently_used():
    cache = MemoryCache(max_bytes=250)
    for name in "abc":  # 100 bytes each: the third makes 300
        cache.put(name, np.zeros(100, np.uint8))
        if name == "b":
            cache.get("a")
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("c") is not None
    cache.put("huge", np.zeros(251, np.uint8))
    assert cache.get("huge") is None and (len(cache), cache.num_bytes) == (2, 200)


def test_a_bad_file_is_remembered_and_never_replaced(broken_files):
    loader = VideoLoader(SMALL)
    path = broken_files("half")
    for _ in range(2):
        with pytest.raises(DataError, match=r"half.mp4: cut off") as caught:
            loader.load(path)
        assert not isinstance(caught.value, BadVideo)
    assert list(loader.quarantine) == [str(path)] and "cut off" in loader.quarantine[str(path)]
    with pytest.raises(DataError, match=r"half.mp4: cut off"):
        loader.medium(path)


def test_on_bad_skip_raises_its_own_type(broken_files, video_100):
    loader = VideoLoader(SMALL, on_bad="skip")
    for kind in ("missing", "audio", "random"):
        with pytest.raises(BadVideo, match=kind):
            loader.load(broken_files(kind))
    assert loader.load(video_100).medium.num_tokens > 0
    assert len(loader.quarantine) == 3


def test_a_video_without_a_frame_rate_is_bad_where_seconds_count(tmp_path):
    path = tmp_path / "a.ivf"
    write_untimed(path, [numbered_frame(i) for i in range(8)])
    plain = VideoLoader(SMALL, "pyav", on_bad="skip")
    assert plain.load(path).medium.seconds_per_patch is None and plain.quarantine == {}
    for use in ("load", "medium", "undecoded"):
        timed = VideoLoader(SMALL, "pyav", on_bad="skip")
        timed.timed_for = "Qwen2.5-VL"
        with pytest.raises(BadVideo, match="states no frame rate") as caught:
            getattr(timed, use)(path)
        assert caught.value.message.startswith(str(path)) and "ffmpeg -r 24" in caught.value.hint
        assert list(timed.quarantine) == [str(path)]


def test_a_frame_shape_that_cannot_be_resized_names_the_file(tmp_path):
    path = tmp_path / "thin.mp4"
    write_video(path, [np.zeros((2, 500, 3), np.uint8)] * 2, fps=24)
    loader = VideoLoader(SMALL)
    with pytest.raises(DataError, match=r"thin.mp4: frame size 500x2: the aspect ratio"):
        loader.load(path)


@pytest.mark.faults
def test_a_pipe_ends_in_the_quarantine(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    loader = VideoLoader(SMALL, timeout_s=0.3)
    with pytest.raises(DataError, match=r"pipe.mp4: not decoded within video.timeout_s=0.3"):
        loader.load(tmp_path / "pipe.mp4")
    assert len(loader.quarantine) == 1


def test_a_missing_backend_blames_no_file(video_100):
    loader = VideoLoader(SMALL, backend="opencv")
    with pytest.raises(SetupError, match=r"video.backend=opencv"):
        loader.load(video_100)
    assert loader.quarantine == {}


def test_a_loader_travels_to_another_process_without_its_frames(video_100):
    loader = VideoLoader(SMALL, frame_cache="memory")
    expected = loader.load(video_100)
    copy = pickle.loads(pickle.dumps(loader))
    assert len(copy.cache) == 0 and torch.equal(copy.load(video_100).frames, expected.frames)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"on_bad": "replace"}, "video.on_bad=replace"),
        ({"frame_cache": "ram"}, "video.frame_cache=ram"),
        ({"frame_cache": "disk"}, "video.cache_dir=null"),
    ],
)
def test_unknown_settings_are_config_errors(values, key):
    with pytest.raises(ConfigError, match=key):
        VideoLoader(SMALL, **values)
