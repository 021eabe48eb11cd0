"""SIGKILL of real commands that replace something: the old content is there, or back with the next start."""

import json
import signal
import subprocess
import sys
import time

import pytest
from two_processes import GRPO, ONE, arguments, finish, vsgrpo

pytestmark = pytest.mark.faults


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.01)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_overwrite_of_a_run_gives_it_back(dataset_folder, tiny_folder, tmp_path, monkeypatch):
    run, mark = tmp_path / "run", tmp_path / "in the reward"
    (run / "checkpoint-7").mkdir(parents=True)
    (run / "checkpoint-7" / "weights").write_text("old weights")
    (run / "config.yaml").write_text("old: 1\n")
    (run / "run.json").write_text(json.dumps({"checkpoints": {"7": {"stage": 0, "step": 7}}}))
    before = content(run)
    monkeypatch.setenv("TEST_MARK", str(mark))
    slow = ("reward.names=[spread_reward:slow]", "trainer.max_steps=2", *ONE)
    given = arguments("grpo", dataset_folder, tiny_folder, run, *GRPO, *slow)
    process = vsgrpo("grpo", given, "--overwrite")
    wait_for(mark.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = content(run / ".replaced")
    assert kept == {name: before[name] for name in kept} and "checkpoint-7/weights" in kept
    code, _, err = finish(vsgrpo("grpo", given))
    assert code == 2
    assert f"run.dir={run}: --overwrite ended before its first checkpoint: the earlier run is back" in err
    assert f"error: run.dir={run}: holds an earlier run" in err
    assert {name: data for name, data in content(run).items() if name != ".lock"} == before


@pytest.mark.parametrize("after", [0.0, 0.1])
def test_a_killed_import_leaves_the_dataset_and_can_be_repeated(after, tmp_path):
    rows = [
        {
            "id": i,
            "scene_name": f"own{i:06d}",
            "dataset": "own",
            "question_type": "object_counting",
            "question": "How many chair(s) are in this room?",
            "ground_truth": str(i + 1),
        }
        for i in range(2000)
    ]
    for number in (3, 2000):
        text = "".join(json.dumps(row) + "\n" for row in rows[:number])
        (tmp_path / f"rows{number}.jsonl").write_text(text)
    out = tmp_path / "ds"

    def run(number, *flags):
        command = [sys.executable, "-m", "vsgrpo.cli", "import-data", str(tmp_path / f"rows{number}.jsonl")]
        return subprocess.Popen([*command, f"output={out}", *flags], stderr=subprocess.PIPE, text=True)

    assert run(3).wait(timeout=120) == 0
    before = content(out)
    process = run(2000, "--overwrite")
    wait_for(lambda: (out / ".import").exists(), process)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = content(out)
    if not (out / ".import.complete").exists() and json.loads(found["manifest.json"])["counts"]["read"] == 3:
        assert {name: data for name, data in found.items() if not name.startswith(".import")} == before
    again = run(2000, "--overwrite")
    assert again.wait(timeout=120) == 0, again.communicate()
    assert not [path for path in out.iterdir() if path.name.startswith(".import")]
    assert sum(len((out / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "dev")) == 2000
