"""Scores on dev.jsonl at every checkpoint; the best checkpoint outlives the rotation."""

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_runs import SPREAD, make_rows, write_dataset

from vsgrpo.data.rows import write_rows
from vsgrpo.files import file_sha256
from vsgrpo.launch.start import launch_training
from vsgrpo.rewards import accuracy_reward
from vsgrpo.training.callbacks import SCORE_COLUMNS, spread
from vsgrpo.training.run_folder import RunFolder
from vsgrpo.training.worker import train

pytestmark = pytest.mark.integration


def test_rows_are_spread_evenly():
    rows = [row for scene in range(5) for row in make_rows(scene)]
    assert [row.id for row in spread(rows, 4)] == [rows[i].id for i in (0, 2, 5, 7)]
    assert spread(rows, 99) == rows


def test_the_earlier_of_equal_scores_is_best(tmp_path):
    folder = RunFolder(tmp_path, lambda path: None)
    assert [folder.note_score(n, s) for n, s in ((1, 0.2), (2, 0.5), (10, 0.5), (3, 0.1))] == [0.2, 0.5, 0.5, 0.5]
    assert folder.read_status()["best"] == {"checkpoint": 2, "dev_score": 0.5}


def test_a_dev_answer_is_scored_by_all_that_the_reward_reads():
    # without question_type a time would be scored by its ratio, where training asks whether it is within the tolerance
    read = {name for name, p in inspect.signature(accuracy_reward).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {*SCORE_COLUMNS} == read - {"numeric", "show_options"}


@pytest.mark.parametrize(("kept", "scored"), [(3, 2), (2, 1)])
def test_a_checkpoint_that_was_not_scored_is_scored_when_the_run_goes_on(make_config, tmp_path, kept, scored):
    # killed behind checkpoint `kept`, before its score: at the end of the stage, and inside it
    data = write_dataset(tmp_path / "data")
    write_rows(data / "dev.jsonl", [row for scene in (0, 1, 2) for row in make_rows(scene)])
    given = (f"data={data}", "trainer.dev_rows=3", "trainer.max_steps=3", "trainer.learning_rate=2e-3")
    config = make_config("sft", *given, "trainer.lr_scheduler_type=constant", "trainer.warmup_steps=0")
    assert launch_training(config, [], resume=False, overwrite=False) == 0
    run = Path(config.run.dir)
    whole = json.loads((run / "run.json").read_text())
    shutil.rmtree(run / "final")
    for number in range(kept + 1, 4):
        shutil.rmtree(run / f"checkpoint-{number}")
    left = {"checkpoints": kept, "dev_scores": scored}
    cut = {name: {n: whole[name][n] for n in whole[name] if int(n) <= last} for name, last in left.items()}
    (run / "run.json").write_text(json.dumps({**whole, **cut, "best": {"checkpoint": 1, "dev_score": 0.0}}))
    assert launch_training(config, [], resume=True, overwrite=False) == 0
    status = json.loads((run / "run.json").read_text())
    assert (status["dev_scores"], status["best"]) == (whole["dev_scores"], whole["best"])


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_a_run_scores_every_checkpoint_and_keeps_the_best(make_config, tmp_path, capfd, method):
    data = write_dataset(tmp_path / "data")
    write_rows(data / "dev.jsonl", [row for scene in (0, 1, 2) for row in make_rows(scene)])
    overrides = [f"data={data}", "trainer.dev_rows=4", "trainer.max_steps=4", "trainer.save_total_limit=1"]
    overrides += ["trainer.learning_rate=2e-3"] + ([SPREAD, "model.freeze_vision=true"] if method == "grpo" else [])
    config = make_config(method, *overrides)
    assert train(config) == 0
    run = Path(config.run.dir)
    status = json.loads((run / "run.json").read_text())
    assert sorted(status["dev_scores"]) == ["1", "2", "3", "4"]
    assert all(0 <= score <= 1 for score in status["dev_scores"].values())
    best = status["best"]
    assert best["dev_score"] == max(status["dev_scores"].values())
    captured = capfd.readouterr()
    told = captured.err
    assert f"best on dev.jsonl: {run / 'checkpoint-'}{best['checkpoint']} (score" in told
    assert re.search(
        r"note: \d of 3 rooms of dev.jsonl are trained on \(", told
    )  # the rows above share rooms on purpose
    videos = json.loads((run / "final" / "training_manifest.json").read_text())["videos"]
    assert videos and all(
        record == {"sha256": file_sha256(data / name), "size": (data / name).stat().st_size}
        for name, record in videos.items()
    )
    # the best and the last, no other
    assert {path.name for path in run.glob("checkpoint-*")} == {f"checkpoint-{best['checkpoint']}", "checkpoint-4"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dev_score" in line] == [1, 2, 3, 4]


def test_scoring_leaves_training_as_it_is(make_config, tmp_path):
    from test_stages import difference

    data = write_dataset(tmp_path / "data")
    write_rows(data / "dev.jsonl", make_rows(0))
    folders = []
    for rows in (0, 2):
        config = make_config(
            "sft", f"data={data}", f"trainer.dev_rows={rows}", "trainer.max_steps=3", name=f"run{rows}"
        )
        assert train(config) == 0
        folders.append(Path(config.run.dir) / "final")
    assert difference(*folders) == 0
