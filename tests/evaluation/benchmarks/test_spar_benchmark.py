"""SPAR-Bench: rows of its form, prompts to the line break, scores of letters, numbers and camera motions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation_rows import leak_of
from vsgrpo.cli import run
from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.spar import (
    SparBench,
    motion_score,
    official_hit,
    official_number,
    relative_accuracy,
)
from vsgrpo.evaluation.leak import Leak

PNG = b"\x89PNG\r\n\x1a\n"


def spar_row(name: str = "0", task: str = "depth_prediction_oc", answer: str = "2.0", **more: Any) -> dict[str, Any]:
    row = {
        "id": name,
        "image": [{"bytes": PNG, "path": "a.png"}],
        "question": "How deep is it?",
        "answer": answer,
        "task": task,
        "format_type": "fill",
        "img_type": "single_view",
        "source": "scannet",
    }
    return row | more


def write(folder: Path, rows: list[dict[str, Any]], name: str = "test-00000-of-00001.parquet") -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("answer", "right"),
    [("A", True), ("a", True), ("A. left", True), ("apple", True), ("(A)", False), (" A", False), ("It is A", False)],
)
def test_letters_as_the_authors_compare_them(answer: str, right: bool) -> None:
    assert official_hit(answer, "A") is right


def test_an_empty_answer_is_wrong() -> None:
    assert not official_hit("", "A")


@pytest.mark.parametrize(
    ("answer", "task", "number"),
    [
        ("from 1.5 to 2", "depth_prediction_oc", 1.5),
        ("from 1.5 to 2", "depth_prediction_oc_mv", 2.0),
        ("-3", "distance_prediction_oo", 3.0),
        ("4 m^2", "distance_prediction_oo_mv", 4.0),
        ("x^23", "distance_prediction_oo", 3.0),  # only the digit right behind ^ is left out
        ("near", "depth_prediction_oo_mv", None),
    ],
)
def test_numbers_as_the_authors_read_them(answer: str, task: str, number: float | None) -> None:
    assert official_number(answer, task) == number


def test_relative_accuracy_of_zero_is_the_distance_to_it() -> None:
    assert relative_accuracy(2.5, 2.0) == pytest.approx(0.6)  # 25 % off: within .5 .45 .4 .35 .3 .25
    assert relative_accuracy(0.2, 0.0) == pytest.approx(0.6)  # the same; 1 - 0.8 is 0.19999999999999996
    assert relative_accuracy(1.0, 0.0) == 0.0
    assert relative_accuracy(float("inf"), 1.0) == relative_accuracy(float("nan"), 0.0) == 0.0


def test_motion_is_measured_against_the_answer_officially_and_against_the_truth_by_easi() -> None:
    truth = "move_right:1.0,rotate_up:10"
    assert motion_score(truth, truth) == 1.0
    # sideways: truth 1, said 2: |1 - 2| / 2 = 0.5, one of ten thresholds; up: said 0, |10 - 0| = 10: 0; others 1
    assert motion_score("move_right:2.0", truth) == pytest.approx((0.1 + 1 + 1 + 1 + 0) / 5)
    # VLMEvalKit: |2 - 1| / 1 = 1: 0; up: |0 - 10| / 10 = 1: 0
    assert motion_score("move_right:2.0", truth, is_lenient=True) == pytest.approx((0 + 1 + 1 + 1 + 0) / 5)


def test_motion_of_another_form_is_refused_officially_and_read_in_part_by_easi() -> None:
    truth = "move_left:0.5,rotate_right:20"
    assert motion_score("move_left:0.5, rotate_right:20", truth) == pytest.approx(4 / 5)  # " rotate_right" is no name
    assert motion_score("move_left:0.5, rotate_right:20", truth, is_lenient=True) == 1.0
    # "I would move_left" is no name either: sideways |-0.5 - 0| = 0.5, one of ten thresholds; turning 0; others 1
    assert motion_score("I would move_left:0.5", truth) == pytest.approx((0.1 + 1 + 1 + 0 + 1) / 5)
    assert motion_score("move left 0.5", truth) == motion_score("", truth) == 0.0
    assert motion_score("", truth, is_lenient=True) == pytest.approx(3 / 5)  # nothing said: right where nothing moves
    assert motion_score("move_right:-0.5,rotate_left:-20", truth) == 1.0  # the other direction, negative


def test_prompts_to_the_line_break(tmp_path: Path) -> None:
    rows = [
        spar_row(),
        spar_row("1", "obj_spatial_relation_oo", "A"),
        spar_row("2", "position_matching", "C"),
        spar_row("3", "view_change_infer", "move_right:0.3"),
    ]
    benchmark = SparBench.read(write(tmp_path, rows), ReadOptions(name="spar"))
    letter = "Answer with the option's letter from the given choices directly."
    boxes = (
        "The values represent the bounding box coordinates normalized to a 0-1000 scale, "
        "with the top-left corner as the origin of the image."
    )
    assert [benchmark.text(row) for row in benchmark.rows] == [
        "\nHow deep is it?\nPlease answer the question using a single word or phrase.",
        f"\nHow deep is it?\n\n{letter}",
        f"\nHow deep is it?\n{boxes}\n{letter}",
        "\nHow deep is it?\n\n",
    ]


def test_levels_are_means_of_tasks(tmp_path: Path) -> None:
    rows = [
        *(spar_row(str(n)) for n in range(3)),
        spar_row("3", "depth_prediction_oo"),
        spar_row("4", "position_matching", "A"),
        spar_row("5", "view_change_infer", "move_right:1.0"),
    ]
    benchmark = SparBench.read(write(tmp_path, rows), ReadOptions(name="spar"))
    answers = {"0": "2", "1": "2", "2": "2", "3": "9", "4": "A", "5": "nothing"}
    found = benchmark.accuracy(answers, "made").to_json()
    # tasks: depth oc 1, depth oo 0, position 1, view change 0: macro 1/2; micro 4/6; low and middle (1 + 0) / 2
    assert (found["overall"], found["micro"]) == (pytest.approx(1 / 2), pytest.approx(4 / 6))
    assert {name: cell["accuracy"] for name, cell in found["groups"]["level"].items()} == {"low": 0.5, "middle": 0.5}
    assert len(SparBench.question_types) == 20


@pytest.mark.parametrize(
    ("task", "answer", "message"),
    [
        ("depth_prediction_oc", "near", "ground truth 'near': must be a number"),
        ("position_matching", "AB", "answer='AB': must be an option letter"),
        ("view_change_infer", "right", "answer='right': must be move_right:0.3,move_up:0.1,..."),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(tmp_path: Path, task: str, answer: str, message: str) -> None:
    file = write(tmp_path, [spar_row(), spar_row("1", task, answer)])
    with pytest.raises(DataError) as error:
        SparBench.read(file, ReadOptions(name="spar"))
    assert message in str(error.value) and str(error.value).startswith(f"{file}:")


def test_pictures_show_rooms_of_scannets_val_split(tmp_path: Path) -> None:
    def leak(trained: dict[str, list[str]], *sources: str) -> Leak:
        rows = [spar_row(str(number), source=source) for number, source in enumerate(sources)]
        benchmark = SparBench.read(write(tmp_path, rows), ReadOptions(name="spar"))
        return leak_of(benchmark, [TrainingManifest(rooms=trained)])

    train, val = (
        {"scannet": [f"scene{number}"]} for number in ("0000", "0015")
    )  # first rooms of these splits not denied
    assert (leak(train, "scannet", "scannet").verdict, leak(val, "scannet").verdict) == ("clean", "unknown")
    assert leak(train, "scannet").notes() == [
        "leak check: 1 row names no room: as far as published, such rows show rooms of scannet val, of which none was "
        "trained on"
    ]
    assert leak(val, "structured3d").verdict == "clean"  # another data set; of its splits nothing is known
    assert leak({"scannetpp": ["00dd871005"]}, "scannet", "scannetpp").drawn_from == ("scannet val", "scannetpp")
    assert leak({"scannetpp": ["00dd871005"]}, "scannet", "scannetpp").verdict == "unknown"
    assert leak(train, "scannet", "matterport").verdict == "unknown"  # a data set that is not known here


def test_score_says_what_a_clean_verdict_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write(tmp_path, [spar_row()])
    (tmp_path / "answers.jsonl").write_text('{"id": "0", "prediction": "2.0"}\n')
    for name, room in (("train", "scene0000"), ("val", "scene0015")):
        (tmp_path / name).mkdir()
        for file in ("config.json", "processor_config.json", "tokenizer.json"):
            (tmp_path / name / file).write_text('{"model_type": "qwen2_vl"}')
        write_training_manifest(tmp_path / name, TrainingManifest(rooms={"scannet": [room]}))
    words = ["score", str(tmp_path / "answers.jsonl"), "benchmark=spar", f"benchmark.path={rows}"]
    assert run([*words, f"model.path={tmp_path / 'train'}"]) == 0
    assert "such rows show rooms of scannet val, of which none was trained on" in capsys.readouterr().out
    assert run([*words, f"model.path={tmp_path / 'val'}"]) == 0
    assert "scannet val; 1 room trained on may be among them, such as scene0015" in capsys.readouterr().out
