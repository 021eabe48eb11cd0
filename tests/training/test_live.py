"""The live display: what it says at every size, what it leaves behind, and Ctrl-C on a real terminal."""

import io
import json
import time

import pytest
from rich.console import Console, ConsoleDimensions
from terminal import CTRL_C, HIDDEN, SHOWN, Terminal
from tiny_runs import SMALL

from vsgrpo.terminal import clock_text
from vsgrpo.training.live import DisplayState, one_line, panel, spark, wrap
from vsgrpo.training.progress import SampleGroup, last_group

LONG = ("trainer.max_steps=3000", "trainer.save_steps=5000")
TWO = ("launch=ddp", "launch.num_processes=2", "launch.use_cpu=true")
LAUNCHES = pytest.mark.parametrize(
    "launch", [pytest.param((), id="one"), pytest.param(TWO, id="two", marks=pytest.mark.distributed)]
)


def state(**values):
    logs = {"loss": 0.25, "reward": 0.5, "kl": 0.001, "reward/object_counting": 0.25, "reward/room_size_estimation": 1}
    sample = SampleGroup("object_counting", "How many chairs?", "4", [("4", 3, 1.0), ("3\x1b[31m", 1, 0.0)])
    settings = {"step": 30, "max_steps": 120, "seconds": 60.0, "seconds_per_step": 2.0, "logs": logs, "sample": sample}
    settings |= {"shares": {"generate": 0.75, "update": 0.25}, "tokens_per_second": 1234.0, "saving": 8.0}
    return DisplayState("grpo", "runs/x", **settings | {"phase": "generate", "phase_seconds": 5.0, **values})


def draw(shown, width, height=30, ascii_only=False):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False, color_system=None)
    console.print(panel(shown, ConsoleDimensions(width, height), ascii_only))
    return console.file.getvalue().splitlines()


def test_the_display_tells_step_time_rewards_phases_and_sample():
    lines = draw(state(), 100)
    text = "\n".join(lines)
    # 30 of 120 steps at 2 s: 90 x 2 s = 3:00 left
    assert lines[0].split() == ["grpo", "runs/x", "step", "30/120", "1:00", "gone,", "3:00", "left"]
    assert "object counting       0.25" in text and "room size estimation  1.00" in text
    for part in (
        "reward 0.500",
        "KL 0.001",
        "1,234 tokens/s",
        "8.0x fewer tokens than plain rows",
        "generate 75%   update 25%",
    ):
        assert part in text, part
    assert "now generate, 0:05" in text and "4 x3 (1.00)" in text and "How many chairs?" in text
    assert "\x1b" not in text  # of the model's own making


@pytest.mark.parametrize("width", [20, 40, 63, 64, 100, 200])
@pytest.mark.parametrize("height", [4, 8, 12, 40])
def test_the_display_fits_the_terminal(width, height):
    types = {f"reward/type_{i}": 0.1 * i for i in range(8)}
    lines = draw(state(logs={"loss": 1.0, "reward": 0.5, **types}, note="stopping"), width, height)
    assert len(lines) <= height - 1 and max(map(len, lines)) <= width
    assert "30/120" in lines[0] or width == 20
    assert lines[-1].startswith("stopping")


def test_a_terminal_without_such_letters_gets_plain_ones():
    assert all(line.isascii() for line in draw(state(), 100, ascii_only=True))


def test_without_colours_what_is_done_and_each_phase_can_be_told():
    shown = state(shares={"update": 0.5, "decode": 0.25, "generate": 0.25})
    console = Console(file=io.StringIO(), width=41, height=30, force_terminal=False, color_system=None, no_color=True)
    console.print(panel(shown, ConsoleDimensions(41, 30), is_plain=True))
    lines = console.file.getvalue().splitlines()
    assert lines[1] == "━" * 10 + "╌" * 30  # 30 of 120 steps of 40 columns
    assert "d" * 10 + "g" * 10 + "u" * 20 in lines  # a quarter, a quarter, a half; in the order of a step
    assert "decode 25%   generate 25%   update 50%" in lines


def test_the_line_on_ctrl_c_is_whole_on_a_narrow_terminal():
    from vsgrpo.training.callbacks import STOPPING

    lines = draw(state(note=STOPPING.format("SIGINT")), 60)
    assert " ".join(line.strip() for line in lines[-3:]).endswith(STOPPING.format("SIGINT"))


def test_before_the_first_log_there_is_a_clock():
    lines = draw(DisplayState("sft", "runs/x", max_steps=10, phase="decode", phase_seconds=4.0), 80)
    assert lines[0].split() == ["sft", "runs/x", "step", "0/10", "0:00", "gone"] and lines[2] == "now decode, 0:04"


def test_small_pieces():
    assert clock_text(59.6) == "1:00" and clock_text(3725) == "1:02:05"
    assert spark([0, 0, 1, 1, 2, 2], 3) == "▁▅█"  # means 0, 1, 2; 7 x 1/2 = 3.5 rounds to 4
    assert spark([3.0, 3.0], 8) == "▁▁" and spark([float("nan")], 8) == ""
    assert [line.plain for line in wrap(["abc", "de", "f"], 8)] == ["abc   de", "f"]
    assert one_line("a\x1b[2J\n b\t") == "a\\x1b[2J b"


def test_the_last_group_is_read_while_its_file_is_written(tmp_path):
    path = tmp_path / "completions.jsonl"
    assert last_group(path) is None
    lines = [
        {"step": step, "id": name, "question_type": "t", "answer": "4", "completion": text, "reward": reward}
        for step, name, text, reward in (
            (1, "a", "4", 1.0),
            (2, "a", "9", 0.0),
            (2, "b", "4", 1.0),
            (2, "b", "5", None),
        )
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "id"')
    said = last_group(path)
    assert (said.question, said.answer, said.texts) == ("b", "4", [("4", 1, 1.0), ("5", 1, 0.0)])
    path.write_text("x" * 40_000 + "\n" + json.dumps(lines[0]) + "\n")  # longer than what is read
    assert last_group(path).texts == [("4", 1, 1.0)]


def train(dataset, model, run_dir, *overrides, **options):
    given = [f"data={dataset}", f"output={run_dir}", *SMALL, f"model.path={model}", "trainer.num_generations=4"]
    given += ["trainer.per_device_train_batch_size=8", "trainer.gradient_accumulation_steps=1", *LONG, *overrides]
    return Terminal(["-m", "vsgrpo.cli", "train", "grpo", *given], **options)


@pytest.mark.integration
def test_ctrl_c_on_a_terminal_finishes_the_step_and_saves(dataset_folder, tiny_folder, tmp_path):
    with train(dataset_folder, tiny_folder, tmp_path / "run", columns=60) as run:
        for text in ("/3000", "asked  ", "tokens/s", "How many"):
            run.wait_for(text)
        assert run.screen.count(HIDDEN) == 1
        run.press(CTRL_C)
        assert run.finish() == 130
    assert "SIGINT: finishing the step" in run.lines() and "--resume" in run.lines()
    assert run.screen.rindex(SHOWN) > run.screen.rindex(HIDDEN)
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["status"] == "stopped" and len(state["checkpoints"]) == 1


@pytest.mark.integration
@LAUNCHES
def test_ctrl_c_twice_stops_now(launch, dataset_folder, tiny_folder, tmp_path):
    with train(dataset_folder, tiny_folder, tmp_path / "run", "reward.names=[spread_reward:slow]", *launch) as run:
        run.wait_for("now reward")
        run.press(CTRL_C)
        run.wait_for("SIGINT: finishing the step")
        began = time.monotonic()
        run.press(CTRL_C)
        assert run.finish() == 130
    assert time.monotonic() - began < 90  # the reward takes ten minutes
    assert run.screen.rindex(SHOWN) > run.screen.rindex(HIDDEN) and "Traceback" not in run.lines()
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["status"] == "stopped" and "checkpoints" not in state


@pytest.mark.integration
@LAUNCHES
def test_a_run_that_fails_gives_the_terminal_back(launch, dataset_folder, tiny_folder, tmp_path):
    with train(dataset_folder, tiny_folder, tmp_path / "run", "reward.names=[spread_reward:broken]", *launch) as run:
        assert run.finish() == 1
    assert HIDDEN in run.screen and run.screen.rindex(SHOWN) > run.screen.rindex(HIDDEN)
    assert "Traceback" not in run.lines()
    said = run.lines().splitlines()
    (error,) = (line for line in said if line.startswith("error: "))
    assert error.startswith("error: reward.names=spread_reward:broken: KeyError: 'score' (")
    assert len([line for line in said if "the vision tower is trained, its features change" in line]) == 1
