"""diff-data: datasets of any form joined by scene and question; settings of geometry told from a dataset's answers."""

import json
from dataclasses import replace

import pytest

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.compare.answers import is_equal_number, read_answers, relative_difference
from vsgrpo.data.compare.diff import diff_data
from vsgrpo.data.compare.settings import match_settings
from vsgrpo.data.exporting.export_data import export_data
from vsgrpo.data.exporting.settings import ExportSettings
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.spatial.directions import DIRECTION, DIRECTION_EASY_VSI100K
from vsgrpo.spatial.question_types import question_key
from vsgrpo.spatial.questions import ABS_DISTANCE, COUNTING, REL_DISTANCE, ROOM, SIZE, with_distance
from vsgrpo.spatial.released import measure_of

FAR = "Measuring from the closest point of each object, what is the distance between the bed and the tv (in meters)?"
A = [
    ("scene0000_00", "How many chair(s)in the room?", "4"),
    ("scene0000_00", "How many bed(s)in the room?", "2"),
    ("scene0000_00", "What is the distance between the tv and the bed (in meters)?", "2.43"),
    ("scene0000_00", "What is the distance between the tv and the desk (in meters)?", "2.46"),
    ("scene0000_00", "What is the distance between the bed and the desk (in meters)?", "3.0"),
    ("scene0000_00", "Which of these objects (tv, bed, sofa, lamp)is the closest to the desk?", "bed"),
    ("scene0001_00", "How many chair(s)in the room?", "3"),
]
B = [
    ("scene0000_00", "How many chairs are in this room?", "4"),
    ("scene0000_00", "How many sink(s) are in this room?", "2"),
    ("scene0000_00", FAR, "2.4"),
    ("scene0000_00", FAR.replace("the bed and the tv", "the desk and the tv"), "2.4"),
    ("scene0000_00", FAR.replace("the tv", "the desk"), "4"),
    ("scene0000_00", "Which of these objects (lamp, sofa, tv, bed) is the closest to the desk?", "lamp"),
    ("scene0000_00", "What is the size of this room (in square meters)?", "20"),
    ("scene0002_00", "How many chair(s)in the room?", "3"),
]


def write(path, rows):
    path.write_text(json.dumps([dict(zip(("scene", "question", "answer"), row, strict=True)) for row in rows]))
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "a.json", A), write(tmp_path / "b.json", B)


def test_equal_numbers_and_the_size_of_a_difference_by_hand():
    assert is_equal_number(2.43, 2.4, 1) and not is_equal_number(2.46, 2.4, 1) and is_equal_number(119.6, 120, 0)
    assert not is_equal_number(3, 4, 0) and is_equal_number(0.25, 0.3, 1)
    assert relative_difference(3, 4) == relative_difference(4, 3) == 0.25 and relative_difference(0, 0) == 0
    assert relative_difference(0, 5) == 1


def test_two_files_in_two_wordings_are_joined_by_what_their_questions_name(files):
    report = diff_data(*files)
    lines = {line.question_type: line for line in report.lines}
    counts = lines["object_counting"]
    assert (counts.both, counts.equal, counts.only_a, counts.only_b) == (1, 1, 1, 1)
    # B writes one decimal: 2.43 is 2.4, 2.46 is not (0.06 / 2.46 = 2.4 %), nor is 3 of 4 (25 %)
    far = lines["object_abs_distance"]
    assert (far.both, far.equal, far.only_a, far.only_b) == (3, 1, 0, 0)
    small, large = 0.06 / 2.46, 0.25
    assert far.median == pytest.approx((small + large) / 2) and far.p90 == pytest.approx(small + 0.9 * (large - small))
    near = lines["object_rel_distance"]
    assert (near.both, near.equal, near.median) == (1, 0, None)
    assert (lines["room_size_estimation"].both, lines["room_size_estimation"].only_b) == (0, 1)
    assert report.scenes == (1, 1, 1) and report.elsewhere == (1, 1)
    (shown,) = report.examples["object_rel_distance"]
    assert (shown.a, shown.b, shown.scene) == ("bed", "lamp", "scene0000_00") and shown.where_a.endswith("a.json:row 6")
    assert report.notes == [
        "question types of B only: room_size_estimation (1 row)",
        "3 questions of both say in two ways how to measure: A does not say how, B measuring from the closest point of "
        "each object",
    ]
    assert report.lone["object_counting"] == [
        "A scene0000_00: How many bed(s)in the room?",
        "B scene0000_00: How many sink(s) are in this room?",
    ]
    text = report.table()
    assert "object_abs_distance         3        1    33.3   13.7 %   22.7 %        0        0" in text
    assert json.loads(json.dumps(report.to_json()))["lines"][0]["question_type"] == "object_abs_distance"


def test_questions_that_are_asked_twice_are_counted_and_contradictions_left_out(files):
    first, second = files
    again = [*A, A[0], (A[1][0], A[1][1], "3"), ("scene0000_00", "Why?", "")]
    answers = read_answers(write(first, again))
    assert answers.repeated == 1 and len(answers.said) == 6
    assert answers.left_out == {"the question is asked again, with another answer": 2, "no answer": 1}
    report = diff_data(first, second)
    assert [note.partition(": ")[2] for note in report.notes[:3]] == [
        "2 rows left out: the question is asked again, with another answer",
        "1 row left out: no answer",
        "1 row repeats a question and its answer: counted once",
    ]


def test_what_cannot_be_compared_is_named(files, tmp_path):
    first, _ = files
    other = write(tmp_path / "c.json", [("scene0005_00", *B[0][1:])])
    with pytest.raises(DataError, match="no scene in common") as raised:
        diff_data(first, other)
    assert "A asks about scene0000_00, scene0001_00; B about scene0005_00" in raised.value.hint
    types = write(tmp_path / "d.json", [("scene0000_00", "What is the size of this room (in square meters)?", "20")])
    report = diff_data(first, types)
    assert report.lines[-1].both == 0 and report.notes[-1].startswith("no question in common: A asks")
    with pytest.raises(DataError, match=r"no row can be compared \(1 row: no answer\)"):
        diff_data(write(tmp_path / "e.json", [("scene0000_00", "Why?", "")]), first)
    with pytest.raises(DataError, match="no such folder or file"):
        diff_data(tmp_path / "nothing", first)


def test_a_question_is_the_same_in_every_wording_of_ours():
    def keys(kind, texts):
        return {question_key(kind, text) for text in texts}

    def counted(name):
        return keys("object_counting", [text.format(category=name) for text in COUNTING.values()])

    assert counted("glass") == {("object_counting", "glass")} and counted("trash can") == {
        ("object_counting", "trash can")
    }
    assert keys("object_counting", ["How many chairs are in this room?"]) == {("object_counting", "chair")}
    sizes = [text.format(category="TV stand") for text in SIZE.values()]
    assert keys("object_size_estimation", sizes) == {("object_size_estimation", "tv stand")}
    assert keys("room_size_estimation", ROOM.values()) == {("room_size_estimation",)}
    far = [with_distance(ABS_DISTANCE, d).format(first="tv", second="bed") for d in ("centroid", "closest_point")]
    far.append(ABS_DISTANCE.format(first="bed", second="tv"))
    assert keys("object_abs_distance", far) == {("object_abs_distance", "bed", "tv")} and measure_of(far[0]) == ""
    near = [text.format(options=words, category="desk") for text in REL_DISTANCE.values() for words in ("a, b", "b, a")]
    assert keys("object_rel_distance", near) == {("object_rel_distance", "desk", "a", "b")}
    for name, text in [("easy", DIRECTION_EASY_VSI100K), *DIRECTION.items()]:
        asked = text.format(standing="tv", facing="bed", target="left lamp")
        assert keys(f"object_rel_direction_{name}", [asked]) == {
            (f"object_rel_direction_{name}", "tv", "bed", "left lamp")
        }
    assert question_key("other", "What's on the desk?") == ("other", "whatsonthedesk")


GIVEN = ("source=demo", "source.preset=furnished", "source.num_scenes=2", "video.source=none", "build.num_workers=1")


@pytest.mark.integration
@pytest.mark.parametrize(
    "chosen",
    [
        {"box": "upright_min", "distance": "centroid", "size_box": "obb", "alpha": 5.0},
        {"box": "aabb", "distance": "closest_point", "size_box": "aabb", "alpha": 2.0},
    ],
    ids=lambda chosen: chosen["distance"],
)
def test_the_settings_of_a_dataset_are_told_from_its_six_files(chosen, tmp_path, capsys):
    words = [f"spatial.{name}={value}" for name, value in chosen.items()]
    root = f"source.root={tmp_path / 'rooms'}"
    build_dataset(load_config("build_data", [*GIVEN, root, *words, f"output={tmp_path / 'own'}"]))
    six = export_data(ExportSettings(str(tmp_path / "own"), "vsi100k", tmp_path / "six", media="none")).out
    report = match_settings(six, load_config("build_data", [*GIVEN, root], allow_missing=True))
    for name, value in chosen.items():
        assert value in report.best[name], (name, report.table())
    assert report.best["distance"] == [chosen["distance"]]
    lines = [line for line in report.lines if all(chosen.get(k, v) == v for k, v in line.settings.items())]
    kinds = {row.question_type for row in read_rows(tmp_path / "own" / "train.jsonl")}
    assert {line.question_type for line in lines if line.equal == line.answered} == kinds and len(kinds) == 6
    # the same by two builds: other settings, other answers
    assert run(["diff-data", str(six), "--settings", *GIVEN, root, "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scans"] == 1


@pytest.mark.integration
def test_two_builds_differ_where_their_settings_do(tmp_path, capsys):
    root = f"source.root={tmp_path / 'rooms'}"
    for name, distance in (("a", "centroid"), ("b", "closest_point")):
        words = [*GIVEN, root, f"spatial.distance={distance}", f"output={tmp_path / name}", "balance.mode=paper"]
        build_dataset(load_config("build_data", words))
    assert run(["diff-data", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    lines = {line["question_type"]: line for line in report["lines"]}
    for kind in ("object_counting", "object_size_estimation", "room_size_estimation", "object_rel_direction_easy"):
        assert lines[kind]["both"] == lines[kind]["equal"] > 0, kind
    far = lines["object_abs_distance"]
    assert far["both"] > 10 and far["equal"] < far["both"] / 2 and 0.05 < far["median"] < 0.9
    assert any("say in two ways how to measure" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a"], "1 dataset given, 2 needed"),
        (["a", "b", "--settings"], "2 datasets given, 1 needed"),
        (["a", "b", "source=demo"], "source=demo: keys go with --settings"),
        ([__file__.replace(".py", ".json"), "--settings"], "source.root: no value given"),
    ],
)
def test_wrong_words_are_named(words, says, capsys):
    assert run(["diff-data", *words]) == 2
    assert says in capsys.readouterr().err


def test_scans_are_needed_and_must_be_those_of_the_rows(files, tmp_path):
    config = load_config("build_data", GIVEN, allow_missing=True)
    with pytest.raises(ConfigError, match=r"source\.root: no value given"):
        match_settings(files[0], config)
    config = replace(config, source=replace(config.source, root=str(tmp_path / "rooms"), num_scenes=1))
    with pytest.raises(DataError, match="no scan in common"):
        match_settings(files[0], config)
