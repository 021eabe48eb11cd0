"""Rollouts against transformers' generate and against our own log-probs."""

import dataclasses

import pytest
import torch
from tiny_inputs import PATCH, library_inputs, make_video
from transformers.cache_utils import DynamicLayer

from vsgrpo.modeling import rollout as rollout_module
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.cache import RoomyLayer
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling, noise_keys
from vsgrpo.modeling.tree import build_trees
from vsgrpo.modeling.vision import FeatureStore

# Qwen2.5-VL's temporal positions of the last one, 4 patches x 30 s x 2 per second, reach far beyond the text behind it.
VIDEOS = [make_video(0), make_video(1, height=84), make_video(2, seconds=30.0)]
QUESTIONS = ["How many chair(s) are in this room?", "What is the size of this room (in square meters)?", "Which?"]


@pytest.fixture(scope="module")
def prompts(ask):
    return [ask(text, video) for text, video in zip(QUESTIONS, VIDEOS, strict=True)]


@pytest.fixture(scope="module")
def features(tiny):
    PATCH["side"] = tiny.family.patch  # the fixture that sets it for each test comes after this one
    return FeatureStore(tiny).features(VIDEOS)


@pytest.fixture(scope="module")
def sampling(tiny):
    eos = tuple(tiny.model.generation_config.eos_token_id)
    return Sampling(seed=5, step=2, max_new_tokens=6, eos_ids=eos, suppress=vision_token_ids(tiny.model))


def keys_of(prompts, group):
    return [(f"row{i}", g) for i in range(len(prompts)) for g in range(group)]


def generate(tiny, prompt, video, sampling):
    out = tiny.model.generate(
        **library_inputs(tiny, prompt.token_ids, video),
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        suppress_tokens=list(sampling.suppress),
    )
    return out[0, len(prompt.token_ids) :].tolist()


@pytest.mark.both_families
def test_greedy_tokens_equal_generate_with_pixels(tiny, rule, prompts, features, sampling):
    greedy = dataclasses.replace(sampling, greedy=True, max_new_tokens=12)
    ours = rollout(tiny.model, prompts, features, keys_of(prompts, 1), greedy)
    assert ours == [generate(tiny, *pair, greedy) for pair in zip(prompts, VIDEOS, strict=True)]
    assert len({tuple(tokens) for tokens in ours}) == 3


@pytest.mark.both_families
def test_log_probs_seen_while_drawing_equal_logps(tiny, prompts, features, sampling, monkeypatch):
    seen = {}

    def record(logits, noise, processors):
        tokens = draw(logits, noise, processors)
        picked = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        for place, value in zip(noise.tolist(), picked.tolist(), strict=True):
            seen[place_of[place]] = value
        return tokens

    draw = rollout_module.draw_tokens
    monkeypatch.setattr(rollout_module, "draw_tokens", record)
    keys = keys_of(prompts, 4)
    table = noise_keys(keys, range(sampling.max_new_tokens), sampling, torch.device("cpu")).tolist()
    place_of = {noise: (key, at) for at, line in enumerate(table) for key, noise in zip(keys, line, strict=True)}
    completions = rollout(tiny.model, prompts, features, keys, sampling)
    groups = [completions[i * 4 : i * 4 + 4] for i in range(3)]
    with torch.no_grad():
        scores = logps(tiny.model, build_trees(prompts, groups, False), features)
    assert len(seen) == sum(map(len, completions))
    for key, (score, _) in zip(keys, scores, strict=True):
        drawn = torch.tensor([seen[key, position] for position in range(len(score))])
        torch.testing.assert_close(drawn, score, atol=1e-5, rtol=0)


def test_same_completions_in_any_order_chunking_and_global_seed(tiny, prompts, features, sampling):
    keys = keys_of(prompts, 5)
    torch.manual_seed(1)
    first = dict(zip(keys, rollout(tiny.model, prompts, features, keys, sampling), strict=True))
    assert len({tuple(tokens) for tokens in first.values()}) == len(keys)
    torch.manual_seed(2)
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [keys[i] for i in order]
    again = rollout(tiny.model, [prompts[i // 5] for i in order], features, shuffled, sampling, prompts_per_pass=1)
    assert dict(zip(shuffled, again, strict=True)) == first
    later = rollout(tiny.model, prompts, features, keys, dataclasses.replace(sampling, step=3))
    assert later != list(first.values())


@pytest.mark.both_families
def test_another_video_moves_greedy_and_sampled_completions(tiny, prompts, features, sampling):
    other = FeatureStore(tiny).features([make_video(7)])["video7"]
    swapped = {**features, "video0": other}
    for settings in (dataclasses.replace(sampling, greedy=True, max_new_tokens=24), sampling):
        before = rollout(tiny.model, prompts, features, keys_of(prompts, 8), settings)
        after = rollout(tiny.model, prompts, swapped, keys_of(prompts, 8), settings)
        assert before[:8] != after[:8] and before[8:] == after[8:]


def test_completions_end_with_eos_and_finished_ones_do_not_disturb_the_rest(tiny, prompts, features, sampling):
    long = dataclasses.replace(sampling, max_new_tokens=20, eos_ids=())
    free = rollout(tiny.model, prompts, features, keys_of(prompts, 6), long)
    assert all(len(tokens) == 20 for tokens in free)
    eos = tuple(range(0, 826, 5))
    stopped = rollout(tiny.model, prompts, features, keys_of(prompts, 6), dataclasses.replace(long, eos_ids=eos))
    lengths = [next((i + 1 for i, token in enumerate(tokens) if token in eos), 20) for tokens in free]
    assert stopped == [tokens[:length] for tokens, length in zip(free, lengths, strict=True)]
    assert len(set(lengths)) > 3


@pytest.mark.both_families
@pytest.mark.both_families
@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_how_often_the_host_looks_for_ends_changes_no_token(tiny, prompts, features, sampling, layout):
    # Many tokens end a completion: lengths from 1 to 21, so that looks fall before, on and behind the ends.
    ragged = dataclasses.replace(sampling, max_new_tokens=21, eos_ids=tuple(range(20, 60)))
    asked = [prompt for prompt in prompts for _ in range(7)]

    def draw(tokens_per_look):
        keys = keys_of(prompts, 7)
        return rollout(
            tiny.model,
            asked,
            features,
            keys,
            ragged,
            layout=layout,
            tokens_per_look=tokens_per_look,
            prompts_per_pass=2,
        )

    expected = draw(1)
    lengths = {len(tokens) for tokens in expected}
    assert min(lengths) <= 2 and max(lengths) == 21 and len(lengths) > 5
    assert all(tokens[-1] in ragged.eos_ids or len(tokens) == 21 for tokens in expected)
    assert not any(set(tokens[:-1]) & set(ragged.eos_ids) for tokens in expected)
    for tokens_per_look in (2, 3, 8, 21, 40):
        assert draw(tokens_per_look) == expected


def test_a_cache_with_room_holds_what_the_stock_cache_holds(tiny):
    stock, roomy = DynamicLayer(), RoomyLayer(to_come=90)
    generator = torch.Generator().manual_seed(0)
    copies = 0
    for count in (5, *[1] * 95):
        states = torch.randn(3, 2, count, 4, generator=generator), torch.randn(3, 2, count, 4, generator=generator)
        before = roomy._buffers
        found, expected = roomy.update(*states), stock.update(*states)
        copies += roomy._buffers is not before
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert roomy.get_seq_length() == stock.get_seq_length()
    # 5 tokens and room for 64; at the 70th room for the 90 that may come, no more; the 96th needs more than was said
    assert copies == 3 and roomy._buffers[0].shape[2] == 96 + 64
    kept = torch.tensor([2, 0])
    for layer in (stock, roomy):
        layer.batch_select_indices(kept)
    states = torch.randn(2, 2, 1, 4, generator=generator), torch.randn(2, 2, 1, 4, generator=generator)
    assert all(torch.equal(a, b) for a, b in zip(roomy.update(*states), stock.update(*states), strict=True))


def test_vision_tokens_are_never_drawn(tiny, prompts, features, sampling, monkeypatch):
    forbidden = vision_token_ids(tiny.model)
    names = {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    assert set(tiny.tokenizer.convert_ids_to_tokens(forbidden)) == names
    with torch.no_grad():
        before = tiny.model.lm_head.weight[list(forbidden)].clone()
        tiny.model.lm_head.weight[list(forbidden)] *= 30
        try:
            drawn = rollout(tiny.model, prompts, features, keys_of(prompts, 30), sampling)
            loose = rollout(
                tiny.model, prompts, features, keys_of(prompts, 30), dataclasses.replace(sampling, suppress=())
            )
        finally:
            tiny.model.lm_head.weight[list(forbidden)] = before
    assert not {token for tokens in drawn for token in tokens} & set(forbidden)
    assert {token for tokens in loose for token in tokens} & set(forbidden)


@pytest.mark.both_families
def test_mode_and_positions_state_of_the_model_are_left_as_they_were(lora, prompts, features, sampling):
    lora.model.train()
    first = rollout(lora.model, prompts, features, keys_of(prompts, 2), sampling)
    assert lora.model.training and lora.model.get_base_model().model.rope_deltas is None
    assert first == rollout(lora.model, prompts, features, keys_of(prompts, 2), sampling)


def test_keys_that_do_not_fit_the_prompts_are_refused(tiny, prompts, features, sampling):
    with pytest.raises(ValueError, match="4 keys are no multiple of 3 prompts"):
        rollout(tiny.model, prompts, features, keys_of(prompts, 2)[:4], sampling)
    assert rollout(tiny.model, prompts, features, [], sampling) == []
