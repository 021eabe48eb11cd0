"""Hints that a user follows lead on: each command that was typed wrongly, what is said, and that the advice works.

Files that a decoder does not read (AV1 under decord) are in video/test_container.py.
"""

import re

import pytest

from vsgrpo.cli import run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a dataset of the demo, and what a run and its evaluation leave."""
    folder = tmp_path_factory.mktemp("hints")
    data = ["experiment=demo_data", "source.num_scenes=4", f"output={folder / 'data' / 'cold'}"]
    assert run(["-q", "build-data", *data]) == 0
    for name in ("run.json", "log.jsonl", "eval/predictions.jsonl"):
        file = folder / "runs" / "sft" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
    (folder / "README").write_text("a file\n")
    return folder


RUN = ["data=data/cold", "model=tiny", "output=o"]
RUN_EVAL = ["model=tiny", "benchmark.path=data/cold", "output=o"]
SHOWN = "data/cold/videos/demo/demo000000_00.mp4"
CASES = [
    (["train", "grpo", "foo"], "foo: overrides are key=value", "`vsgrpo configs WORD` searches them"),
    (["train", "grpo", "vsgrpo_2b_v"], "key=value", "did you mean experiment=vsgrpo_2b_v?"),
    (["train", "grpo", "data/cold"], "key=value", "did you mean data=data/cold?"),
    (["eval", "data/cold"], "key=value", "did you mean benchmark.path=data/cold?"),
    (["train", "grpo", "learning_rate"], "key=value", "did you mean trainer.learning_rate=VALUE?"),
    (
        ["train", "grpo", *RUN, "trainer.learning_rate=1e-5,1e-4"],
        "a run takes one value",
        "set trainer.learning_rate=1e-5; add --sweep to train with each",
    ),
    (["train", "grpo", *RUN, "data.types=a,b"], "a comma needs a list", "write data.types=[a,b]"),
    (["train", "grpo", *RUN, "prompt.system=a,b"], "needs quotes", "write 'prompt.system=\"a,b\"'"),
    (["train", "grpo", *RUN, "video.num_frames=0"], "at least 2", "set video.num_frames=2 or more"),
    (["train", "grpo", *RUN, "video.num_frames=1"], "at least 2", "set video.num_frames=2 or more"),
    (
        ["eval", "model=tiny", "benchmark.path=data/cold", "output=o", "video.num_frames=0"],
        "at least 2",
        "set video.num_frames=2 or more",
    ),
    (["train", "grpo", *RUN, "--lr", "1e-5"], "--lr: not an option", "did you mean trainer.learning_rate=1e-5?"),
    (["train", "grpo", *RUN, "--learning-rate=1e-5"], "not an option", "did you mean trainer.learning_rate=1e-5?"),
    (["train", "grpo", *RUN, "--epochs"], "not an option", "did you mean trainer.num_train_epochs=VALUE?"),
    (["train", "grpo", *RUN, "reward.names=accuracy"], "a list is needed", "write reward.names=[accuracy]"),
    (
        ["train", "grpo", *RUN, "experiment=ablation_length_reward", "reward.names=accuracy"],
        "a list is needed",
        "write reward.names=[accuracy]",
    ),
    (["inspect", "runs"], "runs: no dataset, evaluation or run", "there: runs/sft, runs/sft/eval"),
    (["score", "runs/sft/eval"], "a folder, a file is needed", "runs/sft/eval/predictions.jsonl"),
    (["score", "runs/sft"], "a folder, a file is needed", "give a file in it: runs/sft/eval/predictions.jsonl"),
    (["train", "sft", "data=data/cold", "output=o", "model.path=runs/sft"], "neither config.json", "RUN_DIR/final"),
    (["eval", "model=tiny", "output=o", "benchmark.path=runs/sft"], "a training run, no questions", "runs/sft/final"),
    (
        ["eval", "model=tiny", "output=o", "benchmark=folder", "benchmark.path=data/cold"],
        "has no test.jsonl (there: dev.jsonl, train.jsonl)",
        "set benchmark.split=dev",
    ),
    (["ask", "model=mg", f"video={SHOWN}", "How many?"], "model.path=mg: no such folder", "model=tiny"),
    (["build-data", "experiment=demo_data", "output=README"], "README: cannot be written", "another output=DIR"),
    (["build-data", "experiment=demo_data", "output=README/x"], "README/x: cannot be written", "another output=DIR"),
]


TAKEN = [
    (["eval", *RUN_EVAL, "prompt=think", "--dry-run"], "mode: think"),
    (
        ["train", "grpo", "data=data/cold/train.jsonl", "model=tiny", "output=o", "--dry-run"],
        "path: data/cold/train.jsonl",
    ),
    (["configs", "learning", "rate"], "trainer.learning_rate"),
]
"""What was once refused with a hint that led nowhere, and is what it looks like now."""


@pytest.mark.parametrize(("argv", "part"), TAKEN, ids=[" ".join(case[0])[:60] for case in TAKEN])
def test_what_is_meant_is_taken(place, argv, part, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert run(argv) == 0
    assert part in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "message", "hint"), CASES, ids=[" ".join(case[0])[:60] for case in CASES])
def test_what_is_said_names_the_way_out(place, argv, message, hint, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert run(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2, lines
    assert message in lines[0] and hint in lines[1], lines


def test_the_value_behind_an_unknown_option_is_taken_as_its_own(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert run(["train", "grpo", *RUN, "--lr", "1e-5"]) == 2
    advice = re.search(r"did you mean (\S+)\?", capsys.readouterr().err)
    assert advice is not None
    assert run(["train", "grpo", *RUN, advice[1], "--dry-run"]) == 0
    assert re.search(r"learning_rate: (1.0e-05|1e-05)", capsys.readouterr().out)


def test_a_corrected_command_replaces_a_start_that_failed(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    start = ["-q", "train", "sft", "experiment=demo_sft", "output=again", "trainer.max_steps=1"]
    (place / "moved").mkdir()
    (place / "moved" / "train.jsonl").write_text((place / "data" / "cold" / "train.jsonl").read_text())
    assert run([*start, "data=moved"]) != 0  # its videos are missing
    assert (place / "again" / "config.yaml").is_file()
    capsys.readouterr()
    assert run([*start, "data=data/cold"]) == 0, capsys.readouterr().err
