"""Images, several in one prompt and beside a video: the library's own processor and forward are the measure."""

from dataclasses import replace

import pytest
import torch
from tiny_inputs import make_image, make_video, published_positions, width_of

from vsgrpo.errors import RunError
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.video.budget import Medium

pytestmark = pytest.mark.both_families
# Told nothing else, the processors take a clip to have 24 frames per second.
A, B, CLIP = make_image(0), make_image(1, height=84), make_video(5, seconds=2 / 24)
SHORT = make_video(6, frames=4, height=84, seconds=2 / 24)
ANSWERS = ((5, 6, 7), (8, 9))


def prompt_of(tiny, text, *media):
    """Return the prompt of a text after its media, or of the texts before, between and after them."""
    ids = encode_prompt(replace(tiny, vision_marks="library"), text, [m.medium for m in media])
    return Prompt(tuple(ids), tuple(m.key for m in media))


def library_inputs(tiny, text, *media):
    content = [{"type": m.medium.kind} for m in media]
    if isinstance(text, str):
        content.append({"type": "text", "text": text})
    else:
        for place, part in enumerate(text):
            content.insert(2 * place, {"type": "text", "text": part})
    options = {"enable_thinking": False} if tiny.family.model_type == "qwen3_5" else {}
    messages = [{"role": "user", "content": content}]
    rendered = tiny.processor.apply_chat_template(messages, add_generation_prompt=True, **options)
    images = [m.frames[0] for m in media if m.medium.kind == "image"]
    videos = [m.frames for m in media if m.medium.kind == "video"]
    return tiny.processor(
        text=[rendered],
        images=images or None,
        videos=videos or None,
        return_tensors="pt",
        do_resize=False,
        **({"do_sample_frames": False, "cap_pixels_per_frame": False} if videos else {}),
    )


QUESTION = "Which angle is larger?"
AROUND = ("Look at ", " and then at\n", "", " for the third.\n" + QUESTION)
"""Texts before, between and after three media, two of which stand side by side."""


@pytest.mark.parametrize(
    ("media", "text"),
    [
        ((A,), QUESTION),
        ((A, B), QUESTION),
        ((A, CLIP, B), QUESTION),
        ((CLIP,), QUESTION),
        ((CLIP, SHORT), QUESTION),
        ((CLIP, A), QUESTION),
        ((CLIP, A, SHORT), AROUND),
        ((A, B, A), AROUND),
    ],
    ids=["A", "A B", "A video B", "video", "two videos", "video A", "videos and A in a text", "images in a text"],
)
def test_tokens_and_log_probs_equal_the_librarys(tiny, rule, media, text):
    prompt = prompt_of(tiny, text, *media)
    inputs = library_inputs(tiny, text, *media)
    assert list(prompt.token_ids) == inputs["input_ids"][0].tolist()
    images = [m.medium.num_tokens for m in media if m.medium.kind == "image"]
    assert prompt.token_ids.count(tiny.processor.image_token_id) == sum(images)
    answer = torch.tensor([ANSWERS[0]])
    ids = torch.cat([inputs.pop("input_ids"), answer], dim=1)
    kinds = torch.cat([inputs.pop("mm_token_type_ids"), torch.zeros_like(answer)], dim=1)
    inputs.pop("attention_mask")
    inputs |= published_positions(tiny, ids[0].tolist(), media)
    with torch.no_grad():
        logits = tiny.model(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0]
        features = FeatureStore(tiny).features(media)
        ((ours, _),) = logps(tiny.model, build_trees([prompt], [ANSWERS[:1]], False), features)
    at = len(prompt.token_ids) - 1
    theirs = logits[at : at + 3].log_softmax(-1).gather(1, answer.T)[:, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_tower_runs_once_per_image_and_the_cache_knows_images(tiny, tmp_path):
    store = FeatureStore(tiny, cache=tmp_path)
    first = store.features([A, B, A, CLIP])
    # A and B are of two grids, the clip is a video
    assert (store.num_videos, store.num_calls) == (3, 3)
    assert first["image0"].medium.kind == "image" and first["image0"].tensor.shape == (4, width_of(tiny))
    again = FeatureStore(tiny, cache=tmp_path)
    second = again.features([A, CLIP])
    assert again.num_videos == 0 and second["image0"].medium.kind == "image" and second["video5"].medium.kind == "video"
    assert torch.equal(second["image0"].tensor, first["image0"].tensor)


def test_another_image_moves_the_log_probs_and_gets_the_gradient(lora):
    prompt = prompt_of(lora, "Which angle is larger?", A, CLIP)
    swapped = make_image(7)
    features = FeatureStore(lora).features([A, swapped, CLIP])
    own = features | {"image0": features["image7"]}
    trees = build_trees([prompt], [ANSWERS], True)
    shown = [row for row, _ in logps(lora.model, trees, features)]
    other = [row for row, _ in logps(lora.model, trees, own)]
    assert max((a - b).abs().max().item() for a, b in zip(shown, other, strict=True)) > 1e-3
    leaf = features["image0"].tensor.clone().requires_grad_()
    seen = features | {"image0": type(features["image0"])(leaf, A.medium)}
    torch.cat([row for row, _ in logps(lora.model, trees, seen)]).sum().backward()
    assert leaf.grad.abs().sum() > 0


def check_layouts(bundle, prompts, features, completions, trees, atol):
    """The tree's log-probs are those of plain rows, by every way of attention, and both draw the same tokens."""
    plain = logps(bundle.model, build_trees(prompts, completions, False), features)
    for attention in ("dense", "block", "split"):
        packed = logps(bundle.model, trees, features, layout="tree", attention=attention)
        for (a, _), (b, _) in zip(plain, packed, strict=True):
            torch.testing.assert_close(a, b, atol=atol, rtol=0)
    sampling = Sampling(seed=3, step=0, max_new_tokens=5, eos_ids=(), suppress=vision_token_ids(bundle.model))
    keys = [(f"row{i}", k) for i in range(len(prompts)) for k in range(2)]
    drawn = [rollout(bundle.model, prompts, features, keys, sampling, layout=layout) for layout in ("plain", "tree")]
    assert drawn[0] == drawn[1] and len({tuple(tokens) for tokens in drawn[0]}) == 2 * len(prompts)


def test_the_tree_equals_plain_rows_with_images(lora):
    prompts = [
        prompt_of(lora, "Which angle is larger?", A, CLIP, B),
        prompt_of(lora, "What is the length of the longest side?", A, CLIP, B),
        prompt_of(lora, "What is the length of the longest side?", B),
    ]
    features = FeatureStore(lora).features([A, B, CLIP])
    completions = [ANSWERS, ((9,), (5, 5, 5, 5)), ((3, 4), (4, 3))]
    trees = build_trees(prompts, completions, True)
    assert len(trees) == 2 and lora.processor.image_token_id in trees[0].prefix
    check_layouts(lora, prompts, features, completions, trees, atol=2e-5)


def test_the_tree_equals_plain_rows_with_media_in_the_text(lora):
    """Prompts that share text and media up to different places: a whole prefix, one medium, no medium."""
    media = (CLIP, A, SHORT)
    prompts = [
        prompt_of(lora, AROUND, *media),
        prompt_of(lora, (*AROUND[:3], "Which is longer?"), *media),
        prompt_of(lora, ("Look at ", " but", " not", QUESTION), *media),
        prompt_of(lora, ("At ", " and then at\n", "", QUESTION), *media),
    ]
    features = FeatureStore(lora).features(media)
    completions = [ANSWERS, ((9,), (5, 5, 5, 5)), ((3, 4), (4, 3)), ((3,), (4,))]
    trees = build_trees(prompts, completions, True)
    assert len(trees) == 1
    check_layouts(lora, prompts, features, completions, trees, atol=1e-5)


def test_every_medium_in_a_text_reaches_the_model(lora):
    prompt = prompt_of(lora, AROUND, CLIP, A, SHORT)
    features = FeatureStore(lora).features([CLIP, A, SHORT, make_video(8), make_image(7), make_video(9, 4, 84)])
    trees = build_trees([prompt], [ANSWERS], True)
    own = torch.cat([row for row, _ in logps(lora.model, trees, features)])
    for key, other in ((CLIP.key, "video8"), (A.key, "image7"), (SHORT.key, "video9")):
        swapped = features | {key: type(features[key])(features[other].tensor, features[key].medium)}
        moved = torch.cat([row for row, _ in logps(lora.model, trees, swapped)])
        assert (own - moved).abs().max() > 1e-3, key


def test_parts_of_a_text_are_one_more_than_its_media(tiny):
    assert encode_prompt(tiny, AROUND, []) == encode_prompt(tiny, "".join(AROUND), [])  # a blind question
    with pytest.raises(ValueError, match="4 parts of text around 2 videos and images"):
        prompt_of(tiny, AROUND, A, B)


def test_features_of_the_other_kind_are_refused(tiny):
    prompt = prompt_of(tiny, "x", A)
    as_video = FeatureStore(tiny).features([make_video(0, frames=2)])["video0"]
    with pytest.raises(RunError, match="in another order"):
        logps(tiny.model, build_trees([prompt], [ANSWERS], True), {"image0": as_video})


def test_no_system_turn_at_all(tiny):
    ids = encode_prompt(tiny, "x", [Medium("image", (1, 4, 4), 4)], system="none")
    thought = "<think>\n\n</think>\n\n" if tiny.family.model_type == "qwen3_5" else ""
    start = "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>x<|im_end|>\n"
    assert tiny.tokenizer.decode(ids) == start + "<|im_start|>assistant\n" + thought
