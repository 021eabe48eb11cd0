import pytest
from tiny_inputs import make_video

from vsgrpo.errors import DataError
from vsgrpo.modeling.prompt import encode_prompt, expand_placeholders


def test_prompt_equals_the_processor_on_text_and_frames_together(tiny):
    video = make_video(0)
    ids = encode_prompt(tiny.processor, "How many chair(s) are in this room?", [video.num_tokens])
    rendered = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|video_pad|><|vision_end|>How many chair(s) are in this room?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    together = tiny.processor(
        text=[rendered], videos=[video.frames], do_sample_frames=False, do_resize=False, cap_pixels_per_frame=False
    )
    assert ids == together["input_ids"][0]
    # 31 tokens of text and marks + 4 x 4 x 4 patches / 4 = 16 video tokens
    assert len(ids) == 47 and ids.count(tiny.processor.video_token_id) == video.num_tokens == 16


def test_own_system_turn_replaces_the_default(tiny):
    ids = encode_prompt(tiny.processor, "x", [4], system="Look closely.")
    assert tiny.tokenizer.decode(ids).startswith("<|im_start|>system\nLook closely.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|im_end|>", "<|vision_start|>"])
def test_special_tokens_in_a_question_are_refused(tiny, token):
    with pytest.raises(DataError, match="special token"):
        encode_prompt(tiny.processor, f"How many {token} are there?", [16])


def test_placeholders_are_expanded_in_order():
    assert expand_placeholders([1, 9, 2, 9, 3], (9,), [2, 3]) == [1, 9, 9, 2, 9, 9, 9, 3]
    with pytest.raises(DataError, match="2 placeholders rendered for 1 videos and images"):
        expand_placeholders([1, 9, 2, 9, 3], (9,), [2])
