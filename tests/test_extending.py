"""What docs/extending.md adds from outside the package works from end to end: the page is read, so it stays true."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.rows import read_rows
from vsgrpo.evaluation.intervals import scene_intervals
from vsgrpo.evaluation.score_tables import score_table
from vsgrpo.report.evaluation_page import published_lines
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question import QuestionType
from vsgrpo.spatial.question_types import register
from vsgrpo.spatial.scoring import aggregate, score
from vsgrpo.video.reader import probe

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def section(title):
    """Return the block of a section's Python module, and the words of each of its `vsgrpo` commands."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n.*?```", text, re.S)
    (shell,) = re.findall(r"```bash\n(.*?)```", text, re.S)
    return code, [shlex.split(line)[1:] for line in shell.splitlines() if line.startswith("vsgrpo ")]


FLATS = {
    "hall_00": [["chair", [100, 100, 40], [50, 50, 80]], ["chair", [300, 100, 40], [50, 50, 80]]],
    "hall_01": [["chair", [100, 100, 40], [50, 50, 80]], ["table", [300, 100, 40], [160, 90, 75]]],
    "attic_00": [["lamp", [100, 100, 80], [30, 30, 160]], ["sofa", [250, 100, 40], [200, 90, 80]]],
}
"""Boxes of the scans of two rooms, in centimetres; every floor is 4 m x 3 m."""


@pytest.fixture
def flats(tmp_path, monkeypatch, own_modules):
    """Write scans for the section's source into the current folder; return the section's commands."""
    code, commands = section("A scan source")
    own_modules(code)
    monkeypatch.chdir(tmp_path)
    for name, boxes in FLATS.items():
        folder = tmp_path / "flats" / name
        folder.mkdir(parents=True)
        (folder / "boxes.json").write_text(json.dumps({"floor": [400, 300], "boxes": boxes}))
        for number in range(4):
            Image.fromarray(np.full((56, 84, 3), 60 * number, dtype=np.uint8)).save(folder / f"{number}.jpg")
    return commands


@pytest.mark.integration
def test_a_scan_source_from_folders_to_a_run(flats, tmp_path, capsys):
    build, check, train = flats
    out = tmp_path / "data/flats"
    build += ["data.mode=vsibench", "build.num_workers=2", "data.dev_fraction=0"]
    assert run(build) == 0
    rows = read_rows(out / "train.jsonl")
    assert {(row.dataset, row.scene_name, row.room) for row in rows} == {
        ("flats", name, name.rpartition("_")[0]) for name in FLATS
    }
    answers = {(row.scene_name, row.question_type): row.answer for row in rows}
    assert float(answers["hall_00", "room_size_estimation"]) == 12  # 4 m x 3 m
    assert answers["hall_00", "object_counting"] == "2"
    tables = {row.answer for row in rows if row.question_type == "object_size_estimation" and "table" in row.question}
    assert tables == {"160"}
    header = probe(out / "videos/flats/hall_00.mp4", backend="pyav")
    assert (header.num_frames, header.width, header.height) == (4, 84, 56)
    manifest = read_manifest(out)
    assert manifest.dataset == "flats" and manifest.config["source"] == {
        "name": "my_scans:FLATS",
        "root": "flats",
        "metres": 0.01,
    }
    notes = read_scene_json(out / "scenes/flats/hall_00.json").extra["notes"]
    assert notes == ["the camera of the recording is not known: what the video shows was not counted"]
    assert run(check) == 0 and run(train) == 0

    capsys.readouterr()
    assert run(build) == 0 and "(3 from an earlier run)" in capsys.readouterr().out
    assert run([*build, "source.metres=0.02"]) == 2 and "other settings" in capsys.readouterr().err


@pytest.mark.integration
def test_scans_of_a_source_are_skipped_guarded_and_sharded_like_ours(flats, tmp_path, capsys):
    build = [*flats[0], "video.source=none", "data.dev_fraction=0", "build.num_workers=1"]
    (tmp_path / "scene0025_00").mkdir()  # a room of VSI-Bench
    (tmp_path / "flats/hall_01").rename(tmp_path / "scene0025_00/x")
    (tmp_path / "flats/hall_01").symlink_to(tmp_path / "scene0025_00/x")
    for shard in (0, 1):
        assert run([*build, "build.num_shards=2", f"build.shard={shard}"]) == 0
    assert run(["merge-data", "data/flats"]) == 0
    manifest = read_manifest(tmp_path / "data/flats")
    assert sorted(manifest.scans) == ["attic_00", "hall_00"]
    assert manifest.counts["refused"] == {"its room is in VSI-Bench: scene0025": 1}

    capsys.readouterr()
    assert run([*build, "video.source=mesh", "output=walks"]) == 2  # no scan has a mesh
    assert "its source has no mesh" in capsys.readouterr().err
    (tmp_path / "my/source").mkdir(parents=True)
    text = "name: my_scans:FLATS\nroot: flats\nmetres: 0.01\n"
    (tmp_path / "my/source/flats.yaml").write_text(text)
    assert run(["build-data", "--config-dir", "my", "source=flats", "output=x", "--dry-run"]) == 0
    assert "metres: 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ("source=my_scans:FLAT", "'my_scans' has no ScanSource 'FLAT'", "did you mean 'my_scans:FLATS'?"),
        ("source=my_scans:FlatScan", "has no ScanSource 'FlatScan'", "NAME = ScanSource(...) is needed"),
        ("source=no_scans:FLATS", "importing 'no_scans' failed", "set PYTHONPATH"),
        ("source=:FLATS", "a full module name is needed", "write package.module:ScanSource"),
        ("source=flats", "source=flats: no such source", "choose from: arkitscenes, demo, scannet"),
        ("source.name=flats", "source.name=flats: not one of the choices", "choose from: scannet"),
        ("source.metre=2", "source.metre: unknown key", "did you mean source.metres?"),
        ("source.metres=-1", "source.metres=-1: must be above 0", "set source.metres"),
        ("source.metres=far", "source.metres=far: a number is needed", "source.metres"),
        ("source.root=no/such", "source.root=no/such: no folder with boxes.json", "give the folder"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_line(flats, given, message, hint, capsys):
    assert run(["build-data", "source=my_scans:FLATS", "source.root=flats", "output=x", given]) == 2
    error = capsys.readouterr().err
    assert message in error and hint in error and len(error.splitlines()) == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('ScanSource("flats"', 'ScanSource("My flats"', "ScanSource('My flats'): the name of a folder is needed"),
        ('ScanSource("flats", FlatOptions, ', 'ScanSource("flats", ', "importing 'my_scans' failed"),
        ('dataset="flats"', 'dataset="flat"', "scan attic_00 was read as flat/attic_00"),
        ("import above", "import abov", "importing 'my_scans' failed"),
    ],
)
def test_a_wrong_record_is_one_line(flats, tmp_path, before, after, message, capsys):
    code = (tmp_path / "my_scans.py").read_text()
    assert before in code
    (tmp_path / "my_scans.py").write_text(code.replace(before, after))
    assert run([*flats[0], "build.num_workers=1"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 2


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
    tall = [row for row in rows if row.question_type == "how_tall"]
    assert {row.question_type for row in rows} == {"object_counting", "how_tall"}
    per_scene = [sum(row.scene_name == name for row in tall) for name in {row.scene_name for row in rows}]
    assert max(per_scene) <= 5 and len(tall) >= 4
    for row in tall:
        scene = read_scene_json(tmp_path / "data/heights/scenes/demo" / f"{row.scene_name}.json")
        (asked,) = (item for item in scene.objects if item.instance_id == row.objects[0]["instance_id"])
        assert row.question == f"How tall is the {asked.category}, in centimeters?"
        assert (row.answer_kind, row.unit, row.options, row.rejected != row.answer) == ("number", "cm", None, True)
        assert abs(int(row.answer) - 100 * (asked.box.max[2] - asked.box.min[2])) <= 1
    assert "how_tall" in (tmp_path / "data/heights/report.html").read_text()
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
        "how_tall": pytest.approx(half),
        "overall": pytest.approx((1 + half) / 2),
    }
    assert scores["lenient"]["how_tall"] == 1.0
    assert run(rate) == 0
    assert re.search(r"Avg +Count +Height", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("my_types:HEIGTH", "data.types=my_types:HEIGTH: 'my_types' has no QuestionType 'HEIGTH'", "'my_types:HEIGHT'"),
        ("my_types:make_heights", "has no QuestionType 'make_heights'", "NAME = QuestionType(...) is needed"),
        ("no_types:HEIGHT", "importing 'no_types' failed", "set PYTHONPATH"),
        (":HEIGHT", "a full module name is needed", "write package.module:QuestionType"),
        ("how_tall", "data.types=how_tall: not one of the choices", "`vsgrpo configs WORD` searches them"),
    ],
)
def test_a_type_that_is_not_there_is_refused_by_name(heights, name, message, hint, capsys):
    assert run(["build-data", "source=demo", f"data.types=[{name}]", "output=x"]) == 2
    error = capsys.readouterr().err
    assert message in error and hint in error


def test_two_types_of_one_name_are_refused(heights, tmp_path, capsys):
    code = (tmp_path / "my_types.py").read_text()
    (tmp_path / "my_types.py").write_text(code.replace('"how_tall"', '"object_counting"'))
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
