"""Benchmark rooms on their way into a train.jsonl: through links, columns, questions, mixes and imports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_leak_guard import make

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.check import check_data
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.leak_guard import check_rows, judge_rows, read_checked_rows
from vsgrpo.data.manifest import read_manifest, training_manifest
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.errors import DataError
from vsgrpo.training.preflight import load_rows
from vsgrpo.vision_r1.import_images import import_images
from vsgrpo.vision_r1.questions import find_source

DEV = Path(__file__).resolve().parents[3] / "shared" / "data" / "vsibench_dev" / "test_dev.jsonl"
CLEAN = {"video": "scannet/scene0000_00.mp4", "question": "How many chair(s) are in this room?", "answer": "2"}


@pytest.mark.parametrize(
    ("row", "room"),
    [
        (make(dataset="imported", scene="41069025", room="41069025"), "arkitscenes/381658"),
        (make(dataset="x", scene="a", room="a", path="./arkitscenes/41069025.mp4"), "arkitscenes/381658"),
        (make(dataset="arkitscenes", scene="a", room="381658"), "arkitscenes/381658"),
        (make(dataset="x", scene="09C1414F1B", room="a"), "scannetpp/09c1414f1b"),
        (make(scene="scene_0025_00", room="a"), "scene0025"),
        (make(scene="ｓｃｅｎｅ００２５＿００", room="a"), "scene0025"),
        (make(scene="scene\u200b0025_00", room="a"), "scene0025"),
        (make(scene="a", room="a", path="videos\\ScanNet\\scene0025_00.mp4"), "scene0025"),
        (replace(make(), extra={"source_video": "scene0025_00.mp4"}), "scene0025"),
        (replace(make(), extra={"meta": [{"video_id": 41069025}]}), "arkitscenes/381658"),
        (replace(make(), question="In video 41069025, how many chairs are there?"), "arkitscenes/381658"),
        (replace(make(), reasoning="The scene 09c1414f1b has two of them, so two."), "scannetpp/09c1414f1b"),
        (replace(make(), generator={"from": "scene0025_01"}), "scene0025"),
        (make(row_id="arkitscenes-41069025-3"), "arkitscenes/381658"),
        (make(scene="0025", room="a"), "scene0025"),
        (make(dataset="ScanNet_v2", scene="0025", room="0025"), "scene0025"),
        (replace(make(), extra={"uid": "41069025"}), "arkitscenes/381658"),
        (replace(make(), question_type="counting_scene0025_00"), "scene0025"),
        (replace(make(), objects=({"category": "chair of scene0025_00", "instance_id": 1},)), "scene0025"),
    ],
)
def test_a_room_is_refused_wherever_it_is_named(row, room):
    with pytest.raises(DataError, match=rf"room {room} is in VSI-Bench \(1 of 2 rows\)"):
        check_rows([make(row_id="first"), row])
    assert judge_rows([row]).verdict == "leak"


def test_a_refusal_names_the_rooms():
    rows = [make(scene=scene, room="x") for scene in ("scene0025_00", "scene0025_01", "41069025", "41069021")]
    with pytest.raises(DataError, match=r"\(4 of 4 rows; 2 rooms: arkitscenes/381658, scene0025\)"):
        check_rows(rows)


def linked(folder, kind):
    """Make videos/a.mp4 lead to a benchmark's file of the same folder, whose name is somewhere on the way only."""
    elsewhere = folder / "data" / "elsewhere"
    elsewhere.mkdir(parents=True)
    (folder / "data" / "videos").mkdir(parents=True)
    if kind == "file":
        (elsewhere / "scene0025_00.mp4").write_bytes(b"x")
        (folder / "data/videos/a.mp4").symlink_to(elsewhere / "scene0025_00.mp4")
    elif kind == "relative":
        (elsewhere / "41069025.mp4").write_bytes(b"x")
        (folder / "data/videos/a.mp4").symlink_to("../elsewhere/41069025.mp4")
    elif kind == "two links":
        (elsewhere / "plain.mp4").write_bytes(b"x")
        (elsewhere / "09c1414f1b.mp4").symlink_to("plain.mp4")
        (folder / "data/videos/a.mp4").symlink_to(elsewhere / "09c1414f1b.mp4")
    elif kind == "folder":
        (elsewhere / "scene0025_00").mkdir()
        (elsewhere / "scene0025_00" / "a.mp4").write_bytes(b"x")
        (folder / "data/videos").rmdir()
        (folder / "data/videos").symlink_to(elsewhere / "scene0025_00")
    elif kind == "broken":
        (folder / "data/videos/a.mp4").symlink_to("../gone/scene0025_00.mp4")
    return folder / "data"


@pytest.mark.parametrize("kind", ["file", "relative", "two links", "folder", "broken"])
def test_links_are_followed(tmp_path, kind):
    data = linked(tmp_path, kind)
    row = make()  # a train scan by all its names
    write_rows(data / "train.jsonl", [row])
    with pytest.raises(DataError, match=r"is in VSI-Bench \(1 of 1 row\), named by"):
        read_checked_rows(data / "train.jsonl")
    assert any(
        "rooms of VSI-Bench" in problem
        for problem in check_data(
            data, load_config("train", ["trainer=grpo"], allow_missing=True), headers=True
        ).problems
    )
    with pytest.raises(DataError, match="is in VSI-Bench"):
        list(find_source(data, "train", "rows", None, False).items())
    recorded = training_manifest([row], {}, [], base=data, allow_leak=True)
    assert recorded.verdict() == "leak" and len(recorded.leaked_rooms()) == 1
    assert check_rows([row]) == "clean"  # nobody looked at files


def test_links_to_other_files_of_the_folder_are_fine(tmp_path):
    (tmp_path / "data" / "store").mkdir(parents=True)
    (tmp_path / "data" / "store" / "a.mp4").write_bytes(b"x")
    (tmp_path / "data" / "videos").symlink_to("store")
    write_rows(tmp_path / "data" / "train.jsonl", [make()])
    assert read_checked_rows(tmp_path / "data" / "train.jsonl")[1] == "clean"


@pytest.mark.parametrize("way", ["name", "link"])
def test_the_folder_and_the_file_of_rows_may_name_the_room(tmp_path, way):
    """A folder for each room, with names inside that say nothing more, is how many keep their recordings."""
    folder, given = tmp_path / "Validation" / "41069025" / "mine", tmp_path / "data"
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", [make(dataset="mine", scene="kitchen", room="kitchen")])
    (folder / "a.mp4").write_bytes(b"x")
    (tmp_path / "scene0025_00.json").write_text(json.dumps([{**CLEAN, "video": "b.mp4"}]))
    (tmp_path / "b.mp4").write_bytes(b"x")
    if way == "link":
        given.symlink_to(folder)
    else:
        given = folder
    with pytest.raises(DataError, match=r"room arkitscenes/381658 is in VSI-Bench \(1 of 1 row\), named by"):
        read_checked_rows(given / "train.jsonl")
    (given / "rows.json").write_text(json.dumps([{**CLEAN, "video": "a.mp4"}]))
    for file in (given / "rows.json", tmp_path / "scene0025_00.json"):
        with pytest.raises(DataError, match="its room is in VSI-Bench"):
            import_data(ImportSettings((file,), tmp_path / "out"))


@pytest.mark.integration
def test_a_mix_is_checked_in_each_of_its_folders(tmp_path, capsys):
    for name, row in (("a", make()), ("b", make(dataset="x", scene="a", room="a", path="arkitscenes/41069025.mp4"))):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "train.jsonl", [row])
    words = ["trainer=sft", "model=tiny", f"data={tmp_path / 'a'}", f"output={tmp_path / 'run'}"]
    mixed = f"data.mix=[{{path: {tmp_path / 'b'}, weight: 1.0}}]"
    with pytest.raises(DataError, match=r"b/train.jsonl: scene_name=a: room arkitscenes/381658"):
        load_rows(load_config("train", [*words, mixed]))
    assert run(["train", "sft", "model=tiny", f"data={tmp_path / 'b'}", f"output={tmp_path / 'run'}"]) == 2
    assert "room arkitscenes/381658 is in VSI-Bench (1 of 1 row)" in capsys.readouterr().err


def test_unknown_rows_are_counted_and_named():
    text = judge_rows([make(), make(dataset="mine", scene="kitchen", room="kitchen")]).unknown_text()
    assert text is not None and text.startswith("1 of 2 rows") and "dataset mine" in text and "kitchen" in text
    assert judge_rows([make()]).unknown_text() is None


def test_import_leaves_out_counts_and_names(tmp_path):
    (tmp_path / "mp4").mkdir()
    (tmp_path / "mp4" / "bench").mkdir()
    (tmp_path / "mp4" / "bench" / "41069025.mp4").write_bytes(b"x")
    (tmp_path / "mp4" / "scene0001_00.mp4").symlink_to("bench/41069025.mp4")
    (tmp_path / "mp4" / "scene0000_00.mp4").write_bytes(b"x")
    (tmp_path / "mp4" / "09c1414f1b").mkdir()
    (tmp_path / "mp4" / "09c1414f1b" / "scene0002_00.mp4").write_bytes(b"x")
    (tmp_path / "mp4" / "scannet").symlink_to("09c1414f1b")
    rows = [
        CLEAN,
        {**CLEAN, "video": "scannet/scene0001_00.mp4"},  # a link to a benchmark's video
        {**CLEAN, "video": "scannet/scene0002_00.mp4"},  # a link to a folder of a benchmark's room
        {**CLEAN, "scene_name": "my_room", "scan_id": "scene0025_00"},  # in a column that the row does not keep
        {**CLEAN, "note": "shot in scene 0046"},
        {"video": "3864514494.mp4"},  # no question: the room decides first
        {**CLEAN, "dataset": "ScanNet", "scene_name": "0050", "video": None},  # said by two columns together
        {**CLEAN, "dataset": "ARKitScenes", "scene_name": 381658, "video": None},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    summary = import_data(ImportSettings((tmp_path / "rows.json",), tmp_path / "out", videos=tmp_path / "mp4"))
    assert summary.left_out == {"its room is in VSI-Bench": 7}
    assert "refused 7  its room is in VSI-Bench" in summary.table()
    manifest = read_manifest(tmp_path / "out")
    rooms = ["arkitscenes/381658", "scannetpp/09c1414f1b", "scannetpp/3864514494", "scene0025", "scene0046"]
    rooms += ["scene0050"]
    assert manifest.counts["denied_rooms"] == rooms
    assert "arkitscenes/381658" in summary.table() and any("arkitscenes/381658" in note for note in manifest.notes)
    assert [row.scene_name for row in read_rows(tmp_path / "out" / "train.jsonl")] == ["scene0000_00"]


def test_image_questions_go_through_the_guard(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    (tmp_path / "images" / "b.png").symlink_to("scene0025_00.png")
    (tmp_path / "images" / "scene0025_00.png").write_bytes(b"x")
    good = {"problem": "What is it?", "answer": "1", "images": ["a.png"], "id": "a"}
    bad = [{**good, "id": "b", "images": ["b.png"]}, {**good, "id": "c", "source": "arkitscenes/41069025"}]
    (tmp_path / "rows.json").write_text(json.dumps([good, *bad]))
    summary = import_images(
        ImportSettings((tmp_path / "rows.json",), tmp_path / "out", format="images", dev_fraction=0.0)
    )
    assert summary.left_out == {"its room is in VSI-Bench": 2} and summary.counts["train"] == 1
    assert read_manifest(tmp_path / "out").counts["denied_rooms"] == ["arkitscenes/381658", "scene0025"]


@pytest.mark.integration
@pytest.mark.skipif(not DEV.is_file(), reason="needs the half of VSI-Bench beside the repository")
@pytest.mark.parametrize("form", ["official", "path"])
def test_no_row_of_the_benchmark_is_imported(tmp_path, form):
    rows = [json.loads(line) for line in DEV.read_text(encoding="utf-8").splitlines()]
    if form == "path":
        keep = ("question_type", "question", "ground_truth", "options")
        path = "./{dataset}/{scene_name}.mp4"
        rows = [{**{name: row[name] for name in keep}, "path": path.format(**row)} for row in rows]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"2443 of 2443 rows: its room is in VSI-Bench\); 130 rooms"):
        import_data(ImportSettings((tmp_path / "all.json",), tmp_path / "none"))
    (tmp_path / "mixed.json").write_text(json.dumps([*rows, CLEAN]))
    summary = import_data(ImportSettings((tmp_path / "mixed.json",), tmp_path / "out"))
    assert summary.left_out == {"its room is in VSI-Bench": 2443}
    assert len(read_rows(tmp_path / "out" / "train.jsonl")) == 1
