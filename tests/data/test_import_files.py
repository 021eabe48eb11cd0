"""Files as users have them: several forms in one, gzipped, cut off, of the wrong kind, with maps beside them."""

import gzip
import json

import pytest

from vsgrpo.cli import run
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError

COUNT = "How many chair(s) are in this room?"


def rows_of(count):
    return [{"question": COUNT, "answer": k + 2, "video": f"scene{k:04d}_00.mp4"} for k in range(count)]


def write(path, rows):
    text = json.dumps(rows) if path.name.startswith("list") else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "list.json", "rows.jsonl.gz", "list.json.gz"])
def test_a_file_packed_or_not_gives_the_same_rows(tmp_path, name):
    file = write(tmp_path / name, rows_of(3))
    summary = import_data(ImportSettings((file,), tmp_path / "out", dev_fraction=0.0))
    assert summary.counts["train"] == {"object_counting": 3} and not summary.left_out
    assert [row.answer for row in read_rows(tmp_path / "out/train.jsonl")] == ["2", "3", "4"]


def test_forms_may_be_mixed_and_each_file_has_its_table(tmp_path, capsys):
    talk = [{"role": "user", "content": f"<video>{COUNT}"}, {"role": "assistant", "content": "7"}]
    mixed = [*rows_of(2), {"messages": talk, "videos": ["scene0005_00.mp4"]}, "a text", {"question": COUNT}]
    files = [write(tmp_path / "mixed.jsonl", mixed), write(tmp_path / "list.json", rows_of(3))]
    words = ["import-data", *map(str, files), f"output={tmp_path / 'out'}"]
    assert run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"{files[0]}: 5 rows read, 3 taken, 2 refused")
    assert lines[at + 1 : at + 3] == [
        "  refused 1  not a JSON object  first: line 4",
        "  refused 1  no answer          first: line 5",
    ]
    assert lines[at + 3] == f"{files[1]}: 3 rows read, 1 taken, 2 refused"
    assert "first: row 1: scene0000_00" in lines[at + 4]
    assert run([*words, "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["files"]
    assert [(part["read"], part["taken"], len(part["refused"])) for part in told] == [(5, 3, 2), (3, 1, 1)]
    assert told[0]["refused"][1] == {"reason": "no answer", "rows": 1, "first": "line 5", "detail": ""}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", b'{"question": "Why?"}\n{"quest', "rows.jsonl:2: not JSON"),
        ("rows.json", b'[{"question": "Why?"}, {"que', "rows.json: not JSON"),
        ("rows.jsonl.gz", gzip.compress(json.dumps(rows_of(1)).encode(), mtime=0)[:-9], "not a whole gzip file"),
        ("rows.jsonl.gz", b'{"question": "Why?"}\n', "not a whole gzip file"),
        ("rows.csv", b"question,answer\n", "neither .json, .jsonl"),
        ("rows.parquet", b"no parquet", "not a parquet file"),
        ("dataset_info.json", b'{"mine": {"file_name": "rows.json"}}', "not a list of records"),
        ("empty.jsonl", b"", "the file is empty"),
        ("none.jsonl", b'{"question": "Why?"}\n', "no answer, first .*none.jsonl:1"),
    ],
)
def test_a_file_that_is_none_is_one_error_and_leaves_nothing(tmp_path, capsys, name, content, says):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=says):
        import_data(ImportSettings((tmp_path / name,), out))
    assert run(["import-data", str(tmp_path / name), f"output={out}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert not out.exists()


def test_a_folder_is_no_file_but_names_its_row_files(tmp_path, capsys):
    write(tmp_path / "rows.jsonl", rows_of(1))
    assert run(["import-data", str(tmp_path), f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert "a folder, a file is needed" in said and "rows.jsonl" in said


def test_maps_of_a_file_beside_are_joined_by_the_video(tmp_path):
    grid = {"table": [[0, 3], [5, 7]], "chair": [[9, 3]]}
    maps = [{"video_id": "scene0001_00.mp4", "cognitive_map": grid, "object_list": ["table", "chair"]}]
    maps += [{"video_id": "scene0009_00", "cognitive_map": {}, "object_list": []}]
    file = write(tmp_path / "rows.jsonl", rows_of(3))
    beside = write(tmp_path / "cognitive_map.jsonl", maps)
    summary = import_data(ImportSettings((file,), tmp_path / "out", maps=beside, dev_fraction=0.0))
    rows = read_rows(tmp_path / "out/train.jsonl")
    assert [row.extra.get("cognitive_map") for row in rows] == [None, grid, None]
    assert rows[1].extra["object_list"] == ["table", "chair"]
    assert f"maps: 1 of 2 in {beside} joined to 1 row" in summary.notes
    for other, says in [([{"video_id": "a"}], "no map of a video"), ([maps[0], maps[0]], "has a map already")]:
        with pytest.raises(DataError, match=says):
            import_data(ImportSettings((file,), tmp_path / "more", maps=write(beside, other)))
