import json
import signal
import time
from types import SimpleNamespace

import pytest

from vsgrpo.training import callbacks
from vsgrpo.training import progress as reports
from vsgrpo.training.callbacks import StopOnSignal
from vsgrpo.training.launcher import LostProcess, another_failed, explain, forget_failures, record_failure
from vsgrpo.training.measure import PhaseTimer
from vsgrpo.training.progress import JsonLog, Progress, Stage
from vsgrpo.training.run_folder import RunFolder


def stage(path):
    return Stage(RunFolder(path, lambda folder: None), number=1, num_stages=2, steps_before=10, name="grpo")


def state(step, max_steps=100):
    return SimpleNamespace(global_step=step, max_steps=max_steps, is_world_process_zero=True)


def test_log_counts_steps_over_stages_and_keeps_nan(tmp_path):
    JsonLog(stage(tmp_path)).on_log(
        None, state(3), None, logs={"loss": float("nan"), "kl": float("-inf"), "reward": 0.5}
    )
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["schema_version"] == 1 and line["stage"] == 1
    assert line["step"] == 13  # 10 of the earlier stage + 3
    assert (line["loss"], line["kl"], line["reward"]) == ("NaN", "-Infinity", 0.5)


def test_progress_prints_plain_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(reports.time, "monotonic", lambda: now[0])
    progress = Progress(stage(tmp_path), PhaseTimer())
    progress.on_train_begin(None, state(4), None)
    now[0] += 12.0
    progress.on_log(None, state(10), None, logs={"loss": 0.25, "reward": 0.5, "grad_norm": 1.0})
    progress.on_log(None, state(10), None, logs={"train_runtime": 1.0})
    out, err = capsys.readouterr()
    # 6 steps in 12 s: 2 s a step, 90 left = 180 s.
    assert out == ""
    assert err == "grpo stage 2/2 step 10/100  loss 0.25  reward 0.5  2.00 s/step  3m00s left\n"


def test_durations_survive_a_wall_clock_that_is_set_back(tmp_path, capsys, monkeypatch):
    now, wall = [100.0], [1_000_000.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])  # the same module, for the phases
    monkeypatch.setattr(callbacks.time, "time", lambda: wall[0])
    timer, progress, log = PhaseTimer(), Progress(stage(tmp_path), PhaseTimer()), JsonLog(stage(tmp_path))
    progress.on_train_begin(None, state(0), None)
    with timer.phase("update"):
        now[0] += 8.0
        wall[0] -= 3600.0  # the machine's clock is corrected by an hour
    logs = {"loss": 1.0, **{f"time/{name}": seconds for name, seconds in timer.take().items()}}
    for callback in (progress, log):
        callback.on_log(None, state(4), None, logs=logs)
    assert "2.00 s/step" in capsys.readouterr().err  # 8 s / 4 steps
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["time/update"], line["clock"]) == (8.0, 996_400.0)


def test_a_launchers_copy_of_the_signal_is_no_second_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("VSGRPO_SUPERVISED", raising=False)
    stop = StopOnSignal()
    stop._note(2, None)
    now[0] += 0.5
    stop._note(15, None)
    assert stop.received == 2
    now[0] += 10.0
    with pytest.raises(KeyboardInterrupt):
        stop._note(2, None)


def test_without_a_foreign_launcher_the_second_signal_counts_at_once():
    said = []
    stop = StopOnSignal(say=said.append)
    stop._note(2, None)
    assert len(said) == 1 and said[0].startswith("SIGINT: finishing the step, then saving a checkpoint")
    with pytest.raises(KeyboardInterrupt):
        stop._note(2, None)


def test_a_worker_ends_at_once_where_another_one_has_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("VSGRPO_SUPERVISED", "1")
    monkeypatch.setenv("RANK", "0")
    stop = StopOnSignal(lost=lambda: another_failed(tmp_path))
    assert record_failure(tmp_path, 0, ValueError("its own"))
    stop._note(15, None)  # nobody else failed: finish the step
    assert stop.received == 15
    assert record_failure(tmp_path, 1, ValueError("shape"))
    with pytest.raises(LostProcess):
        stop._note(15, None)


def test_a_process_whose_time_is_up_comes_back_to_its_caller(monkeypatch):
    """A notebook that trains is not killed once the exception has reached it; a library that stands still is."""
    left = []
    monkeypatch.delenv("VSGRPO_SUPERVISED", raising=False)
    monkeypatch.setattr(callbacks, "LAST_S", 0.2)
    monkeypatch.setattr(callbacks.os, "_exit", left.append)
    stop = StopOnSignal(save_timeout_s=0.05)
    stop.on_train_begin(None, None, None)
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(signal.SIGUSR1)
        time.sleep(30)
    assert caught.value.args == (signal.SIGUSR1,)
    time.sleep(0.5)
    assert left == []

    stuck = StopOnSignal(save_timeout_s=0.05)
    monkeypatch.setattr(callbacks.signal, "pthread_kill", lambda *args: None)
    stuck._note(signal.SIGTERM, None)
    for _ in range(300):  # a busy machine runs its timers late
        if left:
            break
        time.sleep(0.1)
    assert left == [128 + signal.SIGTERM]


def test_failures_of_an_earlier_start_are_not_told_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VSGRPO_SUPERVISED", "1")
    record_failure(tmp_path, 1, ValueError("shape"))
    assert explain(tmp_path, {1: 1}) == 1
    assert capsys.readouterr().err.startswith("error: process 1: ValueError: shape\n")
    forget_failures(tmp_path)
    assert (tmp_path / "failures" / "1.log").is_file()
    assert explain(tmp_path, {0: -9}) == 1
    assert capsys.readouterr().err.startswith("error: process 0 was ended by SIGKILL\n")


def test_a_signal_waits_for_the_end_of_the_rollout_buffer():
    stop = StopOnSignal(every=3)
    stop._note(15, None)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    args = SimpleNamespace(device="cpu")
    assert not stop.on_step_end(args, state(4), control).should_training_stop
    assert stop.on_step_end(args, state(6), control).should_training_stop and control.should_save
    assert stop.stopped
