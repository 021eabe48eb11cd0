import logging
from dataclasses import replace

import pytest
import torch
from tiny_inputs import make_video

from vsgrpo.errors import ConfigError, RunError
from vsgrpo.modeling.bundle import BATCHED_ATTENTION, PatchProjection, is_tower_trained
from vsgrpo.modeling.load import load
from vsgrpo.modeling.vision import FeatureStore


def tower(model):
    return model.model.visual


def pixels_of(tiny, *videos):
    return tiny.processor.video_processor(
        videos=[video.frames for video in videos], do_sample_frames=False, do_resize=False, return_tensors="pt"
    )


@pytest.mark.both_families
@pytest.mark.parametrize(
    "videos",
    # 84 x 140 pixels are 3 x 5 tokens: windows of 4, 2 and 1 tokens in the tiny Qwen2.5-VL
    [(make_video(0), make_video(1)), (make_video(0, height=84, width=140), make_video(1, frames=4))],
    ids=["equal slices", "unequal slices"],
)
def test_batched_attention_is_bit_equal_to_sdpa_slice_by_slice(tiny, videos):
    assert tower(tiny.model).config._attn_implementation == BATCHED_ATTENTION
    batch = pixels_of(tiny, *videos)
    with torch.no_grad():
        ours = tower(tiny.model)(batch["pixel_values_videos"], grid_thw=batch["video_grid_thw"]).pooler_output
        tower(tiny.model).config._attn_implementation = "sdpa"
        try:
            theirs = tower(tiny.model)(batch["pixel_values_videos"], grid_thw=batch["video_grid_thw"]).pooler_output
        finally:
            tower(tiny.model).config._attn_implementation = BATCHED_ATTENTION
    assert torch.equal(ours, theirs)


def test_patch_embedding_equals_the_convolution_it_stands_for(tiny):
    assert type(tower(tiny.model).patch_embed.proj) is PatchProjection
    ours, stock = (kind(3, 64, (2, 14, 14), (2, 14, 14), bias=False) for kind in (PatchProjection, torch.nn.Conv3d))
    stock.load_state_dict(tower(tiny.model).patch_embed.proj.state_dict())  # the names and shapes of a checkpoint
    ours.load_state_dict(stock.state_dict())
    patches = torch.randn(6, 3, 2, 14, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(patches), stock(patches), atol=1e-5, rtol=0)
    for projection in (ours, stock):
        projection(patches).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, stock.weight.grad, atol=1e-4, rtol=1e-4)


def test_batched_attention_gets_all_slices_in_one_call(tiny, monkeypatch):
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "vsgrpo.modeling.bundle.scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(args[0].shape) or attention(*args, **kwargs),
    )
    FeatureStore(tiny).features([make_video(0), make_video(1)])
    # each video of 4 temporal patches, 4 heads, 4 x 4 patches per slice, width 64 / 4; one layer
    assert calls == [(4, 4, 16, 16)] * 2


@pytest.mark.both_families
def test_each_unique_video_goes_through_the_tower_once_per_call(tiny):
    store = FeatureStore(tiny)
    videos = [make_video(0), make_video(1), make_video(0), make_video(2, height=84)]
    features = store.features(videos)
    assert list(features) == ["video0", "video1", "video2"]
    assert (store.num_videos, store.num_calls) == (3, 3)
    assert features["video0"].tensor.shape == (16, 96) and features["video2"].tensor.shape == (24, 96)
    assert features["video2"].medium.grid_thw == (4, 6, 4)
    store.features(videos)
    assert store.num_videos == 6


@pytest.mark.both_families
@pytest.mark.parametrize("grad", [False, True])
def test_features_do_not_depend_on_what_else_is_computed_or_cached(tiny, tmp_path, grad):
    # One patch of two frames is 16 rows of a matrix product, which sums in another order than one of 32 rows.
    videos = [make_video(number, frames=frames) for number, frames in enumerate((2, 2, 8, 2, 4))]
    if grad:
        made = [FeatureStore(tiny).features(videos, grad=True), FeatureStore(tiny).features(videos[:1], grad=True)]
    else:
        made = [FeatureStore(tiny).features(videos)]
        for cache in ("memory", tmp_path):
            store = FeatureStore(tiny, cache=cache)
            made += [store.features(videos[1:3]), store.features(videos)]
    for found in made:
        for video in videos:
            if video.key in found:
                alone = FeatureStore(tiny).features([video])[video.key].tensor
                assert torch.equal(found[video.key].tensor, alone), video.key


def test_memory_cache_keeps_features_between_calls(tiny):
    store = FeatureStore(tiny, cache="memory")
    first = store.features([make_video(0)])["video0"]
    both = store.features([make_video(1), make_video(0)])
    assert list(both) == ["video1", "video0"] and both["video0"].tensor is first.tensor
    assert store.num_videos == 2


@pytest.mark.both_families
def test_features_carry_no_gradient_even_with_input_hooks_unless_asked(tiny_folder, caplog):
    bundle = load(tiny_folder, tune="full", freeze_vision=False)
    bundle.model.enable_input_require_grads()
    assert is_tower_trained(bundle.model)
    with caplog.at_level(logging.WARNING):
        store = FeatureStore(bundle, cache="memory")
    assert "video.feature_cache=memory is off" in caplog.text
    assert not store.features([make_video(0)])["video0"].tensor.requires_grad
    features = store.features([make_video(0)], grad=True)["video0"].tensor
    features.sum().backward()
    assert tower(bundle.model).patch_embed.proj.weight.grad.abs().sum() > 0


@pytest.mark.both_families
def test_a_wrong_grid_is_refused(tiny):
    video = make_video(0)
    with pytest.raises(RunError, match=r"video0: the processor made grid \(4, 4, 4\) of it"):
        FeatureStore(tiny).features([replace(video, medium=replace(video.medium, grid_thw=(4, 4, 2)))])


def test_an_unknown_cache_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"video\.feature_cache=disk"):
        FeatureStore(tiny, cache="disk")
