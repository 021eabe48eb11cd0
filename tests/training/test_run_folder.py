"""A run folder before training: what --overwrite replaces comes back, a run without a step blocks nothing, other inputs
are refused by name."""

import dataclasses
import json
import os
import shutil
import time

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.data import inputs as inputs_room
from vsgrpo.data.inputs import look_at, read_inputs
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.files import write_checksums
from vsgrpo.paths import drop_aside
from vsgrpo.training.continuation import is_longer
from vsgrpo.training.run_folder import prepare_run_folder, settle


@pytest.fixture(scope="module")
def composed():
    return load_config("train", ["trainer=sft", "data=d", "output=x", "model=tiny", "launch=cpu"])


@pytest.fixture
def make(composed, tmp_path):
    """Return (trainer values) -> config of a run in tmp_path / "run"."""

    def config(**values):
        run = dataclasses.replace(composed.run, dir=str(tmp_path / "run"))
        return dataclasses.replace(composed, run=run, trainer=dataclasses.replace(composed.trainer, **values))

    return config


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def start(config, run, *, resume=False, overwrite=False, **options):
    prepare_run_folder(run, config, [], resume=resume, overwrite=overwrite, **options)


def checkpoint(run, number, max_steps=10, stage=0, step=None):
    """Write a checkpoint as the trainer leaves it, and enter it into run.json."""
    folder = run / f"checkpoint-{number}"
    folder.mkdir()
    (folder / "weights").write_text(f"weights {number}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step or number, "max_steps": max_steps}))
    write_checksums(folder)
    status = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    status.setdefault("checkpoints", {})[str(number)] = {"stage": stage, "step": step or number}
    (run / "run.json").write_text(json.dumps({"status": "stopped", **status}))


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_made_no_step_does_not_block_the_corrected_command(make, run):
    start(make(learning_rate=1.0), run)
    (run / "run.json").write_text(json.dumps({"status": "failed", "error": "learning_rate"}))
    (run / "tiny").mkdir()
    start(make(learning_rate=0.5), run)
    assert not (run / "run.json").exists() and not (run / "tiny").exists()
    (run / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(DataError, match="holds an earlier run"):
        start(make(learning_rate=0.5), run)


def test_a_config_that_no_run_wrote_is_not_replaced(make, run):
    run.mkdir()
    (run / "config.yaml").write_text("somebody: else\n")
    (run / "report.html").write_text("mine")
    with pytest.raises(DataError, match="holds an earlier run"):
        start(make(), run)
    assert (run / "report.html").read_text() == "mine"


def test_an_overwritten_run_comes_back_until_there_is_a_checkpoint(make, run, capsys):
    start(make(), run)
    checkpoint(run, 3)
    (run / "eval").mkdir()
    (run / "eval" / "predictions.jsonl").write_text("answers")
    (run / "notes.txt").write_text("mine")
    before = content(run)
    start(make(learning_rate=0.5), run, overwrite=True)
    assert not (run / "checkpoint-3").exists() and not (run / "eval").exists()
    (run / "log.jsonl").write_text("of the new run")
    (run / "bad_batch-0-0.json").write_text("why it failed")
    settle(run)
    assert content(run) == {**before, "bad_batch-0-0.json": b"why it failed"}
    told = capsys.readouterr().err
    assert "not of the run, left in place: notes.txt" in told
    assert "--overwrite ended before its first checkpoint: the earlier run is back" in told
    start(make(learning_rate=0.5), run, overwrite=True)
    checkpoint(run, 1)
    start(make(learning_rate=0.5), run, resume=True)  # killed after the checkpoint, before the old run was removed
    assert (run / "checkpoint-1").is_dir() and not (run / ".replaced").exists() and (run / "notes.txt").exists()
    drop_aside(run)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {"max_steps": 10},
            {"max_steps": 9},
            r"trainer.max_steps=9: the run was started with 10; it can",
        ),
        ({"max_steps": 10}, {"max_steps": -1}, r"trainer.max_steps=-1: the run was started with 10"),
        ({"max_steps": -1, "num_train_epochs": 2.0}, {"num_train_epochs": 1.0}, r"num_train_epochs=1.0: .* with 2;"),
        ({"max_steps": -1}, {"max_steps": 9}, r"trainer.max_steps=9: the run was started with 10"),  # 10 steps so far
        ({"stages": [{}, {"learning_rate": 0.1}]}, {"stages": [{}]}, r"trainer.stages: 1, the run was started with 2"),
        ({"stages": [{}]}, {"stages": [{"learning_rate": 0.1}]}, r"trainer.stages\[0\]="),
        (
            {"max_steps": 4, "stages": [{}, {}]},
            {"stages": [{"max_steps": 6}, {}]},
            r"trainer.stages\[0\]: longer than before, but the run is in stage 1",
        ),
    ],
)
def test_what_is_no_longer_run(before, after, message, make, run):
    start(make(**before), run)
    checkpoint(run, 10, stage=1 if len(before.get("stages") or []) > 1 else 0)
    with pytest.raises(ConfigError, match=message):
        start(make(**{**before, **after}), run, resume=True)


def test_a_run_becomes_longer(make, run):
    start(make(max_steps=10), run)
    checkpoint(run, 10)
    assert not is_longer(run, make(max_steps=10))
    for values in ({"max_steps": 12}, {"max_steps": 12, "stages": [{}, {"max_steps": 3}]}):
        assert is_longer(run, make(**values))
        start(make(**values), run, resume=True)


@pytest.fixture
def files(tmp_path):
    """Rows and two videos."""
    (tmp_path / "train.jsonl").write_text('{"id": "a", "answer": "1"}\n{"id": "b", "answer": "2"}\n')
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(f"video {name}".encode())
    return [("rows", tmp_path / "train.jsonl"), ("video", tmp_path / "a.mp4"), ("video", tmp_path / "b.mp4")]


def began(make, run, files):
    start(make(), run, inputs=look_at(files))
    checkpoint(run, 3)
    for _ in range(100):
        if all(entry.sha256 for entry in (read_inputs(run) or {}).values()):
            return
        time.sleep(0.02)
    pytest.fail("no hashes came from the background")


def test_changed_rows_are_named(make, run, files, capsys):
    began(make, run, files)
    files[0][1].write_text('{"id": "a", "answer": "1"}\n{"id": "b", "answer": "3"}\n{"id": "c", "answer": "2"}\n')
    with pytest.raises(DataError) as caught:
        start(make(), run, resume=True, inputs=look_at(files))
    assert caught.value.message == (
        f"run.dir={run}: 1 of its inputs changed since it started: rows {files[0][1]}: "
        "2 of 3 lines are new or changed, 1 of the 2 before are gone (first: line 2, id b)"
    )
    assert "--allow-changed" in caught.value.hint
    start(make(), run, resume=True, inputs=look_at(files), allow_changed=True)
    assert "warning: from step 3 on with other inputs: rows" in capsys.readouterr().err
    (noted,) = json.loads((run / "run.json").read_text())["changed_inputs"]
    assert noted["step"] == 3 and "line 2, id b" in noted["inputs"][0]
    start(make(), run, resume=True, inputs=look_at(files))  # these are its inputs now


def replaced(path):
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # as long as before, and its time set back
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def copied(path):
    shutil.copyfile(path, path.with_suffix(".copy"))
    os.replace(path.with_suffix(".copy"), path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (replaced, "a.mp4: other content"),
        (lambda path: path.write_bytes(b"longer" * 9), "a.mp4: 54 bytes, were 11"),
        (lambda path: path.unlink(), "a.mp4: gone"),
        (copied, None),
        (os.utime, None),
    ],
    ids=["replaced", "longer", "gone", "copied", "touched"],
)
def test_other_videos_are_refused_and_copies_are_not(change, text, make, run, files):
    began(make, run, files)
    time.sleep(0.01)
    change(files[1][1])
    if text is None:
        start(make(), run, resume=True, inputs=look_at(files))
    else:
        with pytest.raises(DataError, match=text):
            start(make(), run, resume=True, inputs=look_at(files))


def test_unchanged_files_are_not_read_again(make, run, files, monkeypatch):
    began(make, run, files)
    monkeypatch.setattr(inputs_room, "remembered_sha256", lambda path: pytest.fail(f"{path} read again"))
    start(make(), run, resume=True, inputs=look_at(files))
