import json
from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.data.row import Row, check_row
from vsgrpo.data.rows import FIELD_NAMES, faults_of, read_rows, row_from_dict, row_id, row_to_dict, write_rows
from vsgrpo.errors import DataError

NUMBER_ROW = Row(
    schema_version=1,
    id="a1",
    dataset="demo",
    split="train",
    scene_name="demo000000_00",
    room="demo000000",
    question_type="room_size_estimation",
    question="What is the size of this room (in square meters)?",
    options=None,
    ground_truth="12.5",
    answer="12.5",
    answer_kind="number",
    unit="m2",
    media=({"kind": "video", "path": "videos/demo/demo000000_00.mp4"},),
    rejected=None,
    reasoning=None,
    objects=({"category": "chair", "instance_id": 3},),
    generator={"version": "0.1.0", "mode": "vsi100k", "distance": "centroid", "size_box": "obb"},
    extra={"seen": True},
)
CHOICE_ROW = replace(
    NUMBER_ROW,
    id="a2",
    question_type="object_rel_distance",
    question="Which of these objects (sink, bed)is the closest to the sofa?",
    options=("sink", "bed"),
    ground_truth="B",
    answer="bed",
    answer_kind="choice",
    unit=None,
)


def test_rows_survive_a_round_trip_through_a_file(tmp_path):
    path = tmp_path / "train.jsonl"
    assert write_rows(path, [NUMBER_ROW, CHOICE_ROW]) == 2
    assert read_rows(path) == [NUMBER_ROW, CHOICE_ROW]
    assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


def test_row_fields_are_the_schema_in_its_order():
    assert (
        *("schema_version", "id", "dataset", "split", "scene_name", "room", "question_type", "question", "options"),
        *("ground_truth", "answer", "answer_kind", "unit", "media", "rejected", "reasoning", "objects", "generator"),
        "extra",
    ) == FIELD_NAMES
    assert tuple(row_to_dict(NUMBER_ROW)) == FIELD_NAMES


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema_version=2"),
        ({"schema_version": True}, "schema_version=true"),
        ({"id": 7}, "id=7"),
        ({"question": " "}, "question="),
        ({"answer": ""}, "answer="),
        ({"answer": "nan"}, "answer="),
        ({"answer": "inf"}, "answer="),
        ({"answer": "0"}, "answer="),
        ({"ground_truth": "-3"}, "ground_truth="),
        ({"ground_truth": "about 3"}, "ground_truth="),
        ({"answer_kind": "letter"}, "answer_kind="),
        ({"answer_kind": "choice"}, "options=null"),
        ({"options": ["a", "a"], "answer_kind": "choice", "ground_truth": "A", "answer": "a"}, "options="),
        ({"options": ["a", "b"], "answer_kind": "choice", "ground_truth": "C", "answer": "b"}, "ground_truth="),
        ({"options": ["a", "b"], "answer_kind": "choice", "ground_truth": "A", "answer": "b"}, "answer="),
        ({"options": "ab"}, "options="),
        ({"media": []}, "media=[]"),
        ({"media": [{"kind": "audio", "path": "x"}]}, "media="),
        ({"media": [{"kind": "video", "path": "/x.mp4"}]}, "relative"),
        ({"objects": [{"category": "chair", "instance_id": "3"}]}, "objects="),
        ({"rejected": "12.5"}, "rejected="),
        ({"generator": None}, "generator="),
        ({"colour": 1}, "colour=1: unknown field"),
    ],
)
def test_a_bad_field_is_refused_with_file_line_and_field(tmp_path, change, says):
    path = tmp_path / "train.jsonl"
    good = json.dumps(row_to_dict(CHOICE_ROW))
    path.write_text(good + "\n" + json.dumps({**row_to_dict(NUMBER_ROW), **change}) + "\n")
    with pytest.raises(DataError) as error:
        read_rows(path)
    assert error.value.message.startswith(f"{path}:2: ")
    assert says in error.value.message
    assert error.value.hint and "\n" not in error.value.message


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_a_missing_field_is_refused(name):
    data = row_to_dict(NUMBER_ROW)
    del data[name]
    with pytest.raises(DataError, match=f"f:1: {name} is missing"):
        row_from_dict(data, "f:1")


@pytest.mark.parametrize("line", ['{"id": ', "[1]", '{"schema_version": 1, "extra": {"x": NaN}}', "\xff"])
def test_a_line_that_is_no_row_is_refused(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=r"rows.jsonl:1: "):
        read_rows(path)


def test_duplicate_ids_name_both_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [NUMBER_ROW, CHOICE_ROW, NUMBER_ROW])
    with pytest.raises(DataError, match=r"rows.jsonl:3: id=a1: already used in line 1"):
        read_rows(path)


def test_a_bad_row_is_never_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError):
        write_rows(path, [NUMBER_ROW, replace(NUMBER_ROW, answer="0.0")])
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")


def test_row_id_is_stable_and_tells_scenes_apart():
    first = row_id("demo", "demo000000_00", "object_counting", "How many?")
    assert first == row_id("demo", "demo000000_00", "object_counting", "How many?")
    assert len(first) == 16
    assert first != row_id("demo", "demo000001_00", "object_counting", "How many?")
    # The separator keeps fields apart: ("ab", "c") is not ("a", "bc").
    assert row_id("ab", "c", "t", "q") != row_id("a", "bc", "t", "q")


def test_video_path_is_relative_to_the_row_file(tmp_path):
    assert NUMBER_ROW.video_path(tmp_path) == tmp_path / "videos/demo/demo000000_00.mp4"
    image = replace(NUMBER_ROW, media=({"kind": "image", "path": "a.png"},))
    with pytest.raises(DataError, match="no video"):
        image.video_path(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(FIELD_NAMES), json_values)
def test_no_value_in_any_field_escapes_the_check(name, value):
    data = {**row_to_dict(CHOICE_ROW), name: value}
    try:
        row = row_from_dict(data, "f:1")
    except DataError as error:
        assert error.message.startswith("f:1: ")
    else:
        check_row(row, "f:1")
        assert json.loads(json.dumps(row_to_dict(row))) == json.loads(json.dumps(data))


JSON_KINDS = (None, True, 0, -5, 1.5, "", "A", [], ["A"], [{}], [["A"]], {}, {"A": [1]})


@pytest.mark.parametrize("base", [NUMBER_ROW, CHOICE_ROW], ids=["number", "choice"])
def test_faults_of_a_row_are_collected_whatever_two_of_its_fields_hold(base):
    data = row_to_dict(replace(base, rejected="3"))
    judged = ("question_type", "options", "ground_truth", "answer", "answer_kind", "unit", "rejected")  # by each other
    pairs = [
        dict(zip(two, values, strict=True))
        for two in combinations(judged, 2)
        for values in product(JSON_KINDS, repeat=2)
    ]
    for changed in [*pairs, *({name: value} for name in FIELD_NAMES for value in JSON_KINDS)]:
        odd = {**data, **changed}
        faults = faults_of(odd, "f:1")
        try:
            row_from_dict(odd, "f:1")
        except DataError as error:
            assert error.message == faults[0].message, odd
        else:
            assert not faults, odd


@given(st.floats(min_value=0.01, max_value=1e6))
def test_every_positive_number_is_a_good_answer(value):
    check_row(replace(NUMBER_ROW, answer=str(value), ground_truth=str(value)), "f:1")
