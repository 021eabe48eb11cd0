import re
from dataclasses import replace

import pytest
import torch
from tiny_inputs import QWEN3, make_video
from transformers.video_utils import VideoMetadata

from vsgrpo.errors import DataError
from vsgrpo.modeling.bundle import prompt_positions
from vsgrpo.modeling.prompt import encode_prompt, expand_placeholders
from vsgrpo.video.budget import Medium, VisionBudget, frame_indices


@pytest.mark.both_families
def test_prompt_equals_the_processor_on_text_and_frames_together(tiny, monkeypatch):
    monkeypatch.setattr(tiny.model, "text_after_video", "library")
    # sampled from 30 frames at 2.5 per second: 12 s in 4 temporal patches of 3 s each
    video, side = make_video(0), 4 * tiny.family.patch
    medium = VisionBudget(num_frames=8, patch=tiny.family.patch).medium("video", side, side, 30, 2.5)
    source = VideoMetadata(30, fps=2.5, frames_indices=frame_indices(30, 8))
    tiny = replace(tiny, vision_marks="library")
    ids = encode_prompt(tiny, "How many chair(s) are in this room?", [medium])
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    rendered = ("" if tiny.family.model_type in QWEN3 else system) + (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>How many chair(s) are in this room?<|im_end|>\n"
        "<|im_start|>assistant\n" + ("<think>\n\n</think>\n\n" if tiny.family.model_type == "qwen3_5" else "")
    )
    together = tiny.processor(
        text=[rendered],
        videos=[video.frames],
        video_metadata=[source],
        do_sample_frames=False,
        do_resize=False,
        cap_pixels_per_frame=False,
        return_tensors="pt",
    )
    assert ids == together["input_ids"][0].tolist()
    assert ("second_per_grid_ts" in together) == (tiny.family.model_type == "qwen2_5_vl")
    named = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    expected, _ = tiny.model.model.get_rope_index(**{name: together[name] for name in named if name in together})
    ours = prompt_positions(tiny.model, ids, [medium])
    assert torch.equal(ours.positions, expected[:, 0])
    assert ids.count(tiny.processor.video_token_id) == medium.num_tokens == 16  # 4 x 4 x 4 patches / 4
    if tiny.family.model_type in QWEN3:
        # Frames 0 4 8 12 17 21 25 29 of 2.5 a second: (0 + 4) / 2 / 2.5 = 0.8 s, then 4.0, 7.6 and 10.8 s.
        text = tiny.tokenizer.decode(ids)
        assert re.findall(r"<(\d+\.\d) seconds><\|vision_start\|><\|video_pad\|>", text) == [
            "0.8",
            "4.0",
            "7.6",
            "10.8",
        ]
        return
    # 15 tokens stand before the video; a patch of 3 s at 2 positions per second is 6 positions long
    step = 6 if tiny.family.model_type == "qwen2_5_vl" else 1
    start = ids.index(tiny.processor.video_token_id)
    assert ours.positions[0, start : start + 16 : 4].tolist() == [start + step * t for t in range(4)]
    assert len(ids) == 47  # 31 tokens of text and marks + 16 video tokens


def test_own_system_turn_replaces_the_default(tiny):
    ids = encode_prompt(tiny, "x", [Medium("video", (1, 4, 4), 4)], system="Look closely.")
    assert tiny.tokenizer.decode(ids).startswith("<|im_start|>system\nLook closely.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|im_end|>", "<|vision_start|>"])
def test_special_tokens_in_a_question_are_refused(tiny, token):
    with pytest.raises(DataError, match="special token"):
        encode_prompt(tiny, f"How many {token} are there?", [Medium("video", (4, 4, 4), 16)])


def test_placeholders_are_expanded_in_order():
    assert expand_placeholders([1, 9, 2, 9, 3], (9,), [2, 3]) == [1, 9, 9, 2, 9, 9, 9, 3]
    with pytest.raises(DataError, match="2 placeholders rendered for 1 video or image"):
        expand_placeholders([1, 9, 2, 9, 3], (9,), [2])
