"""One reader of JSON, JSON lines and parquet, and the check of the kinds of their values."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vsgrpo.errors import DataError
from vsgrpo.records import NUMBER, check_shape, read_json, read_jsonl, read_record, read_records
from vsgrpo.vision_r1.questions import find_source

SHAPE = {
    "name": str,
    "step?": int,
    "scores": {str: NUMBER},
    "checkpoints?": {int: {"stage": int}},
    "mix?": [{"a": str}],
}
GOOD = {"name": "x", "scores": {"a": 0.5, "b": 1}, "checkpoints": {"2": {"stage": 0}}, "mix": [{"a": "b"}], "other": 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": None}, "name: is missing"),
        ({"name": ["x"]}, "name=\"['x']\": must be text"),
        ({"step": True}, "step='True': must be a whole number"),
        ({"step": 1.5}, "step='1.5': must be a whole number"),
        ({"scores": []}, "scores='[]': must be an object"),
        ({"scores": {"a": "0.5"}}, "scores.a='0.5': must be a whole number or a number"),
        ({"scores": {"a": 10**400}}, "scores.a="),
        ({"checkpoints": {"x": {"stage": 0}}}, "checkpoints.x: must be a whole number"),
        ({"checkpoints": {"2": {"stage": None}}}, "checkpoints.2.stage: is missing"),
        ({"mix": "abc"}, "mix='abc': must be a list"),
        ({"mix": [{"a": "b"}, 3]}, "mix.1='3': must be an object"),
    ],
)
def test_a_value_of_another_kind_is_named(change, told):
    check_shape(GOOD, SHAPE, "f.json", "")
    check_shape(GOOD | {"step": None, "mix": None}, SHAPE, "f.json", "")
    with pytest.raises(DataError) as error:
        check_shape(GOOD | change, SHAPE, "f.json", "restore it")
    assert error.value.message.startswith(f"f.json: {told}") and error.value.hint == "restore it"


BROKEN = [b"", b"[]", b"null", b"3", b'"x"', b"\xff\xfe\x00", b'{"a": 1', b"[" * 200_000, b'{"a":' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:6]))
def test_what_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(DataError, match=r"f\.json: "):
        read_record(tmp_path / "f.json", {}, "")


def test_nan_is_refused_kept_or_null(tmp_path):
    file = tmp_path / "f.jsonl"
    file.write_text('{"x": NaN}\n')
    with pytest.raises(DataError, match=r"f\.jsonl:1: not JSON \(NaN is not allowed\)"):
        list(read_jsonl(file))
    assert list(read_jsonl(file, nan="null")) == [(1, {"x": None})]
    assert math.isnan(next(read_jsonl(file, nan="keep"))[1]["x"]) and read_json(file) == {"x": None}


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n\n{"step": 2}\n{"ste')
    assert [data["step"] for _, data in read_jsonl(file, is_growing=True)] == [1, 2]
    with pytest.raises(DataError, match=r"log\.jsonl:4: not JSON"):
        list(read_jsonl(file))


def test_another_schema_version_is_named_before_what_it_lacks(tmp_path):
    file = tmp_path / "f.json"
    file.write_text('{"schema_version": 9}')
    with pytest.raises(DataError, match=r"f\.json: schema_version=9: this version reads 1"):
        read_record(file, {"name": str}, "", schema_version=1)
    with pytest.raises(DataError, match=r"gone\.json: no such file"):
        read_record(tmp_path / "gone.json", {}, "")


def test_rows_of_parquet_are_counted_from_the_given_number_without_skipped_columns(tmp_path):
    file = tmp_path / "f.parquet"
    pq.write_table(pa.table({"n": [5, 6], "picture": [b"a", b"b"]}), file)
    found = list(read_records(file, first=0, skip={"picture"}))
    assert found == [(f"{file}:row 0", {"n": 5}), (f"{file}:row 1", {"n": 6})]


def test_lists_larger_than_the_buffer_are_read_item_by_item(tmp_path):
    items = [{"n": n, "text": 'x\u00e9"]},' * (n % 50) * 30} for n in range(2000)] + [
        [],
        3,
        -1.5e3,
        None,
        "a" * 3_000_000,
    ]
    file = tmp_path / "rows.json"
    file.write_text("\ufeff " + json.dumps(items, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert file.stat().st_size > 3 << 20
    found = list(read_records(file, nan="null"))
    assert [item for _, item in found] == items and found[7][0] == f"{file}:row 8"


@pytest.mark.parametrize(
    "text", ["[1", "[1,", "[1 2]", "[1]]", "[1] 2", '["a]', "[{]", "[" * 200_000, "[1,]", "[,1]", '{"a": 1', "nul"]
)
def test_a_broken_list_is_an_error_of_one_line(tmp_path, text):
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"rows\.json(:1)?: not") as error:
        list(read_records(file, nan="null"))
    assert "\n" not in error.value.message and len(error.value.message) < 300


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"data": [{"n": 1}, {"n": NaN}]}'),
        ("a.json", '{"n": 1}\n{"n": NaN}\n'),
        ("a.jsonl", '[{"n": 1}, {"n": NaN}]'),
        ("a.jsonl", '\ufeff{"n": 1}\r\n\r\n{"n": NaN}'),
    ],
)
def test_the_content_decides_between_list_and_lines(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [data["n"] for _, data in read_records(tmp_path / name, nan="null")] == [1, None]


@pytest.mark.parametrize(
    "bad",
    [
        pa.array([b"ok"] * 70 + [b"\xff\xfe"], pa.binary()).view(pa.string()),  # bytes that are no UTF-8
        pa.array([0] * 70 + [2**62], pa.int64()).cast(pa.timestamp("us")),  # the year 148,108
    ],
    ids=["text", "time"],
)
def test_a_value_of_a_parquet_file_that_cannot_be_read_is_named(tmp_path, bad):
    file = tmp_path / "train.parquet"
    columns = {"problem": ["?"] * 71, "answer": ["x"] * 71, "images": ["a.png"] * 71, "note": bad}
    pq.write_table(pa.table(columns), file)
    with pytest.raises(DataError, match=r"train\.parquet:rows 65 to 71: a value cannot be read"):  # 64 at a time
        list(read_records(file, nan="null"))
    with pytest.raises(DataError, match=r"train\.parquet:rows 65 to 71: a value cannot be read"):
        list(find_source(file, "train", "images", None, False).items())
