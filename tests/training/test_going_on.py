"""A run goes on: lengthened as if it had been so long from the start, or it says what is not; from a damaged checkpoint
it falls back; what --overwrite replaces stays until there is a new checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_runs import SPREAD

from vsgrpo.cli import run as run_command
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.data.manifest import read_training_manifest
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.launch.start import launch_training
from vsgrpo.training import preflight

pytestmark = pytest.mark.integration
RATE, TOWER_RATE = "trainer.learning_rate=1e-3", "trainer.vision_learning_rate=1e-2"


def difference(first, second):
    a, b = (load_file(next(Path(run, "final").glob("*model.safetensors"))) for run in (first, second))
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def rates(run):
    lines = [json.loads(line) for line in (Path(run) / "log.jsonl").open()]
    return {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}


def train(config, **flags):
    flags = {"resume": False, "overwrite": False, **flags}
    assert launch_training(config, [], **flags) == 0
    return Path(config.run.dir)


CONSTANT = ("trainer.lr_scheduler_type=constant", "trainer.warmup_steps=0")
SFT = ("trainer.per_device_train_batch_size=4", RATE, *CONSTANT)  # 12 rows: 3 steps an epoch
BUFFERED = (SPREAD, RATE, "model.freeze_vision=true", "trainer.hf.steps_per_generation=2", "trainer.save_steps=2")
ITERATED = (SPREAD, RATE, "model.freeze_vision=true", "trainer.num_iterations=2", "trainer.save_steps=2")
EPOCHS = (*SFT, "trainer.max_steps=-1")
FIRST = "trainer.stages=[{max_steps: 2}]"
LONGER = "trainer.stages=[{max_steps: 3}, {max_steps: 2, learning_rate: 0.002}]"
WARM = ("trainer.lr_scheduler_type=constant_with_warmup", "trainer.warmup_steps=2")


@pytest.mark.parametrize(
    ("method", "shared", "short", "long"),
    [
        ("sft", (*SFT, *WARM), "trainer.max_steps=3", "trainer.max_steps=5"),  # into the second epoch
        ("sft", (*SFT, *WARM, TOWER_RATE), "trainer.max_steps=3", "trainer.max_steps=5"),
        ("sft", EPOCHS, "trainer.num_train_epochs=1", "trainer.num_train_epochs=2"),
        ("sft", SFT, FIRST, LONGER),  # its last stage, and one more
        ("grpo", BUFFERED, "trainer.max_steps=3", "trainer.max_steps=4"),  # 3 lies inside a rollout buffer
        ("grpo", ITERATED, "trainer.max_steps=3", "trainer.max_steps=6"),  # likewise; 2 questions a buffer
        ("grpo", (*BUFFERED, "trainer.scale_rewards=ema"), "trainer.max_steps=4", "trainer.max_steps=6"),
    ],
    ids=["steps", "two rates", "epochs", "stages", "buffer", "iterations", "moving spread"],
)
def test_a_lengthened_run_is_the_longer_run(method, shared, short, long, make_config, capsys):
    whole = train(make_config(method, *shared, long, name="whole"))
    run = train(make_config(method, *shared, short))
    train(make_config(method, *shared, long), resume=True)
    assert difference(run, whole) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "goes on at step" in line]
    assert len(told) == 1 and told[0].endswith(": as if it had been so long from the start"), told
    with pytest.raises(ConfigError, match=r"can be lengthened|trainer\.stages: 1, the run was started with 2"):
        launch_training(make_config(method, *shared, short), [], resume=True, overwrite=False)
    assert json.loads((run / "run.json").read_text())["status"] == "done"


PARTS = (
    RATE,
    *CONSTANT,
    "model.freeze_vision=true",
    "trainer.gradient_accumulation_steps=2",
    "trainer.adam_epsilon=1e-3",
)
MERGED, CUT = "trainer.tokens_per_pass=100000", "trainer.tokens_per_pass=1000"


@pytest.mark.parametrize(
    ("method", "shared", "passes"),
    [
        ("sft", (*PARTS, "trainer.per_device_train_batch_size=2"), ((), (MERGED,))),  # into the second epoch
        ("grpo", (*PARTS, SPREAD), ((MERGED,), (CUT,))),
    ],
)
def test_a_run_goes_on_in_other_passes(method, shared, passes, make_config, capsys):
    whole = train(make_config(method, *shared, "trainer.max_steps=4", name="whole"))
    train(make_config(method, *shared, *passes[0], "trainer.max_steps=2"))
    run = train(make_config(method, *shared, *passes[1], "trainer.max_steps=4"), resume=True)
    assert " in 1 pass of up to " in capsys.readouterr().err
    assert difference(whole, run) < 1e-5
    if method == "grpo":
        assert (whole / "completions.jsonl").read_text() == (run / "completions.jsonl").read_text()


def test_what_a_run_has_counted_goes_on(make_config):
    words = ("sft", *SFT, "trainer.max_bad_steps=3")
    whole = train(make_config(*words, "trainer.max_steps=3", name="whole"))
    run = train(make_config(*words, "trainer.max_steps=2"))
    for step in (0, 1, 2):  # of steps 0 and 1, and one that ended the run behind its last checkpoint
        (run / f"bad_batch-{step}-0.json").write_text("{}")
    train(make_config(*words, "trainer.max_steps=3"), resume=True)
    last = [
        [json.loads(line) for line in (folder / "log.jsonl").open() if '"loss"' in line][-1] for folder in (whole, run)
    ]
    assert last[0]["num_answer_tokens"] == last[1]["num_answer_tokens"] > 0
    assert "bad_steps" not in last[0] and last[1]["bad_steps"] == 2


def test_a_schedule_that_depends_on_the_length_says_what_changes(make_config, capsys):
    linear = (*SFT, "trainer.lr_scheduler_type=linear", "trainer.warmup_steps=0")
    run = train(make_config("sft", *linear, "trainer.max_steps=2"))
    train(make_config("sft", *linear, "trainer.max_steps=4"), resume=True)
    # Of 2 steps: 1e-3 and 5e-4. Of 4 steps, the 3rd and 4th: 5e-4 and 2.5e-4 (it would have ended at 0).
    assert rates(run) == pytest.approx({1: 1e-3, 2: 5e-4, 3: 5e-4, 4: 2.5e-4})
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "goes on at step" in line]
    assert told == (
        "stage 0 goes on at step 2 to 4 steps, it had 2: not as if it had been so long from the start; "
        "trainer.lr_scheduler_type=linear: the learning rates of step 2 were those of 2 steps; step 3 now has "
        "0.0005 instead of 0"
    )


@pytest.mark.parametrize("damage", ["bit", "empty", "missing", "all"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, make_config, capsys, finished):
    run = Path(make_config("sft", *SFT, "trainer.max_steps=3").run.dir)
    shutil.copytree(finished, run, dirs_exist_ok=True)
    shutil.rmtree(run / "final")
    for number in (1, 2, 3) if damage == "all" else (3,):
        file = run / f"checkpoint-{number}" / "optimizer.pt"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(b"" if damage == "empty" else content)
    config = make_config("sft", *SFT, "trainer.max_steps=3")
    if damage == "all":
        with pytest.raises(DataError, match=r"checkpoint-3 is damaged \(.*there is no other one"):
            launch_training(config, [], resume=True, overwrite=False)
        assert (run / "checkpoint-3" / "optimizer.pt").is_file()
        return
    train(config, resume=True)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert told.startswith("warning: checkpoint-3 is damaged (optimizer.pt: ")
    assert told.endswith("): going on from checkpoint-2")
    assert difference(run, finished) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset_folder, tiny_folder):
    """Three SFT steps."""
    from tiny_runs import SMALL

    from vsgrpo.config.compose import load_config

    run = tmp_path_factory.mktemp("finished") / "run"
    given = [f"data={dataset_folder}", f"output={run}", *SMALL, f"model.path={tiny_folder}", *SFT]
    given.append("trainer.gradient_accumulation_steps=1")
    return train(load_config("train", ["trainer=sft", *given, "trainer.max_steps=3"]))


def content(folder):
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if name.name != ".lock"}


def test_overwrite_keeps_the_earlier_run_until_there_is_a_checkpoint(
    make_config, finished, tiny_folder, capsys, tmp_path
):
    config = make_config("sft", *SFT, "trainer.max_steps=1")
    run = Path(config.run.dir)
    shutil.copytree(finished, run, dirs_exist_ok=True)
    (run / "notes.txt").write_text("mine")
    before = content(run)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    bad = make_config("sft", *SFT, "trainer.max_steps=1", f"model.path={broken}")
    with pytest.raises(Exception):  # noqa: B017  whatever the loader says
        assert launch_training(bad, [], resume=False, overwrite=True) == 0
    assert content(run) == before
    assert "--overwrite ended before its first checkpoint: the earlier run is back" in capsys.readouterr().err

    link = tmp_path / "link"
    link.symlink_to(run / "final")
    for path in (run / "final", run / "checkpoint-1", link):
        inside = make_config("sft", *SFT, "trainer.max_steps=1", f"model.path={path}")
        with pytest.raises(DataError, match=r"model\.path=.* lies in run\.dir="):
            launch_training(inside, [], resume=False, overwrite=True)
        assert content(run) == before

    train(config, overwrite=True)
    assert sorted(json.loads((run / "run.json").read_text())["checkpoints"]) == ["1"]
    assert not (run / "checkpoint-3").exists() and (run / "notes.txt").read_text() == "mine"
    assert not [path.name for path in run.iterdir() if path.name.startswith((".repl", ".drop"))]


def test_a_run_of_one_process_reads_its_rows_once(make_config, monkeypatch):
    read = []
    monkeypatch.setattr(
        preflight,
        "read_checked_rows",
        lambda file, **options: read.append(file) or read_checked_rows(file, **options),
    )
    config = make_config("sft", "trainer.max_steps=1")
    train(config)
    assert read == [Path(config.data.path) / "train.jsonl"]


@pytest.fixture(scope="module")
def named_rows(tmp_path_factory, dataset_folder):
    """The rows as rows of scene0001_01, and two files of benchmarks that name its room and another one."""
    folder = tmp_path_factory.mktemp("named")
    shutil.copytree(dataset_folder, folder / "data")
    rows = read_rows(dataset_folder / "train.jsonl")
    rows = [replace(row, dataset="scannet", scene_name="scene0001_01", room="scene0001") for row in rows]
    write_rows(folder / "data" / "train.jsonl", rows)
    for name, room in (("same", "scene0001_00"), ("other", "scene0002_00")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"video": f"scannet/{room}.mp4"}) + "\n")
    return folder


def test_a_run_does_not_go_on_with_a_room_that_is_kept_out(named_rows, make_config):
    def config(steps, name):
        kept = "" if name is None else named_rows / f"{name}.jsonl"
        given = (f"data={named_rows / 'data'}", f"trainer.max_steps={steps}", f"data.keep_out=[{kept}]")
        return make_config("sft", *SFT, *given)

    run = train(config(1, "other"))
    recorded = read_training_manifest(run / "final").keep_out
    assert recorded["rooms"] == 1 and recorded["files"][0]["file"] == str(named_rows / "other.jsonl")
    with pytest.raises(DataError, match=r"room scene0001 is in .*same\.jsonl \(data\.keep_out\) \(12 of 12 rows"):
        launch_training(config(2, "same"), [], resume=True, overwrite=False)
    assert not (run / "checkpoint-2").exists()
    train(config(2, None), resume=True)  # the key may change
    assert (run / "checkpoint-2").is_dir() and read_training_manifest(run / "final").keep_out == {}
    file = named_rows / "data" / "train.jsonl"
    rows = read_rows(file)
    write_rows(file, [replace(row, scene_name="scene0002_00", room="scene0002") for row in rows])
    train(config(3, None), resume=True, allow_changed=True)
    write_rows(file, rows)
    # what the first steps were trained on stays on record
    saw = read_training_manifest(run / "final").known_rooms()
    assert saw == {("scannet", "scene0001"), ("scannet", "scene0002")}


@pytest.mark.parametrize(
    "words",
    [
        ("train", "grpo", "model=tiny"),
        ("train", "grpo", "model=tiny", "--dry-run"),
        ("cache-videos", "model=tiny", "video.feature_cache=off", "video.frame_cache=disk", "video.cache_dir=CACHE"),
        ("build-cot", "cot.bridge=annotation", "reason.base_url=http://localhost:1/v1", "reason.model=m"),
    ],
)
def test_every_command_that_reads_training_rows_keeps_rooms_out(words, named_rows, tmp_path, capsys):
    given = [word.replace("CACHE", str(tmp_path / "cache")) for word in words]
    given += [f"data={named_rows / 'data'}", f"output={tmp_path / 'out'}"]
    assert run_command([*given, f"data.keep_out=[{named_rows / 'same.jsonl'}]"]) == 2
    error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error.startswith("error: ") and "room scene0001 is in" in error and hint.startswith("hint: ")
