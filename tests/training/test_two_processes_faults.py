"""Faults of runs of several processes, with real processes: what is lost, what is said, how long it takes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from two_processes import (
    FIVE_STEPS,
    GRPO,
    ONE,
    TWO,
    arguments,
    assert_equal_runs,
    completions,
    distance,
    finish,
    run_one,
    vsgrpo,
    weights,
)

from vsgrpo.training.launcher import Relay

pytestmark = pytest.mark.faults
EACH_STEP = ("trainer.max_steps=5", "trainer.save_steps=1")
LONG = ("trainer.max_steps=500", "trainer.save_steps=1000")
DDP = ("launch=ddp", *TWO)


@pytest.fixture(scope="module")
def reference(dataset_folder, tiny_folder, tmp_path_factory):
    """Five GRPO steps of one process, never interrupted."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    return run_one("grpo", arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *EACH_STEP, *ONE))


@pytest.fixture(scope="module")
def reference_two(dataset_folder, tiny_folder, tmp_path_factory):
    """Five GRPO steps of two processes, never interrupted."""
    run_dir = tmp_path_factory.mktemp("two") / "run"
    given = arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *FIVE_STEPS, *DDP)
    code, _, err = finish(vsgrpo("grpo", given))
    assert code == 0, err
    return run_dir


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)


def status(run_dir):
    return json.loads((run_dir / "run.json").read_text())


def has_steps(run_dir, number):
    log = run_dir / "log.jsonl"
    return log.is_file() and log.read_text().count('"loss"') >= number


def test_kill_of_a_worker_then_resume_is_exact(reference_two, reference, dataset_folder, tiny_folder, tmp_path):
    given = arguments("grpo", dataset_folder, tiny_folder, tmp_path / "run", *GRPO, *EACH_STEP, *DDP)
    code, _, err = finish(vsgrpo("grpo", given, mutation="kill"))
    assert code == 1, err
    assert "error: process 1 was ended by SIGKILL" in err
    assert "Traceback" not in err
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    code, _, err = finish(vsgrpo("grpo", given, "--resume"))
    assert code == 0, err
    assert distance(weights(tmp_path / "run"), weights(reference_two)) == 0
    assert completions(tmp_path / "run") == completions(reference_two)
    # The same checkpoint goes on with one process: the same samples per step, sums in another order.
    one = arguments("grpo", dataset_folder, tiny_folder, tmp_path / "other", *GRPO, *EACH_STEP, *ONE)
    code, _, err = finish(vsgrpo("grpo", one, "--resume"))
    assert code == 0, err
    assert_equal_runs(tmp_path / "other", reference)


def test_a_process_that_hangs_ends_the_run_and_both_phases_are_named(dataset_folder, tiny_folder, tmp_path):
    run_dir = tmp_path / "run"
    given = arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *EACH_STEP, *DDP, "launch.timeout_s=12")
    process = vsgrpo("grpo", given, mutation="hang")
    wait_for(lambda: has_steps(run_dir, 2) or process.poll() is not None)
    began = time.monotonic()
    code, _, err = finish(process, timeout=240)
    assert code == 1, err
    assert 10 < time.monotonic() - began < 240  # 12 s of patience; the rollout would take ten minutes
    assert "error: process 0 in phase reward of step 2 waited launch.timeout_s=12 s for another process" in err
    assert "warning: process 1 has been in phase generate of step 2 for " in err
    assert "Traceback" not in err
    assert status(run_dir)["status"] == "failed"


def test_one_folder_one_run_and_sigterm_to_the_parent(dataset_folder, tiny_folder, tmp_path):
    run_dir = tmp_path / "run"
    given = arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *LONG, *DDP)
    first = vsgrpo("grpo", given)
    wait_for(lambda: has_steps(run_dir, 2) or first.poll() is not None)
    code, _, err = finish(vsgrpo("grpo", given, "--resume"))
    assert code == 2
    assert err.startswith(f"error: run.dir={run_dir}: another process is training there")
    first.send_signal(signal.SIGTERM)
    code, _, err = finish(first, timeout=240)  # 500 steps take longer
    assert code == 128 + signal.SIGTERM, err
    assert "\x1b" not in err  # no live display where stderr is not a terminal
    assert "Traceback" not in err
    state = status(run_dir)
    assert (state["status"], state["signal"]) == ("stopped", "SIGTERM")
    (number,) = state["checkpoints"]
    assert int(number) == json.loads((run_dir / "log.jsonl").read_text().splitlines()[-2])["step"]


@pytest.mark.parametrize("launch", [ONE, DDP], ids=["one", "two"])
def test_a_step_that_takes_too_long_after_a_signal_is_given_up(
    launch, dataset_folder, tiny_folder, tmp_path, monkeypatch
):
    mark = tmp_path / "in the reward"
    monkeypatch.setenv("TEST_MARK", str(mark))
    slow = ("reward.names=[spread_reward:slow]", "launch.save_timeout_s=2")
    given = arguments("grpo", dataset_folder, tiny_folder, tmp_path / "run", *GRPO, *LONG, *launch, *slow)
    process = vsgrpo("grpo", given)
    wait_for(lambda: mark.exists() or process.poll() is not None)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, timeout=240)  # the reward takes ten minutes
    assert code == 128 + signal.SIGTERM, err
    assert time.monotonic() - began > 2
    assert "launch.save_timeout_s=2: the step and its checkpoint take longer: ending now" in err
    assert "Traceback" not in err
    assert status(tmp_path / "run")["status"] == "stopped" and "checkpoints" not in status(tmp_path / "run")


@pytest.mark.parametrize("leads", [True, False])
def test_a_parent_signals_a_worker_of_its_own_machine(leads, tmp_path):
    """The parent of a second machine has no worker 0 to signal; killing its launcher would give 30 s to a long step."""
    worker = "import os, signal, sys; signal.signal(10, lambda *_: sys.exit(7)); open('there', 'w'); signal.pause()"
    launcher = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1], sys.argv[2]]))"
    command = [sys.executable, "-c", launcher, worker, "vsgrpo.training.worker"]
    process = subprocess.Popen(command, cwd=tmp_path)
    wait_for((tmp_path / "there").exists)
    (child,) = psutil.Process(process.pid).children()
    # Worker 0 is the child, or one of another machine whose numbers mean nothing here.
    state = {"status": "running", "pid": child.pid if leads else 1, "ppid": process.pid if leads else 1}
    (tmp_path / "run.json").write_text(json.dumps(state))
    relay = Relay(process, tmp_path, leads, 60.0)
    relay(signal.SIGUSR1, None)
    assert process.wait(timeout=120) == 7 and relay.asked == signal.SIGUSR1


def test_kill_of_the_parent_ends_its_workers_with_a_checkpoint(dataset_folder, tiny_folder, tmp_path):
    run_dir = tmp_path / "run"
    given = arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *LONG, *DDP)
    parent = vsgrpo("grpo", given)
    wait_for(lambda: has_steps(run_dir, 1) or parent.poll() is not None)
    parent.kill()
    parent.wait()
    wait_for(lambda: status(run_dir)["status"] == "stopped")
    assert status(run_dir)["checkpoints"]


def test_a_full_disk_keeps_the_checkpoint_before(reference, dataset_folder, tiny_folder, tmp_path):
    run_dir = tmp_path / "run"
    given = arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *EACH_STEP, *ONE)
    code, _, err = finish(vsgrpo("grpo", given, mutation="quota"))
    assert code == 1
    assert "the checkpoint of step 3 cannot be written" in err
    assert "Traceback" not in err
    assert status(run_dir)["status"] == "failed"
    assert not (run_dir / ".partial").exists()
    code, _, err = finish(vsgrpo("grpo", given, "--resume"))
    assert code == 0, err
    assert distance(weights(run_dir), weights(reference)) == 0


def test_sigterm_while_saving_keeps_that_checkpoint(reference, dataset_folder, tiny_folder, tmp_path):
    run_dir = tmp_path / "run"
    given = arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *EACH_STEP, *ONE)
    code, _, err = finish(vsgrpo("grpo", given, mutation="term_in_save"))
    assert code == 128 + signal.SIGTERM, err
    assert status(run_dir)["status"] == "stopped"
    code, _, err = finish(vsgrpo("grpo", given, "--resume"))
    assert code == 0, err
    assert distance(weights(run_dir), weights(reference)) == 0


def test_a_run_folder_under_a_file_is_refused(dataset_folder, tiny_folder, tmp_path):
    (tmp_path / "file").write_text("")
    given = arguments("grpo", dataset_folder, tiny_folder, tmp_path / "file" / "run", *GRPO, *EACH_STEP, *ONE)
    code, out, err = finish(vsgrpo("grpo", given))
    assert (code, out) == (2, "")
    assert err.splitlines()[0].startswith(f"error: run.dir={tmp_path / 'file' / 'run'}: cannot be written")
    assert len(err.splitlines()) == 2


def test_nothing_of_these_tests_is_left_running():
    mine = os.getpid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        ours = "vsgrpo.training.worker" in command and "pytest-of" in command
        assert not (ours and int(fields[1]) in (1, mine)), command
