"""What only Qwen3-VL has: the time of frames as text, and features of several layers of the tower."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_inputs import make_video
from transformers import Qwen3VLProcessor

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.modeling.bundle import MediaFeatures, prompt_positions
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.rewards import format_reward
from vsgrpo.video.budget import Medium, VisionBudget

pytestmark = pytest.mark.parametrize("tiny_folder", ["qwen3_vl"], indirect=True, scope="session")
VIDEO = make_video(0)
ANSWER = [[[40, 41, 42, 43]]]
PADS = "<|vision_start|>" + "<|video_pad|>" * 2 + "<|vision_end|>"


def test_the_prompt_is_the_one_of_the_published_weights(tiny):
    video = Medium("video", (2, 2, 4), 4, 1.3, (0.35, 1.65))
    ids = encode_prompt(tiny, "Which?", [video])
    # 0.35 is below 0.35 in binary, so the digit is 3; no mark around both patches, no system turn
    shown = f"<0.3 seconds>{PADS}<1.6 seconds>{PADS}"
    assert tiny.tokenizer.decode(ids) == f"<|im_start|>user\n{shown}Which?<|im_end|>\n<|im_start|>assistant\n"
    of_library = encode_prompt(replace(tiny, vision_marks="library"), "Which?", [video])
    start, end = tiny.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    last = len(of_library) - of_library[::-1].index(end) - 1
    first = of_library.index(start)
    assert of_library[:first] + of_library[first + 1 : last] + of_library[last + 1 :] == ids


def test_a_model_keeps_the_marks_it_was_trained_with(tiny_folder, tmp_path):
    bundle = load(tiny_folder, tune="full", vision_marks="library", offline=True)
    save_model(bundle, tmp_path / "final", merge=False, vision={"num_frames": 4, "min_pixels": 784, "max_pixels": 784})
    assert (bundle.vision_marks, load(tmp_path / "final").vision_marks) == ("library", "library")
    assert load(tmp_path / "final", vision_marks="published").vision_marks == "published"


@pytest.mark.parametrize(("total", "fps", "frames"), [(30, 2.5, 8), (1000, 29.97, 16), (5, 24.0, 8), (9, 3.0, 5)])
def test_times_are_those_of_the_librarys_processor(tiny, total, fps, frames):
    budget = VisionBudget(num_frames=frames)
    medium = budget.medium("video", 56, 56, total, fps)
    indices = torch.linspace(0, total - 1, budget.sampled_frames, dtype=torch.float64).round().int().tolist()
    assert list(medium.timestamps) == Qwen3VLProcessor._calculate_timestamps(tiny.processor, indices, fps)
    assert len(medium.timestamps) == medium.grid_thw[0]


def test_a_video_without_a_frame_rate_is_refused(tiny):
    with pytest.raises(DataError, match="states no frame rate, which Qwen3-VL needs"):
        encode_prompt(tiny, "Which?", [VisionBudget().medium("video", 56, 56, 30, 0.0)])


def test_a_question_may_ask_for_thoughts_but_not_hold_marks(tiny):
    think = tiny.tokenizer.convert_tokens_to_ids("<think>")
    assert encode_prompt(tiny, "Think within <think> </think>.", []).count(think) == 1
    tiny.tokenizer.add_tokens(["<|repo_name|>"])  # added and not special, as several of the published tokenizer
    with pytest.raises(DataError, match=r"special token <\|repo_name\|>"):
        encode_prompt(tiny, "a <|repo_name|>", [])


def test_an_answer_that_the_template_has_begun_is_judged_and_trained_whole(tiny):
    assert (tiny.opening, tiny.without_opening("4"), tiny.answers([tiny.tokenizer("4").input_ids])) == ("", "4", ["4"])
    tiny.check_mode("vanilla")
    thinking = with_template(tiny, "assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
    assert tiny.tokenizer.decode(encode_prompt(thinking, "Which?", [])).endswith("<|im_start|>assistant\n<think>\n")
    answer = "<think>One by one.</think><answer>4</answer>"
    said = thinking.without_opening(answer)
    assert said == "One by one.</think><answer>4</answer>"
    (judged,) = thinking.answers([tiny.tokenizer(said).input_ids])
    assert judged == "<think>\nOne by one.</think><answer>4</answer>"
    assert format_reward([judged], prompt_mode="think") == [1.0] and format_reward([said], prompt_mode="think") == [0.0]
    thinking.check_mode("think")
    with pytest.raises(
        ConfigError, match=r"prompt\.mode=vanilla: the chat template .* begins every answer with <think>"
    ):
        thinking.check_mode("vanilla")
    with pytest.raises(DataError, match="answer '4': the chat template"):
        thinking.without_opening("4")
    # A thought that is closed again belongs to no answer.
    closed = with_template(tiny, "assistant\\n' }}{% endif %}", "assistant\\n<think>\\n\\n</think>' }}{% endif %}")
    assert closed.opening == ""


def with_template(bundle, old, new):
    assert old in bundle.processor.chat_template
    processor = copy.copy(bundle.processor)
    processor.chat_template = bundle.processor.chat_template.replace(old, new)
    return replace(bundle, processor=processor)


def test_positions_begin_anew_after_each_time(tiny):
    video = Medium("video", (3, 4, 4), 12, 1.3, (0.3, 1.6, 2.9))
    ids = encode_prompt(tiny, "Which?", [video])
    found = prompt_positions(tiny.model, ids, [video])
    places = [place for place, token in enumerate(ids) if token == tiny.processor.video_token_id]
    for patch in range(3):
        first, *_ = four = places[4 * patch : 4 * patch + 4]
        # Four tokens of a patch take two positions: those before have saved two each. Time stands still, rows and
        # columns count up from where the text before stands.
        start = first - 2 * patch
        assert found.positions[:, four].tolist() == [
            [start] * 4,
            [start, start, start + 1, start + 1],
            [start, start + 1] * 2,
        ]
    assert found.next_position == len(ids) - 3 * 2


def scores(tiny, features, video=VIDEO):
    prompt = Prompt(tuple(encode_prompt(tiny, "How many?", [video.medium])), (video.key,))
    with torch.no_grad():
        ((row, _),) = logps(tiny.model, build_trees([prompt], ANSWER, False), {video.key: features})
    return row


def test_every_level_of_the_tower_and_its_order_counts(tiny):
    found = FeatureStore(tiny).features([VIDEO])[VIDEO.key]
    assert found.tensor.shape == (16, 3 * 96)  # the merger's features and two levels
    expected = scores(tiny, found)
    merged, first, second = found.tensor.split(96, dim=1)
    for parts in ((merged, 0 * first, 0 * second), (merged, second, first), (merged, first, 0 * second)):
        other = scores(tiny, MediaFeatures(torch.cat(parts, dim=1), VIDEO.medium))
        assert (other - expected).abs().max() > 1e-3


def test_another_videos_times_move_the_scores(tiny):
    found = FeatureStore(tiny).features([VIDEO])[VIDEO.key]
    later = replace(VIDEO.medium, timestamps=tuple(time + 40.0 for time in VIDEO.medium.timestamps))
    other = scores(tiny, replace(found, medium=later), replace(VIDEO, medium=later))
    assert (other - scores(tiny, found)).abs().max() > 1e-3
