"""The vision tower and its features: kernels, and features on disk for many processes, of this tower only."""

import concurrent.futures
import logging
import multiprocessing
from dataclasses import replace

import pytest
import torch
from tiny_inputs import make_video, width_of

from vsgrpo.errors import ConfigError, RunError, SetupError
from vsgrpo.modeling.feature_files import tower_hash
from vsgrpo.modeling.load import load
from vsgrpo.modeling.vision import BATCHED_ATTENTION, FeatureStore, PatchProjection, is_tower_trained
from vsgrpo.video.cache import DiskCache

A, B = make_video(0), make_video(1, height=84)


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
        "vsgrpo.modeling.vision.scaled_dot_product_attention",
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
    assert [features[f"video{i}"].tensor.shape for i in (0, 2)] == [(16, width_of(tiny)), (24, width_of(tiny))]
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


def entries(folder):
    return sorted(folder.glob("??/*.npy"))


@pytest.mark.both_families
def test_a_second_run_finds_the_features_and_never_runs_the_tower(tiny, tmp_path):
    first, second = (FeatureStore(tiny, cache=tmp_path) for _ in range(2))
    assert A.key not in first
    made = first.features([A, B, A])
    assert (first.num_videos, A.key in second, len(entries(tmp_path))) == (2, True, 2)
    found = second.features([B, A])
    assert second.num_calls == 0
    for video in (A, B):
        assert torch.equal(found[video.key].tensor, made[video.key].tensor)
        assert found[video.key].medium.grid_thw == video.medium.grid_thw
        assert found[video.key].medium.seconds_per_patch == video.medium.seconds_per_patch
    # 64-bit header of .npy files: 128 bytes, and 4 of the checksum
    width = found[A.key].tensor.shape[1]
    sizes = [path.stat().st_size - 132 for path in entries(tmp_path)]
    assert sorted(sizes) == sorted(video.medium.num_tokens * width * torch.float32.itemsize for video in (A, B))


@pytest.mark.both_families
def test_features_of_another_tower_or_type_are_not_found(tiny, tiny_folder, tmp_path):
    FeatureStore(tiny, cache=tmp_path).features([A])
    other = load(tiny_folder, tune="none")
    with torch.no_grad():
        next(other.model.model.visual.parameters()).view(-1)[0] += 1
    assert tower_hash(other.model.model.visual) != tower_hash(tiny.model.model.visual)
    assert A.key not in FeatureStore(other, cache=tmp_path)
    store = FeatureStore(tiny, cache=tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert A.key not in store
        made = store.features([A])[A.key].tensor
        found = FeatureStore(tiny, cache=tmp_path).features([A])[A.key].tensor
    assert made.dtype == found.dtype == torch.bfloat16 and torch.equal(made, found)
    assert store.num_calls == 1 and len(entries(tmp_path)) == 2


def test_features_of_another_config_kernel_or_normalisation_are_not_found(tiny, tmp_path):
    FeatureStore(tiny, cache=tmp_path).features([A])
    assert A.key in FeatureStore(tiny, cache=tmp_path)
    for place, name, value in (
        (tiny.model.model.visual.config, "num_heads", 2),
        (tiny.model.model.visual.config, "_attn_implementation", "eager"),
        (tiny.processor.video_processor, "image_mean", [0.5, 0.5, 0.5]),
        (tiny.processor.image_processor, "rescale_factor", 1 / 128),
    ):
        before = getattr(place, name)
        setattr(place, name, value)
        assert A.key not in FeatureStore(tiny, cache=tmp_path), name
        setattr(place, name, before)
    assert A.key in FeatureStore(tiny, cache=tmp_path)


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_one_key_names_one_kind_size_and_timing(tiny, cache):
    other = replace(A, medium=replace(A.medium, seconds_per_patch=9.0))
    store = FeatureStore(tiny, cache=cache)
    with pytest.raises(ValueError, match="video0: names both"):
        store.features([A, other])
    # One after the other each has its own timing, whatever is cached.
    assert [store.features([item])[A.key].medium.seconds_per_patch for item in (A, other)] == [1.7, 9.0]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw[:200] + b"\0" * 8 + raw[208:], lambda _: b""])
def test_a_broken_entry_is_computed_again_and_counted(tiny, tmp_path, damage, caplog):
    expected = FeatureStore(tiny, cache=tmp_path).features([A])[A.key].tensor
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage(entry.read_bytes()))
    store = FeatureStore(tiny, cache=tmp_path)
    assert torch.equal(store.features([A])[A.key].tensor, expected)
    assert (store.disk.num_corrupt, store.num_calls) == (1, 1)
    assert "a broken entry of the feature cache is computed again" in caplog.text
    assert FeatureStore(tiny, cache=tmp_path).features([A])[A.key].tensor.equal(expected)


def test_a_trained_tower_switches_the_disk_cache_off(tiny_folder, tmp_path, caplog):
    bundle = load(tiny_folder, tune="full", freeze_vision=False)
    assert FeatureStore(bundle, cache=tmp_path).disk is None
    assert "video.feature_cache=disk is off: the vision tower is trained" in caplog.text


def test_what_was_not_used_for_longest_is_evicted_first(tiny, tmp_path):
    import os

    store = FeatureStore(tiny, cache=tmp_path)
    mapped = store.features([A, B])
    by_use = entries(tmp_path)
    for age, path in zip((300, 200), by_use, strict=True):
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    cache = DiskCache(tmp_path)
    count, size = cache.size()
    assert count == 2
    assert cache.evict(size - 1) == 1 and entries(tmp_path) == by_use[1:]
    assert cache.evict(0) == 1 and cache.size() == (0, 0)
    assert torch.isfinite(mapped[A.key].tensor).all()


def write_entries(folder, seed):
    cache = DiskCache(folder)
    for number in range(40):
        cache.put(f"{number:032x}", torch.full((50, 8), float(number)).numpy())
        found = cache.get(f"{(number * 7 + seed) % 40:032x}")
        assert found is None or (found == (number * 7 + seed) % 40).all()
    return cache.num_corrupt


def test_processes_that_write_the_same_entries_never_see_half_of_one(tmp_path):
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as pool:
        assert list(pool.map(write_entries, [tmp_path] * 4, range(4))) == [0, 0, 0, 0]
    assert len(entries(tmp_path)) == 40 and not list(tmp_path.glob("**/*.tmp"))


def test_a_full_disk_names_the_way_out(tiny, tmp_path, monkeypatch):
    store = FeatureStore(tiny, cache=tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(SetupError, match="No space left on device") as caught:
        store.features([A])
    assert "video.feature_cache=off" in caught.value.hint
