"""import-data keeps every value: what is read afterwards equals the source, or the row is refused and counted."""

import json
import random
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.importing.record_to_row import record_to_row
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.data.rows import read_rows
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench

DISTANCE = "Measuring from the closest point of each object, what is the distance between the bed and the tv (in {})?"
SIZE = "What is the length of the longest dimension (length, width, or height) of the bed, measured in {}?"
ROOM = "What is the size of this room (in square meters)?"
COUNT = "How many chair(s) are in this room?"
ROUTE = "You are a robot {} by the chair facing the window. You want to navigate to the door. 1. [please fill in]"
PER_METRE = {"m": Decimal(1), "cm": Decimal(100), "mm": Decimal(1000), "ft": 1 / Decimal("0.3048")}
NAMES = {"m": "meters", "cm": "centimeters", "mm": "millimeters", "ft": "feet"}


def run(tmp_path, rows, name="rows.json", **settings):
    """Import rows; return {source id: row} and the summary."""
    file = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows), encoding="utf-8")
    summary = import_data(ImportSettings((file,), tmp_path / "out", **settings))
    splits = ("test",) if settings.get("format") == "vsibench" else ("train", "dev")
    found = [row for split in splits for row in read_rows(tmp_path / "out" / f"{split}.jsonl")]
    assert len(found) + sum(summary.left_out.values()) == len(rows) == summary.num_read
    assert set(summary.left_out) == set(summary.examples)
    return {str(row.extra["source_id"]): row for row in found}, summary


def base(number, **fields):
    return {"id": number, "scene_name": f"clip{number:04d}", **fields}


def written(value: Decimal, rng) -> tuple[str, bool]:
    """One way to write a value, and whether it can be read in one way only."""
    plain = f"{value:f}"
    ways = [(plain, True), (f" {plain}", True), (f"{plain}.", "." in plain or len(plain) < 9)]
    whole, dot, digits = plain.partition(".")
    if dot:
        ways.append((f"{whole},{digits}", len(digits) != 3 or whole == "0"))
        if len(whole) > 3:
            ways.append((f"{whole[:-3]},{whole[-3:]}.{digits}", True))
            ways.append((f"{whole[:-3]}.{whole[-3:]},{digits}", True))
    elif len(whole) > 3:
        ways.append((f"{whole[:-3]},{whole[-3:]}", False))
    return rng.choice(ways)


def test_numbers_survive_however_they_are_written(tmp_path):
    rng = random.Random(7)
    rows, truth, must = [], {}, set()
    for number in range(400):
        asked = rng.choice(list(NAMES))
        question = rng.choice([DISTANCE, SIZE]).format(NAMES[asked])
        value = Decimal(rng.randint(1, 99999)).scaleb(-rng.randint(0, 3))
        text, is_plain = written(value, rng)
        said = rng.choice([None, *NAMES])
        if said is not None:
            spelled = {
                "m": ["m", " meters", " metre"],
                "cm": ["cm", " centimeters"],
                "mm": [" mm"],
                "ft": [" ft", " feet"],
            }
            text = f"{text.strip().removesuffix('.')}{rng.choice(spelled[said])}"
        answer = float(value) if said is None and rng.random() < 0.2 else text
        if isinstance(answer, float):
            is_plain = True
        rows.append(base(number, question=question, answer=answer))
        truth[str(number)] = value / PER_METRE[said or asked] * PER_METRE[asked]
        must |= {str(number)} if is_plain else set()
    found, summary = run(tmp_path, rows)
    for name, row in found.items():
        assert float(row.answer) == pytest.approx(float(truth[name]), rel=1e-9), (rows[int(name)], row.answer)
        assert row.ground_truth == row.answer
    assert must <= set(found), [rows[int(name)] for name in must - set(found)][:5]
    assert set(summary.left_out) <= {"a number that can be read in two ways"} and len(rows) - len(found) > 20


@pytest.mark.parametrize(
    ("answer", "question", "reason"),
    [
        ("1,047", ROOM, "read in two ways"),
        ("12,345", SIZE.format("centimeters"), "read in two ways"),
        ("12 m", ROOM, "a unit that the question does not ask for"),
        ("3 apples", ROOM, "a unit that is not known"),
        ("5", "How far is it from the bed to the tv in meters or feet (ft)?", "names two units"),
        ("1_0", ROOM, "not a number|not known"),
        ("1,5", COUNT, "a count that is no whole number"),
        (2.5, COUNT, "a count that is no whole number"),
        ("\u0663", ROOM, "not a number"),
        ("1e-320", ROOM, "not a number"),
        ("1e400", ROOM, "not a number"),
        ("2-3", ROOM, "not a number|not known"),
        ("about 3", ROOM, "not a number"),
        (True, ROOM, "no answer|not a number"),
        (-1.5, ROOM, "not a number"),
        (0, ROOM, "not a number"),
    ],
)
def test_a_number_that_is_none_or_two_is_refused(answer, question, reason):
    with pytest.raises(Refused, match=reason):
        kinds = {ROOM: "room_size_estimation", COUNT: "object_counting"}
        kind = kinds.get(question, "object_abs_distance")
        record_to_row(base(1, question=question, answer=answer, question_type=kind), "x")


def test_units_follow_the_question():
    def read(question, answer):
        row = record_to_row(base(1, question=question, answer=answer, question_type="object_abs_distance"), "x").row
        return row.answer, row.unit, row.extra.get("unit")

    assert read("How far is it?", "150 cm") == ("1.5", "m", None)  # the type's unit
    assert read(DISTANCE.format("feet"), "5") == ("5", None, "ft")  # the question stays, so does the number
    assert read(DISTANCE.format("feet"), "1.524 m") == ("5", None, "ft")
    assert read(DISTANCE.format("centimeters"), "1,5 m") == ("150", "cm", None)
    room = {"question": ROOM, "question_type": "room_size_estimation", "answer": "100 sq ft"}
    assert record_to_row(base(1, **room), "x").row.answer == "9.290304"


@pytest.mark.parametrize(
    ("question", "kind", "columns", "answer", "read"),
    [
        ("How far is it?", "object_abs_distance", {"unit": "cm"}, "150", ("1.5", "m")),  # 150 / 100
        ("How far is it?", "object_abs_distance", {"units": "Millimeters"}, 150, ("0.15", "m")),
        ("How far is it?", "object_abs_distance", {"answer_unit": "ft"}, "2", ("0.6096", "m")),  # 2 x 0.3048
        ("How far is it?", "object_abs_distance", {"unit": "cm"}, "150 cm", ("1.5", "m")),
        ("How far is it?", "object_abs_distance", {"unit": "n/a", "answer_unit": "cm"}, "150", ("1.5", "m")),
        ("How far is it?", "object_abs_distance", {"unit": " None "}, "150", ("150", "m")),
        ("How far is it?", "object_abs_distance", {"unit": "m", "units": "meters"}, "2,5", ("2.5", "m")),
        (SIZE.format("centimeters"), "object_size_estimation", {"unit": "m"}, "1.2", ("120", "cm")),
        (ROOM, "room_size_estimation", {"unit": "sq ft"}, "100", ("9.290304", "m2")),
        ("How big is it?", "volume", {"unit": "liters"}, "250", ("250", None)),  # kept as it is: no unit of ours
        ("How big is it, in m^3?", "volume", {"unit": "L"}, "250", ("0.25", "m3")),  # 250 / 1000
        ("How big is it (in cubic meters)?", "volume", {}, "2 ft3", ("0.056633693184", "m3")),  # 2 x 0.3048^3
        ("By how many degrees must I turn?", "turn", {}, "35\u00b0", ("35", "degrees")),
        ("When is it first seen (seconds from the start)?", "when", {}, "1.5 min", ("90", "s")),  # 1.5 x 60
        ("How many chair(s) are in this room?", "count", {}, "3", ("3", None)),
        ("How many chair(s)?", "object_counting", {"unit": "chairs"}, "4.0", ("4.0", None)),
        ("How high is it?", "height", {"unit": "cm"}, "80", ("80", "cm")),
        ("How high is it?", "height", {"unit": "cm"}, "low", ("low", None)),
        ("How high is it?", "height", {"unit": "storeys"}, "3", ("3", None)),
        ("How high is it (in meters)?", "height", {"unit": "cm"}, "80", ("0.8", "m")),
    ],
)
def test_the_unit_of_a_column_is_that_of_an_answer_without_one(question, kind, columns, answer, read):
    row = record_to_row(base(1, question=question, answer=answer, question_type=kind, **columns), "x").row
    assert (row.answer, row.unit) == read
    assert {name: row.extra[name] for name in columns} == columns


@pytest.mark.parametrize(
    ("columns", "answer", "reason"),
    [
        ({"unit": "cm"}, "1.5 m", "differs from its column"),
        ({"unit": "m2"}, "1.5", "a unit that the question does not ask for"),
        ({"unit": "steps"}, "1.5", "a unit that is not known"),
        ({"unit": ["m"]}, "1.5", "a unit that is not known"),
        ({"unit": "m", "answer_unit": "cm"}, "1.5", "columns that name two units"),
    ],
)
def test_a_unit_that_is_unclear_is_refused(columns, answer, reason):
    with pytest.raises(Refused, match=reason):
        row = base(1, question="How far is it?", answer=answer, question_type="object_abs_distance", **columns)
        record_to_row(row, "x")


@pytest.mark.parametrize("answer", ["2,3", "2020,2021", "4,12", "100,200,300", "1,047", "1.234.567", "1,047.5"])
def test_without_a_unit_a_list_is_no_number(answer):
    row = record_to_row(base(1, question="Which frames show the bed?", answer=answer), "x").row
    assert (row.answer, row.ground_truth, row.answer_kind) == (answer, answer, "text")


def test_a_plain_number_without_a_unit_is_one():
    said = {"3": "3", "4.5": "4.5", ".5": ".5", "7.": "7", 8: "8", 2.5: "2.5"}
    rows = [record_to_row(base(1, question="Which floor is it?", answer=answer), "x").row for answer in said]
    assert [(row.answer, row.answer_kind) for row in rows] == [(text, "number") for text in said.values()]


def test_a_column_of_a_name_of_ours_keeps_its_value():
    """Ours is then under `imported_NAME`; the official id of a benchmark row is that of its id column."""
    row = {"question": ROOM, "answer": "12", "frames": 64, "source_id": "theirs", "unit": "", "source_video": None}
    taken = record_to_row(base(7, **row, video="a/clip.mp4"), "x")
    assert taken.id == "7" and taken.row.extra == {
        "frames": 64,
        "source_id": "theirs",
        "imported_source_id": 7,
        "source_video": "a/clip.mp4",
        "unit": "",
    }
    asked = {"question": DISTANCE.format("feet"), "answer": "5", "unit": "Feet"}
    assert record_to_row(base(1, **asked), "x").row.extra == {"unit": "Feet", "imported_unit": "ft", "source_id": 1}


def test_choices_survive_any_order_of_letters(tmp_path):
    rng = random.Random(3)
    words = ["bed", "sink", "lamp", "tv", "trash can", "A", "B", "left", "3", "3.5", "front-left"]
    styles = ["{}. {}", "{}) {}", "({}) {}", "{}: {}"]
    rows, truth, must = [], {}, set()
    for number in range(400):
        options = rng.sample(words, rng.randint(2, 4))
        right = rng.randrange(len(options))
        lettered, style = rng.random() < 0.7, rng.choice(styles)
        letter = "ABCD"[right]
        listed = [style.format("ABCD"[k], word) for k, word in enumerate(options)] if lettered else list(options)
        if lettered:
            rng.shuffle(listed)
        answer = rng.choice(
            [letter, options[right], f"{letter}. {options[right]}", f"({letter})", options[right].upper()]
        )
        row = base(number, question=f"Which of them is it, number {number}?", answer=answer, options=listed)
        if rng.random() < 0.3:
            row["mc_answer"] = letter
        if lettered and rng.random() < 0.3:
            form = rng.choice(["\nOptions:\n{}", "\n{}"])
            row["question"] += form.format("\n".join(listed))
            del row["options"]
        rows.append(row)
        truth[str(number)] = options[right]
        must |= {str(number)} if not {"A", "B"} & set(options) else set()
    found, summary = run(tmp_path, rows)
    for name, row in found.items():
        assert row.answer == truth[name] == row.options["ABCD".index(row.ground_truth)], (rows[int(name)], row)
        assert row.question == f"Which of them is it, number {name}?"
    assert must <= set(found), [rows[int(name)] for name in must - set(found)][:5]
    assert set(summary.left_out) <= {"an answer that is one option by its word and another by its letter"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"options": ["A. bed", "B. tv"], "answer": "bed", "mc_answer": "B"}, "letter and word disagree"),
        ({"options": ["A. bed", "B. tv"], "answer": "B. bed"}, "letter and word disagree"),
        ({"options": ["bed", "tv"], "answer": "C"}, "none of its options"),
        ({"options": ["A. bed", "C. tv"], "answer": "C"}, "gaps or occur twice"),
        ({"options": ["B. bed", "tv"], "answer": "B"}, "gaps or occur twice"),
        ({"options": ["bed", "Bed."], "answer": "bed"}, "options that are not 2 to 6 different ones"),
        ({"options": ["1", "2"], "label": 1}, "no answer"),
        ({"options": ["A. bed", "B. tv"], "answer": "A", "solution": "<answer>B</answer>"}, "answers that disagree"),
        ({"question": "Which?\nA. tv\nB. bed", "options": ["A. bed", "B. tv"], "answer": "A"}, "differ from those"),
        ({"options": ["bed", "tv"], "answer": "<answer>A</answer> or <answer>B</answer>"}, "several answers"),
        ({"answer": "B"}, "a choice without options"),
    ],
)
def test_a_choice_that_can_be_read_in_two_ways_is_refused(fields, reason):
    with pytest.raises(Refused, match=reason):
        record_to_row(base(1, **{"question": "Which?", **fields}), "x")


def test_numeric_types_keep_their_number_beside_candidates():
    row = {"question_type": "object_counting", "question": "How many chair(s) are there?", "options": ["B. 3", "A. 2"]}
    assert record_to_row(base(1, **row, ground_truth="A"), "x").row.answer == "2"
    assert record_to_row(base(1, **row, ground_truth=3, mc_answer="B"), "x").row.answer == "3"
    many = {**row, "options": [str(k) for k in range(8)]}
    assert record_to_row(base(1, **many, ground_truth="5"), "x").row.answer == "5"


@pytest.mark.parametrize("verb", ["beginning at", "beginning by", "starting at", "standing", "positioned next to"])
def test_a_route_is_known_by_its_sentence(verb):
    row = {"question": ROUTE.format(verb), "options": ["A. Turn Left", "B. Turn Right"], "answer": "B"}
    for given in ({}, {"problem_type": "multiple choice"}, {"question_type": "multiple_choice"}):
        assert record_to_row(base(1, **row, **given), "x").row.question_type == "route_planning"


def test_types_are_taken_from_the_column_that_says_them():
    row = {"question": "Where?", "options": ["bed", "tv"], "answer": "bed", "problem_type": "multiple choice"}
    kinds = {"original_question_type": "route_planning", "question_type": "multiple_choice"}
    assert record_to_row(base(1, **row, **kinds), "x").row.question_type == "route_planning"
    assert record_to_row(base(1, **row), "x").row.question_type == "multiple_choice"
    own = {"question": "What is the distance between the camera and the bed (in meters)?", "answer": "2.4 m"}
    taken = record_to_row(base(1, **own, question_type="camera_obj_abs_dist"), "x").row
    assert (taken.question_type, taken.answer, taken.answer_kind) == ("camera_obj_abs_dist", "2.4", "number")


@pytest.mark.parametrize(
    ("row", "dataset"),
    [
        ({"data_source": "", "path": "./arkitscenes/40000000.mp4"}, "arkitscenes"),
        ({"data_source": "ScanNet++", "path": "x/ab12.mp4"}, "scannetpp"),
        ({"dataset": "ARKitScenes", "scene_name": "40000000"}, "arkitscenes"),
        ({"path": "data/scannetpp_v2/videos/ab12.mp4"}, "scannetpp"),
        ({"dataset": "hypersim", "path": "x/ab12.mp4"}, "hypersim"),
        ({"path": "x/ab12.mp4"}, "mine"),
    ],
)
def test_the_data_set_keeps_its_name(row, dataset):
    foreign = {"question": "How many chair(s) are in this room?", "answer": "4", **row}
    assert record_to_row(foreign, "mine").row.dataset == dataset


def test_benchmark_rows_are_scorable_after_an_import(tmp_path):
    """What `VsiBench.read` refuses never gets into test.jsonl: one such row stopped eval and score for all."""
    route = {"problem": ROUTE.format("beginning"), "problem_type": "multiple choice", "solution": "<answer>B</answer>"}
    route |= {"original_question_type": "route_planning", "options": ["A. Turn Left", "B. Turn Right"]}
    rows = [
        {"problem_id": 5103, **route, "path": "./arkitscenes/40000000.mp4", "data_source": ""},
        base(2, question="What colour is it?", options=["red", "blue"], answer="red"),
        base(3, question="How does it look?", answer="fine"),
        base(4, question=ROOM, answer="12,5"),
    ]
    found, summary = run(tmp_path, rows, format="vsibench")
    assert {name: row.question_type for name, row in found.items()} == {
        "5103": "route_planning",
        "4": "room_size_estimation",
    }
    assert found["5103"].id == "5103" and found["4"].ground_truth == "12.5"
    assert [row.id for row in VsiBench.read(tmp_path / "out").rows] == ["5103", "4"]
    assert sum(summary.left_out.values()) == 2


def test_training_rows_of_other_types_are_noted(tmp_path):
    _, summary = run(tmp_path, [base(k, question="What colour is it?", answer="red") for k in range(3)])
    assert any("3 rows are of types VSI-Bench has not (other)" in note for note in summary.notes)


def test_two_videos_of_one_name_stay_two(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").write_bytes(folder.encode())
        (tmp_path / folder / "one.mp4").write_bytes(f"{folder} one".encode())
    question = "How many chair(s) are in this room?"
    rows = [{"id": f, "question": question, "answer": n, "video": f"{f}/clip.mp4"} for f, n in (("a", "2"), ("b", "3"))]
    rows += [{**rows[0], "id": "again"}, {**rows[0], "id": "other", "answer": "7"}]
    rows += [
        base(9, question=question, answer="4", video="a/one.mp4"),
        base(9, question="?", answer="4", video="b/clip.mp4"),
    ]
    rows[-1]["id"] = "same scene"
    found, summary = run(tmp_path, rows)
    content = {name: row.video_path(tmp_path / "out").read_bytes() for name, row in found.items()}
    assert content == {"a": b"a", "b": b"b", "9": b"a one", "same scene": b"b"}
    assert found["a"].room != found["b"].room and found["9"].room == found["same scene"].room
    assert found["a"].answer == "2" and found["b"].answer == "3"
    assert summary.left_out == {
        "asked before (same scene and question)": 1,
        "asked before (same scene and question), with another answer": 1,
    }


@pytest.mark.parametrize("there", [0, 1])
def test_a_missing_video_takes_no_name_from_one_that_is_there(tmp_path, there):
    (tmp_path / "films/b").mkdir(parents=True)
    (tmp_path / "films/b/clip.mp4").write_bytes(b"b")
    question = "How many chair(s) are in this room?"
    rows = [{"id": "gone", "question": question, "answer": "2", "video": "a/other/clip.mp4"}]
    rows.insert(there, {"id": "b", "question": question, "answer": "3", "video": "b/clip.mp4"})
    found, summary = run(tmp_path, rows, videos=tmp_path / "films")
    assert found["b"].media[0]["path"] == "videos/imported/clip.mp4" and found["b"].scene_name == "clip"
    assert summary.num_videos == 1 and sum(summary.left_out.values()) == 1


def test_a_scene_and_a_path_that_disagree_are_refused(tmp_path):
    row = {"question": ROOM, "answer": "12", "scene_name": "scene0001_00", "video": "x/scene0002_00.mp4"}
    rows = [{"id": 1, **row}, {"id": 2, **row, "video": "x/scene0001_00.mp4"}]
    found, summary = run(tmp_path, rows)
    assert set(found) == {"2"} and summary.left_out == {"its scene and paths name several scans": 1}


def test_what_no_file_can_hold_is_left_out(tmp_path):
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    rows = [
        base(1, question="How many \ud83d are there in this room?", answer="2"),
        base(2, question=ROOM, answer="12", note="\ud83d"),
        base(3, question=ROOM, answer="12", note=deep),
        base(4, question=ROOM, answer="12", note=float("nan")),
        base(5, question="How many <|image_pad|> are in this room?", answer="12"),
    ]
    found, _ = run(tmp_path, rows)
    assert set(found) == {"4"} and found["4"].extra["note"] is None
    read_checked_rows(tmp_path / "out/train.jsonl")


def test_rows_of_a_parquet_keep_their_values(tmp_path):
    rows = [
        {"id": 1, "scene_name": "a1", "question": ROOM, "answer": "23,5", "options": None, "score": float("nan")},
        {
            "id": 2,
            "scene_name": "a2",
            "question": "Which?",
            "answer": "A",
            "options": ["B. tv", "A. bed"],
            "score": 1.0,
        },
    ]
    found, _ = run(tmp_path, rows, "rows.parquet")
    assert (found["1"].answer, found["1"].extra["score"]) == ("23.5", None)
    assert (found["2"].answer, found["2"].options) == ("bed", ("bed", "tv"))
