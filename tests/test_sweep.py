"""train --sweep: which runs several values stand for, their folders, what a second start does, the array for Slurm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vsgrpo.errors import ConfigError
from vsgrpo.launch.sweep import MAX_NAME, make_sweep, write_sbatch, write_sweep

SWEPT = ["trainer=sft", "data=rows", "output=runs/s", "trainer.learning_rate=1e-5,1e-4", "run.seed=range(1,3)"]


def test_values_are_combined_in_their_order_the_last_key_fastest():
    sweep = make_sweep(SWEPT)
    assert [run.name for run in sweep.runs] == [
        *("learning_rate-1e-05_seed-1", "learning_rate-1e-05_seed-2"),
        *("learning_rate-0.0001_seed-1", "learning_rate-0.0001_seed-2"),
    ]
    assert sweep.fixed == ["trainer=sft", "data=rows"] and sweep.folder == Path("runs/s")
    assert sweep.runs[1].words == ["trainer=sft", "data=rows", "trainer.learning_rate=1e-05", "run.seed=2"]


def test_a_name_is_a_folder_name_whatever_the_values():
    words = ["output=o", "model=choice(a/b, 'c d')", "trainer.hf={x: 1},{x: 2}"]
    names = [run.name for run in make_sweep(words).runs]
    assert names[0] == "model-a-b_hf-x-1" and len(set(names)) == 4
    assert not any(set(name) & set("/ '{}:,=") for name in names)
    (first, second) = make_sweep(["output=o", f"data={'d' * 200},{'d' * 199}e"]).runs
    assert len(first.name) == len(second.name) == MAX_NAME and first.name != second.name


def test_equal_last_parts_are_told_apart():
    words = ["output=o", "video.max_pixels=3136,6272", "image.max_pixels=3136,6272"]
    assert make_sweep(words).runs[0].name == "video.max_pixels-3136_image.max_pixels-3136"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output=o", "data=d"], "every key has one value"),
        (["run.seed=0,1"], "no output folder"),
        (["output=o", "run.seed=[0,1]"], "a list of seeds is one run"),
        (["output=o", "trainer.beta=interval(0,1)"], "its values cannot be listed"),
        (["output=o", "experiment=glob(*)"], "its values cannot be listed"),
        (["output=o", "trainer.beta=0.1,1e-1"], "beta-0.1: two runs of this name"),
        (["output=o", "prompt.suffix='a, b'"], "every key has one value"),  # a text with a comma is one value
        (["output=o", "reward.names=[accuracy,format]"], "every key has one value"),
    ],
)
def test_what_is_no_sweep_is_refused(words, message):
    with pytest.raises(ConfigError) as error:
        make_sweep(words)
    assert message in error.value.message and error.value.hint


def test_a_sweep_takes_more_values_but_no_other_settings(tmp_path):
    words = ["trainer=sft", f"output={tmp_path}"]
    write_sweep(make_sweep([*words, "run.seed=1,2"]), resume=False, overwrite=False)
    write_sweep(make_sweep([*words, "run.seed=2,3"]), resume=False, overwrite=False)
    names = [run["name"] for run in json.loads((tmp_path / "sweep.json").read_text())["runs"]]
    assert sorted(names) == ["seed-1", "seed-2", "seed-3"]
    other = make_sweep([*words, "run.seed=1,2", "trainer.weight_decay=0.1"])
    with pytest.raises(ConfigError, match=r"other settings: trainer\.weight_decay=0\.1"):
        write_sweep(other, resume=False, overwrite=False)
    write_sweep(other, resume=True, overwrite=False)


# --- with real runs


@pytest.fixture
def words(tiny_folder, tmp_path):
    """Words of a small SFT run."""
    sys.path.insert(0, str(Path(__file__).parent / "training"))
    from tiny_runs import write_dataset

    rows = write_dataset(tmp_path / "rows", num_scenes=3)
    found = ["train", "sft", f"data={rows}", "launch=cpu", "video.num_frames=4", "trainer.questions_per_video=1"]
    found += ["trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1"]
    return [*found, f"model={tiny_folder}", f"output={tmp_path / 'sweep'}"]


def vsgrpo(*words):
    return subprocess.run([sys.executable, "-m", "vsgrpo.cli", *words], capture_output=True, text=True, check=False)


@pytest.mark.integration
def test_a_failed_run_is_named_and_the_others_go_on(words, tmp_path):
    given = [*words, "trainer.max_steps=1", "trainer.save_steps=1", "data.split=dev,train", "--sweep"]  # no dev.jsonl
    result = vsgrpo(*given)
    assert result.returncode == 1 and "run 1/2 split-dev: failed (exit code 2)" in result.stderr
    assert "1 of 2 runs failed: split-dev" in result.stderr
    assert "trained: " in result.stdout and (tmp_path / "sweep" / "split-train" / "final").is_dir()
    line = next(line for line in result.stdout.splitlines() if line.startswith("split-dev "))
    assert line.split()[:3] == ["split-dev", "dev", "not"]  # started
    page = (tmp_path / "sweep" / "compare.html").read_text()
    assert page.count("<code>split-") >= 2 and "Sweep of 2 runs" in page
    stopped = vsgrpo(*given[:-2], "data.split=test,train", "--sweep", "--stop-on-failure")
    assert stopped.returncode != 0 and "run 2/2" not in stopped.stderr


@pytest.mark.integration
def test_a_stopped_sweep_goes_on_with_the_same_command(words, tmp_path):
    given = [*words, "trainer.max_steps=6", "trainer.save_steps=3", "run.seed=1,2", "--sweep"]
    first = subprocess.Popen([sys.executable, "-m", "vsgrpo.cli", *given], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "sweep" / "seed-1" / "log.jsonl"
    for _ in range(1200):
        if log.is_file() and log.stat().st_size:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    assert "seed-1: stopped; the same command goes on" in first.communicate(timeout=120)[1]
    assert first.returncode == 130 and not (tmp_path / "sweep" / "seed-2").exists()
    second = vsgrpo(*given, "--json")
    assert second.returncode == 0 and "run 1/2 seed-1: goes on" in second.stderr
    runs = json.loads(second.stdout)["runs"]
    assert {name: (run["status"], run["steps"]) for name, run in runs.items()} == {
        "seed-1": ("done", 6),
        "seed-2": ("done", 6),
    }
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"loss"' in line]
    assert steps == [1, 2, 3, 4, 5, 6]  # each once
    third = vsgrpo(*given)
    assert third.returncode == 0 and third.stderr.count("finished already") == 2


@pytest.mark.slow
def test_a_task_of_the_slurm_array_trains_its_run_and_leaves_a_finished_one_alone(words, tmp_path):
    given = [*words, "trainer.max_steps=1", "trainer.save_steps=1", "run.seed=1,2", "--sweep", "--sbatch"]
    made = vsgrpo(*given)
    script = tmp_path / "sweep" / "sweep.sbatch"
    assert made.stdout == f"sbatch {script}\n" and "#SBATCH --array=0-1\n" in script.read_text()
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):
        task = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    assert "seed-2: finished already" in task.stdout
    assert (tmp_path / "sweep" / "seed-2" / "final").is_dir() and not (tmp_path / "sweep" / "seed-1").exists()
    report = vsgrpo("report", str(tmp_path / "sweep"))
    assert "seed-1  1         not started" in report.stdout and f"compared: {tmp_path}" in report.stdout


def test_the_words_of_an_array_are_quoted(tmp_path):
    sweep = make_sweep(["trainer=sft", "prompt.suffix='it; is'", f"output={tmp_path}", "run.seed=1,2"])
    text = write_sbatch(sweep, ["--allow-changed"]).read_text()
    check = 'set -- "${WORDS[@]}"; printf "%s\\n" "$@"'
    cases = text[text.index('case "$SLURM') : text.index("if grep")]
    result = subprocess.run(
        ["bash", "-c", cases + check],
        env={"SLURM_ARRAY_TASK_ID": "0", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == ["sft", "prompt.suffix='it; is'", "run.seed=1", "--allow-changed"]
