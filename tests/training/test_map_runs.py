"""Rows with maps in whole runs: SFT learns one map by heart, two steps of GRPO reward it, an evaluation scores it."""

import json
from dataclasses import replace

import pytest
from tiny_runs import make_rows, write_dataset

from vsgrpo.cli import run
from vsgrpo.data.rows import write_rows
from vsgrpo.training.worker import train

pytestmark = pytest.mark.integration
SAID = '<map>{"bed": [[8, 8]]}</map>'


def test_a_map_is_learned_rewarded_and_scored(make_config, tmp_path, capsys):
    folder = write_dataset(tmp_path / "maps", num_scenes=1)
    drawn = {"question_type": "object_map", "answer_kind": "map", "question": "Draw a map.", "unit": None}
    write_rows(folder / "train.jsonl", [replace(make_rows(0)[1], **drawn, answer=SAID, ground_truth=SAID)])
    shown = [f"data={folder}", "video.num_frames=2"]
    steps = ["trainer.max_steps=60", "trainer.save_steps=60", "trainer.learning_rate=3e-3"]
    train(make_config("sft", *shown, *steps, "trainer.per_device_train_batch_size=1", name="sft"))
    few = ["trainer.num_generations=2", "trainer.per_device_train_batch_size=2", "trainer.max_completion_length=40"]
    learned = f"model.path={tmp_path / 'sft/final'}"
    train(make_config("grpo", *shown, *few, learned, "reward.names=[accuracy,map]"))
    lines = (tmp_path / "run/log.jsonl").read_text().splitlines()
    logged = [record for record in map(json.loads, lines) if "reward" in record]
    assert [record["rewards/map_reward/mean"] for record in logged] == [1.0, 1.0]
    assert [record["reward/object_map"] for record in logged] == [2.0, 2.0]  # accuracy and map are one score
    words = [f"model={tmp_path / 'run/final'}", f"benchmark.path={folder}", "benchmark.split=train"]
    words += [f"output={tmp_path / 'eval'}", "video.num_frames=2", "video.timeout_s=null", "prompt.wording=train"]
    assert run(["eval", *words, "decoding.max_new_tokens=6"]) == 2
    # One category of one cell: 1 + 2 + 4 = 7 tokens at least.
    assert "decoding.max_new_tokens=6: cuts off the answers of 1 of 1 row" in capsys.readouterr().err
    assert run(["eval", *words, "decoding.max_new_tokens=40"]) == 0
    results = json.loads((tmp_path / "eval/results.json").read_text())
    # In the centre a point lies 3 sqrt 2 cells from [8, 8]: further than 3, and 1 - 3 / 10 by the published score.
    blind = {"blind_strict": 0.0, "blind_published": pytest.approx(0.7)}
    assert results["maps"]["official"] == {"n": 1, "strict": 1.0, "published": 1.0, **blind}
    assert results["scores"] == {"object_map": 1.0, "overall": 1.0}
