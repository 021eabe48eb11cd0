"""`vsgrpo score` with benchmark=NAME: two files compared, lines joined by their question, parts of VSI-Bench."""

import json

import pytest

from evaluation_rows import official_rows
from vsgrpo.cli import run


def _write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def rows(tmp_path):
    """Write four choices of two scenes in ReVSI's form; all are A."""
    lines = [
        {
            "id": f"q{number}",
            "num_frames": 32,
            "scene_id": f"s{number // 2}",
            "question": f"Which is the {number % 2}. closest?",
            "question_type": kind,
            "options": ["A. sofa", "B. lamp"],
            "ground_truth": "A",
        }
        for number, kind in enumerate(["object_rel_distance_closest"] * 3 + ["route_planning"])
    ]
    return lines, _write(tmp_path / "rows.jsonl", lines)


def test_two_files_are_compared_over_what_both_answered(tmp_path, rows, capsys):
    words = ["benchmark=revsi", f"benchmark.path={rows[1]}"]
    one = _write(tmp_path / "one.jsonl", [{"id": f"q{k}", "prediction": text} for k, text in enumerate("AABA")])
    two = _write(tmp_path / "two.jsonl", [{"id": f"q{k}", "prediction": text} for k, text in enumerate("BAB")])
    assert run(["score", one, two, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # q0 to q2, all of one task: 2 of 3 right and 1 of 3
    assert found["n"] == 3 and found["left_out"] == 1 and found["headline"] == "macro"
    assert (found["first"]["overall"], found["second"]["overall"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["difference"]["overall"] == pytest.approx(1 / 3) == found["difference"]["micro"]
    assert found["intervals"]["overall"] == [0.0, 0.5]  # scene s0 alone differs in 1 of 2, s1 in 0 of 1
    assert run(["score", one, two, *words]) == 0
    printed = capsys.readouterr().out
    assert "one.jsonl minus two.jsonl: 3 questions" in printed and "only one of them answered" in printed


def test_lines_without_an_id_of_the_benchmark_are_joined_by_question_and_scene(tmp_path, rows, capsys):
    lines = [
        {"question": row["question"], "scene_name": row["scene_id"], "dataset": "x", "prediction": "A"}
        for row in rows[0][:3]
    ]
    words = ["benchmark=revsi", f"benchmark.path={rows[1]}"]
    assert run(["score", _write(tmp_path / "p.jsonl", lines), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correct"].keys() == {"q0", "q1", "q2"}
    del lines[0]["scene_name"]  # both scenes ask it
    assert run(["score", _write(tmp_path / "p.jsonl", lines), *words]) == 2
    assert "p.jsonl:1: id=None: not in" in capsys.readouterr().err


def test_a_part_of_vsibench_is_scored_from_answers_to_all_of_it(tmp_path, capsys):
    rows = official_rows(2)
    file = _write(tmp_path / "test.jsonl", [{**row, "pruned": row["id"] < 10} for row in rows])
    said = _write(tmp_path / "p.jsonl", [{"id": row["id"], "prediction": row["ground_truth"]} for row in rows])
    words = ["score", said, f"benchmark.path={file}", "--json"]
    assert run([*words, "benchmark.subset=debiased"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["num_rows"]) == (3, 3) and any("not the published part" in n for n in found["notes"])
    assert run([*words, "benchmark.subset=half"]) == 2
    assert "choose from: full, debiased, pruned" in capsys.readouterr().err


def test_files_that_were_asked_in_other_ways_are_not_compared(tmp_path, rows, capsys):
    files = []
    for mode in ("vanilla", "think"):
        (tmp_path / mode).mkdir()
        files.append(_write(tmp_path / mode / "p.jsonl", [{"id": "q0", "prediction": "A"}]))
        settings = {"prompt": {"mode": mode, "wording": "eval", "show_options": True}}
        (tmp_path / mode / "settings.json").write_text(json.dumps(settings))
    words = ["score", *files, "benchmark=revsi", f"benchmark.path={rows[1]}"]
    assert run(words) == 2 and "asked in other ways" in capsys.readouterr().err
    assert run([*words, "prompt.mode=vanilla"]) == 0 and "0.0" in capsys.readouterr().out
