"""data.keep_out: rooms that a benchmark's rows name are denied as VSI-Bench's are."""

import json
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from build_roots import scannet_config, scannet_like
from test_leak_guard import make

from vsgrpo import tables
from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset, merge_shards
from vsgrpo.data.importing.dataset_folder import ImportSettings, parse_settings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.kept_out import keeping_out, read_kept
from vsgrpo.data.leak_guard import check_rows, check_scan, denied_in_data, judge_rows
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.row_scan import scan_rows
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.files import file_sha256
from vsgrpo.training.preflight import load_rows

SCANNETPP = "0a1b2c3d4e"  # no scene of VSI-Bench
VIDEO = next(
    video
    for video, visit in sorted(tables.arkitscenes_visits().items())
    if ("arkitscenes", visit) not in tables.denied_rooms()
    and sum(other == visit for other in tables.arkitscenes_visits().values()) > 1
)
VISIT = tables.arkitscenes_visits()[VIDEO]
OTHER_VIDEO = next(v for v, visit in tables.arkitscenes_visits().items() if visit == VISIT and v != VIDEO)
ROOMS = {("scannet", "scene0001"), ("arkitscenes", VISIT), ("scannetpp", SCANNETPP)}
ROWS = [
    {"id": 1, "video": "ScanNet/scene0001_00.mp4", "question": "How many?"},
    {"id": 2, "meta": {"video_id": int(VIDEO)}},
    {"id": 3, "dataset": "scannetpp", "scene_name": SCANNETPP},
    {"id": 4, "question": "No scene at all?"},
]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rows_file(tmp_path):
    return lines(tmp_path / "bench" / "test.jsonl", ROWS)


def written(path):
    """Write ROWS in the form that the suffix says."""
    if path.suffix == ".jsonl":
        lines(path, ROWS)
    elif path.name == "object.json":
        path.write_text(json.dumps({"version": 2, "scenes": {str(row["id"]): row for row in ROWS}}))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".tsv":
        path.write_text("index\tmeta\n" + "".join(f"{row['id']}\t{json.dumps(row)!r}\n" for row in ROWS))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"meta": [json.dumps(row) for row in ROWS]}), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "object.json", "a.tsv", "a.parquet"])
def test_rooms_are_read_from_every_form(tmp_path, name):
    (kept,) = read_kept([str(written(tmp_path / name))])
    assert kept.rooms == ROOMS
    # an object is one record
    assert (kept.rows, kept.rows_without_room) == ((1, 0) if name == "object.json" else (4, 1))
    assert kept.sha256 == file_sha256(tmp_path / name)


def test_a_folder_is_all_its_row_files(tmp_path):
    lines(tmp_path / "a.jsonl", ROWS[:1])
    lines(tmp_path / "deep" / "b.jsonl", ROWS[1:])
    (tmp_path / "dataset_infos.json").write_text('{"features": {"id": "int"}}')
    (tmp_path / "README.md").write_text("scene0011_00")
    kept = read_kept([str(tmp_path)])
    assert set().union(*(item.rooms for item in kept)) == ROOMS and len(kept) == 3


SPELLINGS = {
    "scene0025": ["{}_00", "{}_01", "{}", "x/SCENE0025_02.mp4", "scene_0025-00", "ScanNet/0025_00", "scene0025%5F00"],
    "41069025": ["{}", "arkitscenes/{}.mp4", "{}_3607.189.png", "raw%2FTraining%2F{}%2Fa.png", "x\\{}\\a.mp4"],
    "09c1414f1b": ["{}", "{}.mp4", "SCANNETPP/{}/x.mp4", "data/{}/dslr/a.jpg", "09C1414F1B"],
}


def test_every_spelling_of_a_room_of_vsi_bench_is_known_of_one_that_is_kept_out(rows_file):
    """The same text, with one room's id in place of the other's: both are denied, or none is."""
    own = {"scene0025": "scene0001", "41069025": VIDEO, "09c1414f1b": SCANNETPP}
    number = 0
    with keeping_out([rows_file]):
        for theirs, spellings in SPELLINGS.items():
            for spelling in spellings:
                text = spelling.format(theirs)
                same = text.replace("0025", "0001") if theirs == "scene0025" else text.replace(theirs, own[theirs])
                same = same.replace(theirs.upper(), own[theirs].upper())
                rows = [
                    [{"video": t}, {"a": [{"scene_id": t}]}, {"q": f"In scene {t} how many?"}] for t in (text, same)
                ]
                for listed, kept in zip(*rows, strict=True):
                    assert bool(denied_in_data(listed)) == bool(denied_in_data(kept)), (listed, kept)
                    number += bool(denied_in_data(kept))
                assert denied_in_data({"video": same}), same
                assert judge_rows([make(scene=same, room="x", dataset="x")]).num_leaks == 1, same
        assert number > 30
    assert not denied_in_data({"video": "scene0001_00"}) and not denied_in_data({"video": SCANNETPP})


@pytest.mark.parametrize(
    ("dataset", "scan"), [("scannet", "scene0001_01"), ("arkitscenes", OTHER_VIDEO), ("scannetpp", SCANNETPP)]
)
def test_other_recordings_of_the_room_are_denied_until_the_command_ends(rows_file, dataset, scan):
    row = make(dataset=dataset, scene=scan, room=scan, path=f"videos/{scan}.mp4")
    with keeping_out([rows_file]):
        with pytest.raises(DataError, match=r"is in .*bench/test\.jsonl \(data\.keep_out\) \(1 of 1 row"):
            check_rows([row])
        assert "data.keep_out" in (check_scan(scan, dataset) or "")
        with keeping_out([]):  # a command within a command keeps what the outer one denies
            assert judge_rows([row]).num_leaks == 1
        with pytest.raises(DataError, match="VSI-Bench"):
            check_rows([make(scene="scene0025_00", room="x")])
    assert judge_rows([row]).num_leaks == 0 and check_scan(scan, dataset, allow_val_safe=True) is None


def test_what_keeps_nothing_out_is_an_error(tmp_path, rows_file):
    unnamed = lines(tmp_path / "blink.jsonl", [{"question": "Which is nearer?", "scene": "3rscan/0cac75b1"}])
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {unnamed: "names no room", str(tmp_path / "no.jsonl"): "no such file", str(empty): "no row file"}
    for value, says in cases.items():
        with pytest.raises(DataError, match=rf"^data\.keep_out={value}: {says}") as caught:
            read_kept([rows_file, value])
        assert caught.value.hint
    for name in ("bad.json", "bad.json.gz", "bad.parquet", "bad.tsv", "bad.jsonl"):
        (tmp_path / name).write_bytes(b"\xffx")
        with pytest.raises(DataError, match=rf"{name}.*: not "):
            read_kept([str(tmp_path / name)])
    with pytest.raises(ConfigError, match="has no effect"):
        parse_settings([rows_file, "output=o", "format=vsibench", f"data.keep_out={rows_file}"])


def test_packed_pictures_are_not_read_and_name_nothing(tmp_path):
    """Forty pictures of 1 MiB as bytes beside a path take a few MiB to read over; base64 text names no room."""
    picture = np.random.default_rng(0).bytes(1 << 20)
    images = [[{"bytes": picture + bytes([n]), "path": f"scene{n:04d}_00/1.jpg"}] for n in range(40)]
    table = pyarrow.table({"images": images, "raw": [b"scene0050_00"] * 40})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    del table, images
    tracemalloc.start()
    before = pyarrow.total_allocated_bytes()
    (kept,) = read_kept([str(tmp_path / "a.parquet")])
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert pyarrow.total_allocated_bytes() - before < 8 << 20
    assert kept.rooms == {("scannet", f"scene{n:04d}") for n in (*range(40), 50)}

    text = "/9j/" + "abcdef0123/41069025/" * 200  # ids between characters of base64
    (tmp_path / "b.tsv").write_text(f"index\timage\tscene\n0\t['{text}']\tscannetpp/{SCANNETPP}\n")
    (kept,) = read_kept([str(tmp_path / "b.tsv")])
    assert kept.rooms == {("scannetpp", SCANNETPP)}


def test_a_large_file_is_looked_at_by_processes_that_know_the_rooms(tmp_path, rows_file, monkeypatch):
    from vsgrpo.data import row_scan

    file = tmp_path / "train.jsonl"
    write_rows(file, [make(scene="scene0001_01", room="scene0001", row_id=str(n)) for n in range(20)])
    monkeypatch.setattr(row_scan, "_PART_BYTES", file.stat().st_size // 2)
    with keeping_out([rows_file]):
        assert scan_rows(file).judged.num_leaks == 20
    assert scan_rows(file).judged.num_leaks == 0


def test_import_leaves_the_rooms_out_and_records_the_files(tmp_path, rows_file):
    video = {"question": "How many chair(s) are in this room?", "answer": "2"}
    own = lines(tmp_path / "own.jsonl", [{**video, "video": f"scannet/scene{n:04d}_00.mp4"} for n in range(4)])
    settings = parse_settings([own, f"output={tmp_path / 'out'}", f"data.keep_out=[{rows_file}]"])
    assert isinstance(settings, ImportSettings) and settings.keep_out == (rows_file,)
    summary = import_data(settings)
    assert summary.left_out == {f"its room is in {rows_file} (data.keep_out)": 1}
    counts = read_manifest(tmp_path / "out").counts
    assert counts["denied_rooms"] == ["scene0001"] and counts["keep_out"]["rooms"] == 3
    assert counts["keep_out"]["files"][0]["sha256"] == file_sha256(tmp_path / "bench" / "test.jsonl")
    assert counts["read"] == 4


@pytest.mark.integration
def test_build_data_leaves_such_a_scan_out_and_a_run_refuses_its_rows(tmp_path, rows_file, capsys):
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0001_01", "scene0002_00"])
    plain = build_dataset(scannet_config(root, tmp_path / "plain", "video.source=none"))
    assert plain.done == 3
    train = ["trainer=grpo", f"data={tmp_path / 'plain'}", "output=o", "model=tiny"]
    config = load_config("train", [*train, f"data.keep_out=[{rows_file}]"])
    with keeping_out(config.data.keep_out), pytest.raises(DataError, match=r"room scene0001 is in .*data\.keep_out"):
        load_rows(config)
    assert load_rows(load_config("train", train))[1] == "clean"

    given = ["video.source=none", f"data.keep_out=[{rows_file}]"]
    summary = build_dataset(scannet_config(root, tmp_path / "out", *given))
    assert summary.done == 2
    assert summary.refused == {f"its room is in {rows_file} (data.keep_out): scene0001": 1}
    assert {row.room for row in read_rows(tmp_path / "out" / "train.jsonl")} <= {"scene0000", "scene0002"}
    assert read_manifest(tmp_path / "out").counts["keep_out"]["rooms"] == 3

    # the same settings but for the rooms: what is built of the other scans is used again, and the rows are gone
    again = build_dataset(scannet_config(root, tmp_path / "plain", *given))
    assert (again.done, again.reused) == (2, 2)
    for number in range(2):
        shard = [*given, "build.num_shards=2", f"build.shard={number}"]
        build_dataset(scannet_config(root, tmp_path / "shards", *shard))
    assert merge_shards(tmp_path / "shards").done == 2
    capsys.readouterr()

    assert (
        run(["check-data", str(tmp_path / "plain" / "train.jsonl"), "--headers", f"data.keep_out=[{rows_file}x]"]) == 2
    )
    error, hint = capsys.readouterr().err.strip().splitlines()
    assert error == f"error: data.keep_out={rows_file}x: no such file or folder" and hint.startswith("hint: ")
