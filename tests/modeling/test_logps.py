"""Log-probs against a plain forward of transformers with the pixels in it."""

import dataclasses
import math

import pytest
import torch
from tiny_inputs import library_inputs, make_video

from vsgrpo.errors import DataError, RunError
from vsgrpo.modeling.bundle import base_model, use_gradient_checkpointing
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore

VIDEOS = [make_video(0), make_video(1, height=84), make_video(2, frames=4, seconds=30.0)]
QUESTIONS = [
    "How many chair(s) are in this room?",
    "What is the distance between the sofa and the lamp (in meters)?\nPlease answer briefly.",
    "Which?",
]
COMPLETIONS = [[[40, 41, 42], [50]], [[60, 61], [62, 63, 64, 65], [66]], [[70, 71]]]


@pytest.fixture
def prompts(ask):
    return [ask(text, video) for text, video in zip(QUESTIONS, VIDEOS, strict=True)]


def plain_forward(bundle, prompt: Prompt, video, completion) -> torch.Tensor:
    """Score one completion the way transformers' documentation does: pixels, mask and positions left to the model."""
    logits = bundle.model(**library_inputs(bundle, [*prompt.token_ids, *completion], video)).logits
    start = len(prompt.token_ids)
    picked = logits[0, start - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])
    return picked[:, 0]


def our_scores(bundle, prompts, features, **options):
    return logps(bundle.model, build_trees(prompts, COMPLETIONS, share=False), features, **options)


def weighted_sum(scores) -> torch.Tensor:
    """A loss that gives every token another weight, so that no two errors can cancel."""
    flat = torch.cat(list(scores))
    return (flat * torch.arange(1, len(flat) + 1)).sum() / len(flat)


def adapter_gradients(bundle):
    gradients = {name: p.grad.clone() for name, p in bundle.model.named_parameters() if p.grad is not None}
    bundle.model.zero_grad()
    return gradients


@pytest.mark.both_families
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("rows_per_pass", "chunk"), [(None, None), (2, 3)])
def test_scores_and_gradients_equal_a_plain_forward_with_pixels(lora, prompts, rows_per_pass, chunk, checkpointing):
    theirs = [
        plain_forward(lora, prompt, video, completion)
        for prompt, video, group in zip(prompts, VIDEOS, COMPLETIONS, strict=True)
        for completion in group
    ]
    weighted_sum(theirs).backward()
    their_gradients = adapter_gradients(lora)
    if checkpointing:
        use_gradient_checkpointing(lora.model)
    features = FeatureStore(lora).features(VIDEOS)
    ours = our_scores(lora, prompts, features, rows_per_pass=rows_per_pass, chunk=chunk)
    weighted_sum([score for score, _ in ours]).backward()
    our_gradients = adapter_gradients(lora)
    assert [len(score) for score, _ in ours] == [3, 1, 2, 4, 1, 2]
    torch.testing.assert_close(torch.cat([s for s, _ in ours]), torch.cat(theirs), atol=1e-5, rtol=0)
    # 7 targets x (A, B) x 2 layers, or 3 of Qwen3-VL; of Qwen3.5 3 targets x 4 layers and 4 x 1; nothing in the tower
    assert our_gradients.keys() == their_gradients.keys()
    assert len(our_gradients) == {"qwen3_vl": 42, "qwen3_5": 32}.get(lora.family.model_type, 28)
    for name, gradient in our_gradients.items():
        error = (gradient - their_gradients[name]).norm() / their_gradients[name].norm()
        assert error < 1e-4, (name, error)


@pytest.mark.both_families
def test_another_video_moves_the_scores(tiny, prompts):
    with torch.no_grad():
        features = FeatureStore(tiny).features(VIDEOS)
        before = our_scores(tiny, prompts, features)
        other = FeatureStore(tiny).features([make_video(7)])["video7"]
        after = our_scores(tiny, prompts, {**features, "video0": other})
    moved = [float((a - b).abs().max()) for (a, _), (b, _) in zip(after, before, strict=True)]
    assert min(moved[:2]) > 1e-3 and max(moved[2:]) == 0


def lasting(features, seconds):
    return dataclasses.replace(features, medium=dataclasses.replace(features.medium, seconds_per_patch=seconds))


@pytest.mark.both_families
def test_only_qwen2_5_vl_sees_how_long_a_video_lasts(tiny, prompts):
    with torch.no_grad():
        features = FeatureStore(tiny).features(VIDEOS)
        before = our_scores(tiny, prompts, features)
        slower = lasting(features["video0"], 5.0)
        after = our_scores(tiny, prompts, {**features, "video0": slower})
    moved = [float((a - b).abs().max()) for (a, _), (b, _) in zip(after, before, strict=True)]
    assert (min(moved[:2]) > 1e-3) == (tiny.family.model_type == "qwen2_5_vl") and max(moved[2:]) == 0
    unknown = lasting(features["video0"], None)
    if tiny.family.model_type == "qwen2_5_vl":
        with pytest.raises(DataError, match="states no frame rate"):
            our_scores(tiny, prompts, {**features, "video0": unknown})
    else:
        our_scores(tiny, prompts, {**features, "video0": unknown})


@pytest.mark.both_families
def test_gradients_reach_the_tower_through_shared_features(tiny_folder, prompts):
    bundle = load(tiny_folder, tune="full", freeze_vision=False)
    features = FeatureStore(bundle).features(VIDEOS, grad=True)
    weighted_sum([score for score, _ in our_scores(bundle, prompts, features, chunk=4)]).backward()
    ours = adapter_gradients(bundle)
    weighted_sum(
        plain_forward(bundle, prompt, video, completion)
        for prompt, video, group in zip(prompts, VIDEOS, COMPLETIONS, strict=True)
        for completion in group
    ).backward()
    theirs = adapter_gradients(bundle)
    assert ours.keys() == theirs.keys()
    # A recurrent state's decay has a gradient whose parts cancel: of float32 (of float64, see test_delta_tree).
    close = 2e-3 if bundle.family.model_type == "qwen3_5" else 1e-4
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= close * theirs[name].norm() + 1e-9, name


def test_frozen_tower_gets_no_gradient(lora, prompts):
    lora.model.enable_input_require_grads()
    features = FeatureStore(lora).features(VIDEOS)
    assert not any(feature.tensor.requires_grad for feature in features.values())
    weighted_sum([score for score, _ in our_scores(lora, prompts, features)]).backward()
    assert all(p.grad is None for p in base_model(lora.model).model.visual.parameters())


def test_adapter_off_is_the_base_model_and_needs_an_adapter(lora, tiny, prompts):
    features = FeatureStore(tiny).features(VIDEOS)
    with torch.no_grad():
        base = torch.cat([s for s, _ in our_scores(tiny, prompts, features)])
        off = torch.cat([s for s, _ in our_scores(lora, prompts, features, adapter=False)])
        on = torch.cat([s for s, _ in our_scores(lora, prompts, features)])
    torch.testing.assert_close(off, base, atol=1e-6, rtol=0)
    assert (on - base).abs().max() > 1e-2
    with pytest.raises(ValueError, match="needs a model with an adapter"):
        our_scores(tiny, prompts, features, adapter=False)


def test_adapter_off_is_bit_equal_to_pefts_own_and_leaves_no_trace(lora, prompts):
    features = FeatureStore(lora).features(VIDEOS)
    flags = [(weight.requires_grad, weight.grad) for weight in lora.model.parameters()]
    with torch.no_grad():
        before = torch.cat([s for s, _ in our_scores(lora, prompts, features)])
        off = torch.cat([s for s, _ in our_scores(lora, prompts, features, adapter=False)])
        with lora.model.disable_adapter():
            expected = torch.cat([s for s, _ in our_scores(lora, prompts, features)])
            inside = torch.cat([s for s, _ in our_scores(lora, prompts, features, adapter=False)])
            again = torch.cat([s for s, _ in our_scores(lora, prompts, features)])  # still off after ours has ended
        after = torch.cat([s for s, _ in our_scores(lora, prompts, features)])
    assert torch.equal(off, expected) and torch.equal(inside, expected) and torch.equal(again, expected)
    assert torch.equal(before, after) and not torch.equal(before, off)
    assert flags == [(weight.requires_grad, weight.grad) for weight in lora.model.parameters()]


def test_the_adapter_is_on_again_after_a_failure(lora, prompts):
    features = FeatureStore(lora).features(VIDEOS)
    with torch.no_grad():
        before = torch.cat([s for s, _ in our_scores(lora, prompts, features)])
        with pytest.raises(RunError):
            our_scores(lora, prompts, {}, adapter=False)
        assert torch.equal(torch.cat([s for s, _ in our_scores(lora, prompts, features)]), before)


def test_entropies_come_per_token_without_gradient(lora, prompts):
    features = FeatureStore(lora).features(VIDEOS)
    for score, entropy in our_scores(lora, prompts, features, entropy=True):
        assert entropy.shape == score.shape and score.requires_grad and not entropy.requires_grad
        assert (entropy > 0).all() and (entropy < math.log(len(lora.tokenizer))).all()


@pytest.mark.both_families
def test_two_videos_in_one_prompt_are_used_in_their_order(tiny, ask):
    a, b = make_video(0), make_video(1)
    features = FeatureStore(tiny).features([a, b])
    with torch.no_grad():
        ((ab, _),) = logps(tiny.model, build_trees([ask("Which?", a, b)], [[[40, 41]]], False), features)
        ((ba, _),) = logps(tiny.model, build_trees([ask("Which?", b, a)], [[[40, 41]]], False), features)
    assert (ab - ba).abs().max() > 1e-3


def test_wrong_number_of_features_is_refused(tiny, prompts):
    features = FeatureStore(tiny).features(VIDEOS)
    short = dataclasses.replace(features["video0"], tensor=features["video0"].tensor[:-1])
    with pytest.raises(RunError, match="16 placeholders for 15 features"):
        our_scores(tiny, prompts, {**features, "video0": short})
    with pytest.raises(RunError, match="video1: no features"):
        our_scores(tiny, prompts, {"video0": features["video0"]})


def test_a_prompt_without_video_and_no_completions_at_all(tiny, ask):
    with torch.no_grad():
        ((score, _),) = logps(tiny.model, build_trees([ask("Hello?")], [[[40]]], False), {})
    assert score.shape == (1,)
    assert logps(tiny.model, [], {}) == []
