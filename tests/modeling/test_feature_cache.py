"""Features on disk: the same as computed, for many processes, of this tower only, broken entries made anew."""

import concurrent.futures
import multiprocessing
from dataclasses import replace

import pytest
import torch
from tiny_inputs import make_video

from vsgrpo.errors import SetupError
from vsgrpo.modeling.load import load
from vsgrpo.modeling.vision import FeatureStore, cache_bytes, tower_hash
from vsgrpo.video.cache import DiskCache

A, B = make_video(0), make_video(1, height=84)


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
    assert sorted(sizes) == sorted(cache_bytes(video.medium.num_tokens, width, torch.float32) for video in (A, B))


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
