"""verify-geometry on a hand-made scene, and on the development half of the benchmark."""

import json
from pathlib import Path

import pytest

from vsgrpo.cli import run
from vsgrpo.data.verify import parse_arguments, verify_geometry
from vsgrpo.errors import ConfigError, DataError

DEV = Path(__file__).resolve().parents[3] / "shared/data/vsibench_dev"


def box(x: float, lengths=(0.4, 0.4, 0.4)) -> dict:
    centre, half = [x, 0.0, 0.5], [length / 2 for length in lengths]
    return {
        "centroid": centre,
        "axesLengths": list(lengths),
        "normalizedAxes": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "min": [c - h for c, h in zip(centre, half, strict=True)],
        "max": [c + h for c, h in zip(centre, half, strict=True)],
    }


@pytest.fixture
def meta(tmp_path) -> Path:
    # Along x, edges 0.4 m: bed at 0, sofa at 2 (closest points 1.6 apart), two chairs at 3.5 and 5.
    scene = {
        "dataset": "scannet",
        "room_size": 12.34,
        "room_center": [0, 0, 0],
        "object_counts": {"bed": 1, "sofa": 1, "chair": 2},
        "object_bbox": {"bed": [box(0)], "sofa": [box(2)], "chair": [box(3.5), box(5)]},
    }
    path = tmp_path / "scannet_meta_info.json"
    path.write_text(json.dumps({"scene0000_00": scene}))
    return path


def row(question_type: str, question: str, truth: str, options=None, scene="scene0000_00") -> dict:
    return {
        "id": 1,
        "dataset": "scannet",
        "scene_name": scene,
        "question_type": question_type,
        "question": question,
        "ground_truth": truth,
        "options": options,
    }


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


DISTANCE = (
    "Measuring from the closest point of each object, what is the distance between the {} and the {} (in meters)?"
)
COUNT = "How many chair(s) are in this room?"
NEAREST = (
    "Measuring from the closest point of each object, which of these objects (bed, chair) is the closest to the sofa?"
)


def test_agreement_by_type(meta, tmp_path):
    rows = [
        row("object_counting", COUNT, "2"),
        row("object_counting", COUNT, "3"),
        row("object_counting", "How many lamp(s) are in this room?", "2"),  # no lamp: unresolvable
        row("object_counting", COUNT, "2", scene="scene0001_00"),  # no such scene: skipped
        row("object_abs_distance", DISTANCE.format("bed", "sofa"), "1.6"),
        row("object_abs_distance", DISTANCE.format("sofa", "bed"), "1.7"),  # within 0.1
        row("object_abs_distance", DISTANCE.format("sofa", "bed"), "1.8"),
        row("object_abs_distance", DISTANCE.format("bed", "chair"), "3.1"),  # two chairs: unresolvable
        row("room_size_estimation", "What is the size of this room (in square meters)? \nIf", "12.3"),
        row("object_rel_distance", NEAREST, "B", ["A. bed", "B. chair"]),  # 1.6 against 1.1
        row("object_rel_distance", NEAREST, "B", ["bed", "chair"]),  # as our own rows hold them
        row("route_planning", "You are a robot", "A", ["A. Turn Left", "B. Turn Right", "C. Turn Back"]),
    ]
    result = verify_geometry([meta], write(tmp_path / "test.jsonl", rows))
    assert result.to_json() == {
        "object_counting": {"n": 2, "agree": 1, "within_0_1m": None, "unresolvable": 1, "skipped": 1},
        "object_abs_distance": {"n": 3, "agree": 1, "within_0_1m": 2, "unresolvable": 1, "skipped": 0},
        "room_size_estimation": {"n": 1, "agree": 1, "within_0_1m": None, "unresolvable": 0, "skipped": 0},
        "object_rel_distance": {"n": 2, "agree": 2, "within_0_1m": None, "unresolvable": 0, "skipped": 0},
        "route_planning": {"n": 0, "agree": 0, "within_0_1m": None, "unresolvable": 0, "skipped": 1},
    }
    assert "object_abs_distance" in result.table()


def test_notes_say_what_was_not_compared(meta, tmp_path):
    rows = [row("object_counting", "How many chairs?", "2")]
    result = verify_geometry([meta], write(tmp_path / "test.jsonl", rows))
    assert result.types["object_counting"].unresolvable == 1
    assert "1 question is in other words" in result.table()
    assert "nothing was compared" in result.table()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"question": None}, "test.jsonl:1: question=None"),
        ({"question_type": "colour"}, "test.jsonl:1: question_type='colour'"),
        ({"options": "A"}, "test.jsonl:1: options='A'"),
        (
            {"question_type": "object_abs_distance", "question": DISTANCE.format("bed", "sofa"), "ground_truth": "far"},
            "far",
        ),
    ],
)
def test_broken_rows_are_named(meta, tmp_path, broken, message):
    path = write(tmp_path / "test.jsonl", [row("object_counting", COUNT, "2") | broken])
    with pytest.raises(DataError) as error:
        verify_geometry([meta], path)
    assert message in error.value.message


def test_files_without_rows_or_that_are_absent_are_errors(meta, tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        verify_geometry([meta], write(tmp_path / "test.jsonl", []))
    with pytest.raises(DataError, match="no such file"):
        verify_geometry([meta], tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no such file"):
        verify_geometry([tmp_path / "none.json"], tmp_path / "test.jsonl")


def test_arguments(tmp_path):
    assert parse_arguments(["meta=a.json", "questions=q"]) == ([Path("a.json")], Path("q"))
    assert parse_arguments(["questions=q", "meta=[a b.json, 'c.json']"])[0] == [Path("a b.json"), Path("c.json")]
    for given in (["meta=a"], ["questions=q"], ["meta=a", "meta=b", "questions=q"], ["meta=[]", "questions=q"]):
        with pytest.raises(ConfigError):
            parse_arguments(given)
    with pytest.raises(ConfigError, match="path=x: verify-geometry takes"):
        parse_arguments(["meta=a", "questions=q", "path=x"])


def test_command_prints_json_on_stdout_and_the_table_on_stderr(meta, tmp_path, capsys):
    questions = write(tmp_path / "test.jsonl", [row("object_counting", COUNT, "2")])
    assert run(["verify-geometry", f"meta=[{meta}]", f"questions={questions}"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["object_counting"]["agree"] == 1
    assert "question type" in err
    assert run(["verify-geometry", f"meta={meta}"]) == 2
    assert "error: questions: no value given" in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.skipif(not DEV.is_dir(), reason="needs ../shared/data/vsibench_dev")
def test_development_half_of_the_benchmark():
    found = verify_geometry(sorted(DEV.glob("*_meta_info_dev.json")), DEV / "test_dev.jsonl")
    types = found.types
    assert found.notes[0].startswith("4 distances beyond 0.1 m: the benchmark measures between points of a 5 cm grid")
    assert not any(a.unresolvable for a in types.values())
    assert {name: (a.agree, a.n) for name, a in types.items() if a.n} == {
        "object_counting": (267, 269),
        "object_abs_distance": (266, 393),
        "object_size_estimation": (454, 454),
        "room_size_estimation": (130, 130),
        "object_rel_direction_easy": (97, 97),
        "object_rel_direction_medium": (155, 155),
        "object_rel_direction_hard": (168, 168),
        "object_rel_distance": (341, 341),
    }
    assert types["object_abs_distance"].within_0_1m == 389
    alone = verify_geometry([DEV / "scannet_meta_info_dev.json"], DEV / "test_dev.jsonl").types
    assert alone["room_size_estimation"].n + alone["room_size_estimation"].skipped == 130
