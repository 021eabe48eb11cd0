"""EmbSpatial-Bench: rows of its two forms, the prompts of the harnesses to the line break, groups by data set."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_benchmarks import EMBSPATIAL, picture, write_embspatial
from vsgrpo.data.manifest import rooms_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.embspatial import EmbSpatial


def test_prompts_of_the_harnesses(tmp_path):
    path = write_embspatial(tmp_path)
    easi, lmms = (EmbSpatial.read(path, ReadOptions(harness=name)) for name in ("official", "lmms"))
    row = easi.rows[0]
    assert easi.text(row) == (
        "Question: Which object is the nearest?\nOptions:\nA: kettle\nB: ladder\nC: piano\nD: stool\n"
        "Give me the answer letter directly. The best answer is:"
    )
    assert lmms.text(row) == (
        "Note: You only need to respond with A, B, C, D without providing any additional information.\n"
        "Which object is the nearest?\nA) kettle\nB) ladder\nC) piano\nD) stool"
    )


@pytest.mark.parametrize(
    ("answer", "easi", "lmms"),
    [
        ("C", True, True),
        ("c", True, True),
        ("(C)", True, True),
        ("C. table", True, True),
        ("`C`", True, False),
        ("The answer is C", True, False),
        ("Cart", False, True),  # lmms-eval looks at the first character only
        ("table", False, False),
        ("A or C", False, False),
        ("", False, False),
    ],
)
def test_scores_by_harness(tmp_path, answer, easi, lmms):
    path = write_embspatial(tmp_path)
    found = [EmbSpatial.read(path, ReadOptions(harness=name)) for name in ("easi", "lmms")]
    assert [bool(read.score(read.rows[0], answer)) for read in found] == [easi, lmms]


def test_both_forms_give_the_same_rows_and_pictures(tmp_path):
    """The parquet has pictures as bytes and no scene_id."""
    rows = [
        {name: value for name, value in row.items() if name not in ("scene_id", "objects")}
        | {"image": {"bytes": picture(130, "JPEG"), "path": None}}
        for row in EMBSPATIAL
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    options = ReadOptions(name="embspatial", run_dir=tmp_path / "out")
    of_json = EmbSpatial.read(write_embspatial(tmp_path / "json"), options).with_media(False)
    of_parquet = EmbSpatial.read(tmp_path / "test.parquet", options).with_media(False)
    assert [(row.id, row.options, row.ground_truth) for row in of_json.rows] == [
        (row.id, row.options, row.ground_truth) for row in of_parquet.rows
    ]
    assert [row.ground_truth for row in of_json.rows] == ["C", "B"]
    for read in (of_json, of_parquet):
        assert all(path.is_file() for row in read.rows for _, path in read.media(row))
    assert of_json.rows[1].room == "scene0011" and of_parquet.rows[1].room == "scannet_3"
    assert of_json.rows[0].room == "MadeUpScene" and of_parquet.rows[0].room == "mp3d_1"  # no scene: unknown
    assert rooms_of(of_json.rows[1]) == {("scannet", "scene0011")}


def test_groups_are_the_data_sets(tmp_path):
    read = EmbSpatial.read(write_embspatial(tmp_path))
    table = read.accuracy({"mp3d_1": "C", "scannet_3": "A"}, "")
    assert {name: cell.mean for name, cell in table.cells["data_source"].items()} == {"mp3d": 1.0, "scannet": 0.0}
    assert table.overall == 0.5


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("answer", 4, "answer=4: must be 0 to 3"),
        ("answer", "C", "answer='C': must be 0 to 3"),
        ("answer_options", "a, b", 'answer_options="a, b": must be a list of 2 or more texts'),
        ("relation", None, "relation=null: must be a text"),
    ],
)
def test_broken_rows_are_named(tmp_path, column, value, message):
    (tmp_path / "e.json").write_text(json.dumps([EMBSPATIAL[0], {**EMBSPATIAL[1], column: value}]))
    with pytest.raises(DataError, match=rf"e\.json:row 2: .*{message}"):
        EmbSpatial.read(tmp_path / "e.json")
