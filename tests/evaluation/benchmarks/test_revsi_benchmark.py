"""ReVSI: rows of its own form, its prompt, its scorer to the odd string, its table."""

import json

import pytest

from vsgrpo.cli import run
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.revsi import ReVsi

TYPES = {
    "object_counting_single": ("How many chairs are in the scene?", None, "4"),
    "object_counting_multiple": ("How many chairs and sofas are in the scene in total?", None, "7"),
    "object_abs_distance": ("What is the distance between the sofa and the lamp (in meters)?", None, "2.5"),
    "object_rel_distance_closest": ("Which is the closest to the door?", ["A. sofa", "B. lamp"], "B"),
    "object_rel_distance_farthest": ("Which is the farthest from the door?", ["A. sofa", "B. lamp"], "A"),
}


def records(frames=32):
    return [
        {
            "num_frames": frames,
            "scene_id": f"scene000{number % 2}_00",
            "question": question,
            "question_type": kind,
            "options": options,
            "ground_truth": truth,
        }
        for number, (kind, (question, options, truth)) in enumerate(TYPES.items())
    ]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def benchmark(tmp_path):
    return ReVsi.read(write(tmp_path / "32_frame" / "test.jsonl", records()))


def test_the_prompt_is_theirs(benchmark):
    number, choice = benchmark.rows[0], benchmark.rows[3]
    assert benchmark.text(number) == (
        "These are frames of a video.\nHow many chairs are in the scene?\n"
        "Answer the question using a single integer or decimal number."
    )
    assert benchmark.text(choice) == (
        "These are frames of a video.\nWhich is the closest to the door?\nOptions:\nA. sofa\nB. lamp\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert number.media[0]["path"] == "32_frame/scene0000_00.mp4" and number.room == "scene0000"


@pytest.mark.parametrize(
    ("place", "answer", "score"),
    [
        (3, "B", 1.0),
        (3, "b.", 1.0),  # case and trailing dots do not count
        (3, " B. lamp", 1.0),  # outer space is stripped, then all up to the first space
        (3, "(B)", 0.0),
        (3, "B\nlamp", 0.0),  # only a space ends the token
        (3, "lamp", 0.0),
        (3, "", 0.0),
        (0, "4", 1.0),
        (0, "5", 0.5),  # 25 % off: thresholds .5 .55 .6 .65 .7 pass (and .75: 0.25 <= 0.25 where floats allow)
        (0, "four", 0.0),
        (0, "4 chairs", 1.0),
        (0, "4chairs", 0.0),
        (0, "nan", 0.0),
        (2, "2.5.", 1.0),
        (2, "-2.5", 0.0),
    ],
)
def test_answers_are_read_as_their_scorer_does(benchmark, place, answer, score):
    found = float(benchmark.score(benchmark.rows[place], answer))
    if (place, answer) == (0, "5"):
        assert found in (0.5, 0.6)
    else:
        assert found == score


def test_the_table_is_the_mean_of_tasks(benchmark):
    said = ["4", "2", "2.5", "B", "B"]
    answers = {row.id: text for row, text in zip(benchmark.rows, said, strict=True)}
    table = benchmark.accuracy(answers, "")
    # counting (1 + 0) / 2: 2 for 7 is 71 % off; distance 1; relative distance (1 + 0) / 2; no room, route, direction
    assert table.scores() == pytest.approx(
        {"object_counting": 0.5, "object_abs_distance": 1.0, "object_rel_distance": 0.5, "overall": 2 / 3}
    )
    assert table.cells["means"]["micro"].mean == pytest.approx(3 / 5)
    assert "overall (macro: mean of 3 tasks)" in table.table() and "published: Gemini 3 Pro" in table.table()


def test_published_rows_are_of_all_rows(tmp_path, benchmark):
    assert benchmark.remarks()[0] == "5 rows; ReVSI's number is not known here: published rows are of all"
    part = ReVsi.read(benchmark.file, ReadOptions(limit=2))
    assert "2 of 5 rows were asked, published rows are of all" in part.remarks()


def test_other_frames_than_the_answers_are_for_are_named(benchmark):
    shown = {"vision": {"num_frames": 16}}
    assert "true for 32 frames, 16 were shown: set video.num_frames=32" in benchmark.remarks(shown)[-1]
    assert "16 were shown" not in " ".join(benchmark.remarks({"vision": {"num_frames": 32}}))


def test_unknown_types_are_counted_and_left_out(tmp_path, capsys):
    rows = records()
    rows[4]["question_type"] = "appearance_order"
    file = write(tmp_path / "test.jsonl", rows)
    read = ReVsi.read(file)
    assert len(read.rows) == 4 and read.num_rows == 5
    lines = [{"id": name, "prediction": "B"} for name in [*(row.id for row in read.rows), *read.unknown]]
    said = write(tmp_path / "said.jsonl", lines)
    assert run(["score", str(said), "benchmark=revsi", f"benchmark.path={file}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 4 and "1 row of an unknown question type is left out: appearance_order (1)" in found["notes"]
    for row in rows:
        row["question_type"] = "appearance_order"
    with pytest.raises(DataError, match="question_type=appearance_order: none of ReVSI's; 5 rows have no other"):
        ReVsi.read(write(file, rows))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scene_id", ..., "scene_id is missing"),
        ("ground_truth", "C", r"ground truth 'C': neither a letter of AB nor an option"),
        ("options", ["A. sofa", "lamp"], "some have their letter, others not"),
        ("options", None, "options=None: must be a list"),
    ],
)
def test_broken_rows_are_named(tmp_path, column, value, message):
    rows = records()
    rows[3][column] = value
    if value is ...:
        del rows[3][column]
    with pytest.raises(DataError, match=rf"test\.jsonl:4: .*{message}"):
        ReVsi.read(write(tmp_path / "test.jsonl", rows))
