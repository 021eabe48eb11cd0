"""The vision budget against qwen-vl-utils and by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.video.budget import VisionBudget, frame_indices, smart_resize, upper_bound_tokens

SIDES = [1, 2, 13, 14, 27, 28, 29, 42, 55, 56, 70, 97, 100, 224, 336, 480, 640, 968, 1296, 1920, 2800, 4032]
PIXELS = [(3136, 100352), (100352, 100352), (3136, 3136), (784, 50176), (12544, 602112)]


def test_smart_resize_equals_qwen_vl_utils_on_a_grid():
    theirs = pytest.importorskip("qwen_vl_utils.vision_process")
    num_equal = num_refused = 0
    for low, high in PIXELS:
        for height in SIDES:
            for width in SIDES:
                try:
                    expected = theirs.smart_resize(height, width, 28, low, high)
                except ValueError:
                    expected = (0, 0)
                if min(expected) == 0:  # refused there, or an empty frame
                    num_refused += 1
                    with pytest.raises(DataError, match=f"{width}x{height}"):
                        smart_resize(height, width, 28, low, high)
                else:
                    num_equal += 1
                    assert smart_resize(height, width, 28, low, high) == expected
    assert num_equal > 1900 and num_refused > 50


@pytest.mark.parametrize("num_frames", [2, 3, 5, 8, 13, 15, 16, 17, 31, 32, 64])
def test_sampled_frames_equal_qwen_vl_utils(num_frames):
    theirs = pytest.importorskip("qwen_vl_utils.vision_process")
    assert VisionBudget(num_frames=num_frames).sampled_frames == theirs.smart_nframes({"nframes": num_frames}, 1000, 24)


def test_tokens_of_a_640x480_video_by_hand():
    # 640 * 480 = 307200 > 100352: scale sqrt(307200 / 100352) = 1.74963; 480 / 1.74963 = 274.3 -> 9 * 28 = 252,
    # 640 / 1.74963 = 365.8 -> 13 * 28 = 364. Grid 16 / 2 = 8, 252 / 14 = 18, 364 / 14 = 26; 8 * 18 * 26 / 4 = 936.
    medium = VisionBudget().medium("video", 480, 640)
    assert smart_resize(480, 640) == (252, 364)
    assert medium.grid_thw == (8, 18, 26)
    assert medium.num_tokens == 936


def test_larger_patches_mean_larger_frames_and_as_many_tokens():
    # 128 tokens of 32 x 32 are 131072 pixels: scale sqrt(307200 / 131072) = 1.53093; 480 / 1.53093 = 313.5 -> 9 * 32,
    # 640 / 1.53093 = 418.05 -> 13 * 32. As many rows and columns as above: 936 tokens.
    budget = VisionBudget(patch=16)
    assert budget.pixels() == (4096, 131072) and budget.pixels("image")[1] == 1280 * 32 * 32
    assert budget.size(480, 640) == (288, 416) and budget.medium("video", 480, 640).num_tokens == 936
    assert upper_bound_tokens(budget) == upper_bound_tokens(VisionBudget())
    with pytest.raises(ConfigError, match=r"video\.max_pixels=783: must be at least 784, one token"):
        VisionBudget(patch=16, min_pixels=1, max_pixels=783)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (56, 56), (1080, 1920), (1920, 1080), (333, 777)])
def test_frames_of_qwen3_vl_are_resized_as_its_own_processor_does(height, width):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as theirs

    budget = VisionBudget(patch=16)
    low, high = (16 * pixels for pixels in budget.pixels())  # its bounds are those of all frames together
    sizes = {"num_frames": 16, "temporal_factor": 2, "factor": 32, "min_pixels": low, "max_pixels": high}
    assert budget.size(height, width) == theirs(height=height, width=width, **sizes)


def test_small_frames_keep_their_size():
    # 56 * 56 = 3136 is min_pixels exactly: 8 frames give 4 * (4 * 4) / 4 = 16 tokens.
    assert smart_resize(56, 56) == (56, 56)
    assert VisionBudget(num_frames=8).medium("video", 56, 56).num_tokens == 16


def test_an_odd_number_of_frames_is_rounded_and_an_image_is_one_patch():
    assert VisionBudget(num_frames=7).medium("video", 56, 56).grid_thw == (4, 4, 4)
    assert VisionBudget().medium("image", 56, 56).grid_thw == (1, 4, 4)


def test_frame_indices_by_hand():
    # linspace(0, 9, 4) = 0 3 6 9; linspace(0, 2, 5) = 0 .5 1 1.5 2 -> halves to even: 0 0 1 2 2
    assert frame_indices(10, 4) == [0, 3, 6, 9]
    assert frame_indices(3, 5) == [0, 0, 1, 2, 2]
    assert frame_indices(1, 4) == [0, 0, 0, 0]
    assert all(type(index) is int for index in frame_indices(10, 4))
    with pytest.raises(DataError):
        frame_indices(0, 4)


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 5000), num_frames=st.integers(2, 64))
def test_frame_indices_run_from_first_to_last(total, num_frames):
    indices = frame_indices(total, num_frames)
    assert len(indices) == num_frames and indices[0] == 0 and indices[-1] == total - 1
    assert indices == sorted(indices)
    if total >= num_frames:
        assert len(set(indices)) == num_frames


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    pixels=st.sampled_from([*PIXELS, (28 * 28 * 9, 28 * 28 * 9), (5000, 6000)]),
    num_frames=st.sampled_from([2, 8, 16]),
)
def test_upper_bound_is_never_passed(height, width, pixels, num_frames):
    budget = VisionBudget(num_frames, *pixels)
    try:
        medium = budget.medium("video", height, width)
    except DataError:
        return
    assert medium.num_tokens <= upper_bound_tokens(budget)


def test_upper_bound_by_hand():
    # 100352 / 784 = 128 tokens for two frames, 8 pairs: 1024.
    assert upper_bound_tokens(VisionBudget()) == 1024
    # min = max = 3136 (56 * 56), square-ish frames only (ratio 1): shorter side 1 token: 56 / 28 -> 2 + 1 = 3;
    # 2 tokens: 3136 / 28 = 112 -> 4 + 1 = 5, 10 tokens; 3 tokens: 3136 / 56 = 56 -> 2 + 1 = 3, 9 tokens. 4 pairs: 40.
    assert upper_bound_tokens(VisionBudget(8, 3136, 3136), max_aspect_ratio=1) == 40


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"num_frames": 1}, "video.num_frames=1"),
        ({"num_frames": 0}, "video.num_frames=0"),
        ({"min_pixels": 200000}, "video.min_pixels=200000"),
        ({"min_pixels": 100, "max_pixels": 500}, "video.max_pixels=500"),
    ],
)
def test_a_budget_that_cannot_be_met_is_a_config_error(values, key):
    with pytest.raises(ConfigError, match=key):
        VisionBudget(**values)
