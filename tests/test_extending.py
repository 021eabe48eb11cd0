"""What docs/extending.md adds from outside the package works from end to end: the page is read, so it stays true."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from vsgrpo.cli import run
from vsgrpo.data.rows import read_rows
from vsgrpo.evaluation.intervals import scene_intervals
from vsgrpo.evaluation.published import published_lines
from vsgrpo.evaluation.score_table import score_table
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question import QuestionType
from vsgrpo.spatial.question_types import register
from vsgrpo.spatial.scorers import score
from vsgrpo.spatial.scoring import aggregate

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def section(title):
    """Return the block of a section's Python module, and the words of each of its `vsgrpo` commands."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n.*?```", text, re.S)
    (shell,) = re.findall(r"```bash\n(.*?)```", text, re.S)
    return code, [shlex.split(line)[1:] for line in shell.splitlines() if line.startswith("vsgrpo ")]


@pytest.fixture
def heights(tmp_path, monkeypatch, own_modules):
    """Return the commands of the section on question types, its module in the current folder."""
    code, commands = section("A question type")
    own_modules(code)
    monkeypatch.chdir(tmp_path)
    return commands


@pytest.mark.integration
def test_a_question_type_from_scan_to_score(heights, tmp_path, capsys):
    build, check, rate = heights
    assert run([*build, "source.num_scenes=4", "data.dev_fraction=0", "build.num_workers=2"]) == 0
    rows = read_rows(tmp_path / "data/heights/train.jsonl")
    tall = [row for row in rows if row.question_type == "object_height"]
    assert {row.question_type for row in rows} == {"object_counting", "object_height"}
    per_scene = [sum(row.scene_name == name for row in tall) for name in {row.scene_name for row in rows}]
    assert max(per_scene) <= 5 and len(tall) >= 4
    for row in tall:
        scene = read_scene_json(tmp_path / "data/heights/scenes/demo" / f"{row.scene_name}.json")
        (asked,) = (item for item in scene.objects if item.instance_id == row.objects[0]["instance_id"])
        assert row.question == f"How tall is the {asked.category}, in centimeters?"
        assert (row.answer_kind, row.unit, row.options, row.rejected != row.answer) == ("number", "cm", None, True)
        assert abs(int(row.answer) - 100 * (asked.box.max[2] - asked.box.min[2])) <= 1
    assert "object_height" in (tmp_path / "data/heights/report.html").read_text()
    assert run(check) == 0

    # Half of the heights are right; the others are said in metres, which the lenient scorer alone converts.
    said = {row.id: row.answer for row in rows} | {row.id: f"{int(row.answer) / 100} m" for row in tall[::2]}
    lines = [json.dumps({"id": name, "prediction": text}) + "\n" for name, text in said.items()]
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    capsys.readouterr()
    assert run([*rate, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    half = 1 - len(tall[::2]) / len(tall)
    assert scores["official"] == {
        "object_counting": 1.0,
        "object_height": pytest.approx(half),
        "overall": pytest.approx((1 + half) / 2),
    }
    assert scores["lenient"]["object_height"] == 1.0
    assert run(rate) == 0
    assert re.search(r"Avg +Count +Height", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("my_types:HEIGTH", "data.types=my_types:HEIGTH: 'my_types' has no QuestionType 'HEIGTH'", "'my_types:HEIGHT'"),
        ("my_types:make_heights", "has no QuestionType 'make_heights'", "NAME = QuestionType(...) is needed"),
        ("no_types:HEIGHT", "importing 'no_types' failed", "set PYTHONPATH"),
        (":HEIGHT", "a full module name is needed", "write package.module:QuestionType"),
        ("object_height", "data.types=object_height: not one of the choices", "choose from: object_rel"),
    ],
)
def test_a_type_that_is_not_there_is_refused_by_name(heights, name, message, hint, capsys):
    assert run(["build-data", "source=demo", f"data.types=[{name}]", "output=x"]) == 2
    error = capsys.readouterr().err
    assert message in error and hint in error


def test_two_types_of_one_name_are_refused(heights, tmp_path, capsys):
    code = (tmp_path / "my_types.py").read_text()
    (tmp_path / "my_types.py").write_text(code.replace('"object_height"', '"object_counting"'))
    assert run(["build-data", "source=demo", "data.types=[my_types:HEIGHT]", "output=x"]) == 2
    assert "question type object_counting: the name is taken" in capsys.readouterr().err


def test_a_choice_of_fixed_words_is_a_column_of_its_own(own_modules):
    register(QuestionType("lamp_state", "choice", len, words=("on", "off"), column="Lamp"))
    assert score("lenient", "lamp_state", "It is off", "B", ("on", "off")) == 1.0
    table = aggregate({"lamp_state": [1.0, 0.0], "object_counting": [1.0]})
    assert table == {"object_counting": 1.0, "lamp_state": 0.5, "overall": 0.75}
    intervals = scene_intervals({"x": np.array([0.0, 1.0])}, ["lamp_state"] * 2, ["a", "b"])["x"]
    assert intervals["lamp_state"] == intervals["overall"] == intervals["trained_tasks"] == (0.0, 1.0)
    assert re.search(r"Avg +Count +Lamp", score_table([("x", table)]))
    assert dict(published_lines("2b", "vanilla"))["vsGRPO-2B"]["obj_appearance_order"] == pytest.approx(0.189)
