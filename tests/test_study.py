"""scripts/study.py: the rows of the blind-trained controls, and the table of balanced and unbalanced rows."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation_rows import official_rows
from vsgrpo.config.compose import load_config
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import study

    yield study
    for name in ("study", "study_arms", "demo_table"):
        sys.modules.pop(name, None)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "official.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in official_rows(3)))
    return [row for row in VsiBench.read(file).rows if row.options is None]


def write_set(folder, rows):
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", [replace(row, split="train") for row in rows])
    return folder


def test_wrong_videos_are_another_rooms_and_lie_in_the_folder(study, rows, tmp_path):
    source = write_set(tmp_path / "rl", rows)
    for row in rows:
        path = row.video_path(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row.scene_name)
    study.write_wrong_videos(source, tmp_path / "wrong")
    wrong = read_rows(tmp_path / "wrong" / "train.jsonl")
    shown = {row.scene_name: row.video_path(tmp_path / "wrong").read_text() for row in wrong}  # a link out would raise
    assert sorted(shown) == sorted(shown.values()) and all(own != other for own, other in shown.items())
    assert [row.question for row in wrong] == [row.question for row in rows]


def test_the_table_of_balanced_rows_by_hand(study, rows, tmp_path):
    made = study.Study(tmp_path)
    for name in ("rl", "test", "even", "test_even"):
        write_set(tmp_path / "data" / name, rows)
    # Sighted: every row right. Blind: half the number, |.5 t - t| / t = .5 passes one of ten thresholds: .1.
    for name, factor in (("grpo", 1), ("grpo_wrong", 0.5)):
        for kind in ("greedy", "even"):
            folder = made.evaluation(study.BY_NAME[name], 0, kind)
            folder.mkdir(parents=True)
            lines = [{"id": row.id, "prediction": f"{factor * float(row.ground_truth):g}"} for row in rows]
            (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            scores = dict.fromkeys((study.COUNT, study.ROOM), 1.0 if factor == 1 else 0.1)
            benchmark = {"file": str(tmp_path / "data" / "test" / "train.jsonl")}
            (folder / "results.json").write_text(json.dumps({"scores": scores, "benchmark": benchmark}))
    text = "\n".join(study.even_table(made, [0, 1]))
    assert "| grpo | 1 | 100.0 | 100.0 | 100.0 | 100.0 |" in text and "| grpo_wrong | 1 | 10.0 | 10.0" in text
    assert "| grpo_even |" not in text  # not run
    # All counts are 3 and all rooms 12.5: the best constants are right everywhere. Three rows are too few to audit.
    assert "| best constant |  | 100.0 | 100.0 | 100.0 | 100.0 |" in text
    assert "| text alone |  | - | - | - | - |" in text
    assert "seed 0: grpo - grpo_wrong on balanced rows: object_counting +90.0 (+90.0..+90.0)" in text
    assert study.even_table(made, [1]) == []


def test_constants_are_of_the_rows_that_were_scored(study, rows, tmp_path):
    """An evaluation leaves out rows that its frames do not make true: constants and text are measured on the others."""
    folder = tmp_path / "eval_greedy"
    assert study.answered(rows, folder) == rows  # not run yet
    folder.mkdir()
    lines = [{"id": row.id, "prediction": "3"} for row in rows[1:] for _ in range(2)]  # two samples of each
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert study.answered(rows, tmp_path / "absent", folder) == rows[1:]


@pytest.fixture
def algorithms(study):
    import study_algorithms

    yield study_algorithms
    sys.modules.pop("study_algorithms", None)


def test_the_arms_of_the_algorithm_study_compose_and_are_fixed(algorithms, tmp_path):
    assert len(algorithms.ARMS) <= 8
    made = algorithms.AlgorithmStudy(tmp_path, algorithms.FULL, 6.0)
    for arm in (algorithms.COLD, *made.by_name.values()):
        words = [f"experiment={arm.experiment}", *made.shared, *arm.settings, *made.settings_of(arm)]
        config = load_config("train", [f"trainer={arm.method}", *words, "data=d", "output=o"])
        assert config.trainer.max_steps == (150 if arm is algorithms.COLD else 250)
    made.write_plan([0, 1, 2])
    made.write_plan([0, 1, 2])
    with pytest.raises(SystemExit, match="another plan was fixed there"):
        made.write_plan([0, 1])
    made.count(6 * 3600 + 1)
    with pytest.raises(algorithms.OutOfBudget):
        made.call("--help")


def test_the_table_of_the_algorithm_study_by_hand(algorithms, tmp_path):
    made = algorithms.AlgorithmStudy(tmp_path, algorithms.FULL, 6.0)
    for seed, score in ((0, 0.5), (1, 0.7)):
        arm = made.by_name["mra"]
        made.folder(arm, seed).mkdir(parents=True)
        (made.folder(arm, seed) / "log.jsonl").write_text('{"loss": 0, "step": 200, "cpu_seconds": 90.4}\n')
        for kind in ("held", "pairs"):
            folder = made.evaluation(arm, seed, kind)
            folder.mkdir(parents=True)
            scores = {"object_counting": score, "room_size_estimation": 0.25}
            pairs = {"removal": {"pair_accuracy": 0.1, "stale_rate": 0.5}}
            (folder / "results.json").write_text(
                json.dumps({"scores": scores, "controls": {"blind": scores}, "pairs": pairs})
            )
    # mean of 50 and 70, deviation sqrt(2 x 10^2 / 1) = 14.1
    line = "| mra | 2 | 200 | 90 | 60.0 ± 14.1 | 25.0 ± 0.0 | 60.0 ± 14.1 | 25.0 ± 0.0 | 10.0 ± 0.0 | 50.0 ± 0.0 | - |"
    assert algorithms.table(made, [0, 1, 2])[2:] == [line]


def test_the_commonest_answers_of_the_algorithm_study_by_hand(algorithms, rows, tmp_path):
    made = algorithms.AlgorithmStudy(tmp_path, algorithms.FULL, 6.0)
    rows = [replace(rows[0], id=name, question_type="object_counting") for name in "abc"]
    rows.append(replace(rows[0], id="room", question_type="room_size_estimation"))
    write_rows(made.data / "test" / "train.jsonl", rows)
    folder = made.evaluation(made.by_name["gpd"], 1, "held")
    folder.mkdir(parents=True)
    said = zip(rows, ("3", "4", "3", "20.5"), strict=True)
    lines = [json.dumps({"id": row.id, "prediction": text}) + "\n" for row, text in said]
    (folder / "predictions.jsonl").write_text("".join(lines))
    (folder / "results.json").write_text('{"scores": {"object_counting": 0.5, "room_size_estimation": 0.25}}')
    # of three counts two are 3: 67 %
    assert algorithms.commonest(made, [0, 1])[2:] == ["| gpd | 50.0: 3 67 % | 25.0: 20.5 100 % |"]
