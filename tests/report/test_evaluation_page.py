import json
from types import SimpleNamespace

import pytest

from evaluation_rows import official_rows
from vsgrpo.evaluation.benchmark import Answers, PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.score_tables import VsiBenchReport
from vsgrpo.evaluation.scores import score_rows
from vsgrpo.report.evaluation_page import confusion_table, model_size, published_lines

SETTINGS = {
    "model": {"path": "runs/x/final", "adapter": None, "size": "2b"},
    "vision": {"num_frames": 8, "min_pixels": 3136, "max_pixels": 100352},
    "video": "own",
    "prompt": {"mode": "vanilla", "wording": "eval", "show_options": True},
    "decoding": {"temperature": 0.0, "num_samples": 1},
    "benchmark": {},
}


def test_confusion_counts_true_against_said():
    columns, rows = confusion_table([("left", "left"), ("left", "right"), ("left", ""), ("right", "right")])
    assert columns == ["left", "right", ""]
    third = pytest.approx(1 / 3)
    assert rows == [("left", [(1, third), (1, third), (1, third)]), ("right", [(0, 0), (1, 1), (0, 0)])]


def test_published_rows_are_the_papers():
    rows = dict(published_lines("2b", "vanilla"))
    assert rows["vsGRPO-2B"]["overall"] == pytest.approx(0.354)
    assert rows["vsGRPO-2B"]["obj_appearance_order"] == pytest.approx(0.189)
    # Each average is the mean of its eight tasks, to rounding, but for the 2B model's think row: 20.7, printed as 22.9.
    for size, mode in ((size, mode) for size in ("2b", "7b") for mode in ("vanilla", "think", "observe")):
        for name, row in published_lines(size, mode):
            tasks = [value for task, value in row.items() if task != "overall"]
            printed = 0.207 if (size, mode, name) == ("2b", "think", "Qwen2-VL-2B") else row["overall"]
            assert sum(tasks) / 8 == pytest.approx(printed, abs=0.0011), name
    assert published_lines(None, "vanilla") == []
    assert [model_size("qwen2_vl", width) for width in (1536, 3584, 64)] == ["2b", "7b", None]
    assert model_size("qwen2_5_vl", 3584) is None  # as wide as the paper's 7B, and another model


def test_the_report_shows_misses_without_a_video_and_escapes_what_a_model_says(tmp_path):
    direction = {
        "id": 90,
        "dataset": "scannet",
        "scene_name": "scene0000_00",
        "question_type": "object_rel_direction_easy",
        "question": "Left or right?",
        "ground_truth": "A",
        "options": ["A. left", "B. right"],
    }
    rows = tmp_path / "test.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*official_rows(2), direction]))
    benchmark = VsiBench.read(rows)
    answers = {row.id: [row.ground_truth] for row in benchmark.rows}
    answers |= {"0": ["<script>alert(1)</script>"], "10": ["30"], "90": ["B"], "1": [None]}
    scores = score_rows(benchmark.rows, answers, PromptSettings())
    leak = Leak("clean", (), 0, 2)
    report = VsiBenchReport(benchmark, scores, leak, SETTINGS, {"1": "a.mp4: no frames"}, "official")
    config = SimpleNamespace(run=SimpleNamespace(dir=tmp_path))
    given = Answers(config, SETTINGS, leak, {"": answers}, {}, 0, benchmark.media)
    benchmark.write_beside_results(report, given)
    html = (tmp_path / "report.html").read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert html.count("<section") == 3 and html.count("not shown: ") == 3
    assert "vsGRPO-2B (paper)" in html and "a.mp4: no frames" in html and "A. left" in html
    assert json.loads(json.dumps(report.to_json()))["groups"]["trained_tasks"] == report.table_of_scorer["overall"]


def test_numbers_of_three_hundred_digits_are_misses_that_no_chart_can_draw(tmp_path):
    rows = official_rows(4)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = VsiBench.read(tmp_path / "test.jsonl")
    config = SimpleNamespace(run=SimpleNamespace(dir=tmp_path), scorer="official")
    numbers = [row for row in benchmark.rows if row.answer_kind == "number"]
    answers = {row.id: [row.ground_truth] for row in benchmark.rows}
    said = ["9" * 308, "1e308", "5e-324", "1e-300", "1" + "0" * 400, "nan"]  # the first four are finite floats
    answers |= {row.id: [text] for row, text in zip(numbers, said, strict=False)}
    given = Answers(config, SETTINGS, Leak("clean", (), 0, 1), {"": answers}, {}, 0, benchmark.media)
    benchmark.write_beside_results(benchmark.report(given), given)
    html = (tmp_path / "report.html").read_text()
    assert html.count("wrong by a factor above 1,000") == 2  # of counts and of room sizes
    assert "the median answer is 1.00 × the truth" in html  # of those that are drawn


def test_an_answer_to_a_count_of_zero_is_a_miss_like_others(tmp_path):
    zero = official_rows(1)[0] | {"question_type": "object_counting", "ground_truth": "0", "options": None}
    (tmp_path / "test.jsonl").write_text(json.dumps(zero))
    benchmark = VsiBench.read(tmp_path / "test.jsonl")
    config = SimpleNamespace(run=SimpleNamespace(dir=tmp_path), scorer="official")
    given = Answers(config, SETTINGS, Leak("clean", (), 0, 1), {"": {"0": ["2"]}}, {}, 0, benchmark.media)
    benchmark.write_beside_results(benchmark.report(given), given)
    assert "<section" in (tmp_path / "report.html").read_text()
