"""cache-videos fills, finds, evicts; a run on the filled cache neither decodes nor runs the tower."""

import json
from pathlib import Path

import pytest
from tiny_runs import LORA, make_trainer

from vsgrpo.cli import run
from vsgrpo.errors import ConfigError
from vsgrpo.training.rows import cache_videos

pytestmark = pytest.mark.integration


@pytest.mark.both_families
def test_a_filled_cache_spares_decoder_and_tower(make_config, tmp_path, capsys):
    cache = f"video.cache_dir={tmp_path / 'cache'}"
    config = make_config("sft", cache, "video.feature_cache=disk", "video.frame_cache=off", *LORA)
    config_lines = capsys.readouterr()
    first = cache_videos(config)
    # 6 videos of 4 frames: 2 slices x 2 x 2 merged patches = 8 tokens of width 96 in float32; Qwen3-VL's tower has two
    # more levels of 96
    assert (first.num_videos, first.num_decoded, first.num_through_tower, first.entries) == (6, 6, 6, 6)
    width = 288 if "qwen3_vl" in (Path(config.model.path) / "config.json").read_text() else 96
    assert f"48 tokens x {width}, " in capsys.readouterr().err, config_lines
    second = cache_videos(config)
    assert (second.num_decoded, second.num_through_tower, second.entries) == (0, 0, 6)
    trainer = make_trainer(config)
    trainer.train()
    assert trainer._store.num_calls == 0
    assert trainer._maker._loader.num_decoded == 0
    log = trainer.state.log_history[0]
    assert log["videos/computed"] == 0 and log["videos/plain"] >= 1


def test_command_line_fills_shrinks_and_clears(dataset_folder, tiny_folder, tmp_path, capsys):
    settings = [f"video.cache_dir={tmp_path}", "video.num_frames=4", "video.timeout_s=null", "video.backend=pyav"]
    frames = [f"data={dataset_folder}", "video.feature_cache=off", "video.frame_cache=disk"]

    def call(*words):
        code = run(["cache-videos", *settings, *words, "--json"])
        assert code == 0
        return json.loads(capsys.readouterr().out)

    made = call(*frames)
    assert (made["num_decoded"], made["num_through_tower"], made["entries"]) == (6, 0, 6)
    assert call(*frames)["num_decoded"] == 0
    assert call("--keep-gib", str(made["gib"] / 2))["entries"] == 3
    assert call("--clear")["entries"] == 0
    assert run(["cache-videos", "video.cache_dir=null", f"data={dataset_folder}"]) == 2
    assert run(["cache-videos", *settings]) == 2


def test_a_trained_tower_is_refused(make_config, tmp_path):
    config = make_config(
        "sft",
        f"video.cache_dir={tmp_path / 'cache'}",
        "video.feature_cache=disk",
        "model.tune=full",
        "model.freeze_vision=false",
    )
    with pytest.raises(ConfigError, match=r"model\.freeze_vision=false: features of a tower that is trained"):
        cache_videos(config)
