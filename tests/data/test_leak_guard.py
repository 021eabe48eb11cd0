import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.data.inputs import media_files
from vsgrpo.data.leak_guard import check_rows, check_scan, read_checked_rows
from vsgrpo.data.lineage import continued, lineage_of
from vsgrpo.data.manifest import (
    TRAINING_MANIFEST_NAME,
    TrainingManifest,
    read_training_manifest,
    training_manifest,
    write_training_manifest,
)
from vsgrpo.data.room_ids import find_rooms, room_of
from vsgrpo.data.row import Row
from vsgrpo.data.rows import split_dev, write_rows
from vsgrpo.errors import DataError
from vsgrpo.tables import denied_rooms, denied_scenes, split_ids


def make(dataset="scannet", scene="scene0000_00", room="scene0000", split="train", path="videos/a.mp4", row_id="x"):
    return Row(
        schema_version=1,
        id=row_id,
        dataset=dataset,
        split=split,
        scene_name=scene,
        room=room,
        question_type="object_counting",
        question="How many chair(s) are in this room?",
        options=None,
        ground_truth="2",
        answer="2",
        answer_kind="number",
        unit=None,
        media=({"kind": "video", "path": path},),
        rejected=None,
        reasoning=None,
        objects=(),
        generator={},
        extra={},
    )


@pytest.mark.parametrize(
    "row",
    [
        make(scene="scene0025_00", room="scene0025"),
        make(scene="scene0025_00", room="scene0025", split="val_safe"),
        make(scene="scene0025_01", room="scene0025"),  # a sibling scan that the benchmark does not show
        make(scene="SCENE0025_00", room="my_room"),
        make(scene="room_a", room="scene0025"),
        make(dataset="spacer", scene="q17", room="q17", path="videos/ScanNet/scene0025_00.mp4"),
        make(dataset="demo", scene="demo000000_00", room="demo000000", path="videos/scene0025_00/color.mp4"),
    ],
)
def test_a_benchmark_room_is_refused_under_any_label(row):
    with pytest.raises(DataError, match=r"room scene0025 is in VSI-Bench \(1 of 2 rows\)"):
        check_rows([make(), row], allow_val_safe=True, where="train.jsonl")
    assert check_rows([make(), row], allow_val_safe=True, allow_leak=True) == "leak"


@pytest.mark.parametrize(
    ("dataset", "scene"),
    [
        ("arkitscenes", "41159521"),  # Training, but of the visit that a benchmark video shows
        ("arkitscenes", "41159526"),
        ("arkitscenes", "41159525"),  # that video
        ("scannetpp", "3e8bba0176"),
    ],
)
def test_rooms_of_the_other_data_sets_are_refused(dataset, scene):
    row = make(dataset=dataset, scene=scene, room=room_of(scene))
    assert check_rows([row], allow_leak=True) == "leak"
    with pytest.raises(DataError, match="is in VSI-Bench"):
        check_rows([row])
    assert check_scan(scene, dataset) is not None


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (make(), "clean"),
        (make(scene="scene0707_00", room="scene0707"), "clean"),  # test split: another room
        (make(dataset="demo", scene="demo000025_00", room="demo000025"), "clean"),
        (make(dataset="vlm3r", scene="x", room="x", path="scannet/scene0000_00.mp4"), "clean"),
        (make(scene="scene9999_00", room="scene9999"), "unknown"),
        (make(scene="my_scan", room="my_scan"), "unknown"),
        (make(dataset="arkitscenes", scene="40777060", room="40777060"), "clean"),  # another visit
        (make(dataset="arkitscenes", scene="40753679", room="40753679"), "unknown"),  # its visit is not published
        (make(dataset="ScanNet++", scene="0a5c013435", room="x"), "clean"),
        (make(dataset="imported", scene="0a5c013435", room="x"), "unknown"),  # ten hex digits of who knows what
        (make(dataset="demo", scene="kitchen", room="kitchen"), "unknown"),
    ],
)
def test_verdict_of_rows_that_are_not_refused(row, verdict):
    assert check_rows([row]) == verdict


def test_val_scans_of_safe_rooms_need_the_flag():
    scan = next(scan for scan in split_ids("val") if ("scannet", room_of(scan)) not in denied_rooms())
    row = make(scene=scan, room=room_of(scan))
    with pytest.raises(DataError, match="a val scan"):
        check_rows([row])
    assert check_rows([row], allow_val_safe=True) == "clean"


def test_validation_videos_of_arkitscenes_are_held_out_too():
    row = make(dataset="arkitscenes", scene="42899688", room="435371")  # Validation, of a room that is in no benchmark
    with pytest.raises(DataError, match=r"scene_name=42899688: a val scan \(1 of 1 row\)"):
        check_rows([row])
    assert check_rows([row], allow_val_safe=True) == "clean"
    assert check_rows([make(dataset="arkitscenes", scene="40958767", room="379876")]) == "clean"  # Training


def test_split_lists_and_deny_rooms_agree_with_the_published_counts():
    # 1,201 train scans are all safe; of 312 val scans 207 show benchmark rooms, 105 do not.
    assert all(check_scan(scan, "scannet") is None for scan in split_ids("train"))
    reasons = [check_scan(scan, "scannet", allow_val_safe=True) for scan in split_ids("val")]
    assert (len(reasons), reasons.count(None)) == (312, 105)


def test_check_scan_speaks_of_scannet_only():
    assert check_scan("demo000025_00", "demo") is None
    assert "no ScanNet scan id" in str(check_scan("my_scan", "scannet"))
    assert "VSI-Bench" in str(check_scan("scene0025_01", "scannet"))


def test_every_scene_of_nvs_sem_val_is_refused_and_others_are_not():
    denied = [scene for dataset, scene in denied_scenes() if dataset == "scannetpp"]
    assert len(denied) == 50
    assert all("VSI-Bench" in str(check_scan(scene, "scannetpp")) for scene in denied)
    assert check_scan("0a1b2c3d4e", "scannetpp") is None
    assert check_scan("my_scan", "scannetpp") == "my_scan is no ScanNet++ scan id"


def test_a_scan_is_refused_for_the_room_that_its_source_names():
    assert check_scan("99999999", "arkitscenes", room="381658") == "room arkitscenes/381658 is in VSI-Bench"
    assert check_scan("99999999", "arkitscenes", room="999999") is None


def test_reading_rows_goes_through_the_guard(tmp_path):
    path = tmp_path / "train.jsonl"
    write_rows(path, [make(scene="scene0046_00", room="scene0046")])
    with pytest.raises(DataError, match=r"train.jsonl: scene_name=scene0046_00"):
        read_checked_rows(path)
    rows, verdict = read_checked_rows(path, allow_leak=True)
    assert (len(rows), verdict) == (1, "leak")


def test_rooms_of_scene_names():
    assert room_of("scene0000_00") == "scene0000"
    assert room_of("demo123456_00") == "demo123456"
    assert room_of("41159525") == "381879"  # an ARKitScenes video: its visit
    assert room_of("40753679") == "40753679"  # no visit is published
    assert room_of("09c1414f1b") == "09c1414f1b"


@given(st.sets(st.integers(0, 9999), max_size=40), st.floats(0, 0.99))
def test_dev_split_never_empties_train_and_rooms_keep_their_side(numbers, fraction):
    rooms = {f"scene{number:04d}" for number in numbers}
    split = split_dev(rooms, fraction)
    assert split.dev_rooms < rooms or not rooms
    assert split.dev_rooms or split.note or fraction == 0
    larger = split_dev(rooms | {"scene10000", "scene10001"}, fraction)
    if len(split.dev_rooms) < len(rooms) - 1:
        assert split.dev_rooms == larger.dev_rooms & rooms


def test_dev_split_of_one_room_is_empty_and_says_so():
    split = split_dev(["scene0000", "scene0000"], 0.5)
    assert not split.dev_rooms
    assert split.note == "dev is empty: 1 room, a dev split needs at least 2"
    with pytest.raises(ValueError, match="dev_fraction"):
        split_dev(["a", "b"], 1.0)


def test_training_manifest_survives_a_chain_of_models(tmp_path):
    sft = training_manifest([make()], {"train.jsonl": "ab"}, [lineage_of("tiny")], name="sft")
    write_training_manifest(tmp_path / "sft", sft)
    assert read_training_manifest(tmp_path / "sft") == sft
    grpo = training_manifest(
        [make(dataset="demo", scene="demo000001_00", room="demo000001")], {}, [lineage_of(str(tmp_path / "sft"))]
    )
    assert grpo.all_rooms() == {"demo": {"demo000001"}, "scannet": {"scene0000"}}
    assert grpo.verdict() == "clean"


def test_a_leak_of_an_ancestor_is_a_leak_of_the_model():
    bad = training_manifest(
        [make(scene="scene0025_00", room="scene0025")], {}, [], allow_val_safe=True, allow_leak=True
    )
    assert (bad.verdict(), bad.leaked_rooms()) == ("leak", ["scene0025"])
    child = training_manifest([make()], {}, [bad])
    assert (child.verdict(), child.leaked_rooms()) == ("leak", ["scene0025"])
    # A scene that only a path names is recorded as its room.
    hidden = make(dataset="spacer", scene="q", room="q", path="scene0025_00.mp4")
    assert training_manifest([hidden], {}, [], allow_val_safe=True, allow_leak=True).verdict() == "leak"


def test_lineage_of_models_we_know_nothing_about(tmp_path):
    assert lineage_of("tiny").verdict() == "clean"
    assert lineage_of("Qwen/Qwen2-VL-2B-Instruct").verdict() == "clean"
    assert lineage_of("Qwen/Qwen2.5-VL-7B-Instruct").verdict() == "clean"
    assert lineage_of("somebody/Qwen2-VL-2B-Instruct").verdict() == "unknown"
    assert lineage_of(str(tmp_path)).verdict() == "unknown"
    assert training_manifest([make()], {}, [lineage_of(str(tmp_path))]).verdict() == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"schema_version": 2}',
        '{"schema_version": 1, "rooms": 3}',
        '{"schema_version": 1, "parents": [1]}',
        '{"schema_version": 1, "parents": [], "rooms": {"scannet": "scene0025"}}',
    ],
)
def test_a_broken_training_manifest_is_a_data_error(tmp_path, text):
    (tmp_path / TRAINING_MANIFEST_NAME).write_text(text)
    with pytest.raises(DataError, match=TRAINING_MANIFEST_NAME):
        lineage_of(str(tmp_path))


def saved(folder, *rooms, **record):
    """Write a model folder with the record of rooms of ScanNet."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    write_training_manifest(folder, TrainingManifest({"scannet": list(rooms)}, **{"name": folder.name, **record}))
    return folder


def test_weights_that_are_links_have_the_lineage_of_the_model_they_lead_to(tmp_path):
    mine, other = saved(tmp_path / "mine", "scene0000"), saved(tmp_path / "other", "scene0300")
    (mine / "model.safetensors").unlink()
    (mine / "model.safetensors").symlink_to("../other/model.safetensors")
    assert lineage_of(str(mine)).known_rooms() == {("scannet", "scene0000"), ("scannet", "scene0300")}
    (mine / "training_manifest.json").unlink()
    assert lineage_of(str(mine)).verdict() == "unknown"  # its own record is gone
    saved(tmp_path / "bench", "scene0025")
    (mine / "model.safetensors").unlink()
    (mine / "model.safetensors").symlink_to(tmp_path / "bench" / "model.safetensors")
    assert lineage_of(str(mine)).verdict() == "leak"
    (other / "tokenizer.json").symlink_to(tmp_path / "bench" / "model.safetensors")  # no weights
    assert lineage_of(str(other)).verdict() == "clean"


def test_an_adapter_has_the_lineage_of_the_model_that_is_its_base_now(tmp_path):
    base, adapter = saved(tmp_path / "base", "scene0300"), saved(tmp_path / "adapter", "scene0000")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert lineage_of(str(adapter)).known_rooms() == {("scannet", "scene0000"), ("scannet", "scene0300")}
    (base / TRAINING_MANIFEST_NAME).unlink()
    assert lineage_of(str(adapter)).verdict() == "clean"  # an unknown base adds nothing to its own record


def test_a_run_that_goes_on_with_other_rows_keeps_the_rooms_of_the_first(tmp_path):
    base = TrainingManifest(base="published", name="base")
    first = TrainingManifest({"scannet": ["scene0300"]}, {"train.jsonl": "a"}, name="run", parents=[base])
    second = TrainingManifest({"scannet": ["scene0000"]}, {"train.jsonl": "b"}, name="run", parents=[base])
    assert continued(first, first) == first
    swapped = continued(second, first)
    assert swapped.known_rooms() == {("scannet", "scene0000"), ("scannet", "scene0300")}
    assert continued(second, swapped) == swapped  # resumed once more, with the rows of the second start
    assert continued(replace(second, name="renamed"), swapped).known_rooms() == swapped.known_rooms()


def test_training_manifest_is_readable_json(tmp_path):
    path = write_training_manifest(tmp_path, replace(TrainingManifest(), rooms={"demo": ["demo000000"]}))
    assert json.loads(path.read_text())["rooms"] == {"demo": ["demo000000"]}


def test_each_row_is_searched_for_rooms_once(monkeypatch):
    """A manifest of a million rows: the texts of a row are the long part of the search."""
    seen = []
    for module in ("leak_guard", "manifest"):
        search = f"vsgrpo.data.{module}.find_rooms"
        monkeypatch.setattr(search, lambda row, *links: (seen.append(row.id), find_rooms(row, *links))[1])
    rows = [make(row_id=str(number)) for number in range(3)]
    assert training_manifest(rows, {}, []).rooms == {"scannet": ["scene0000"]}
    assert seen == ["0", "1", "2"]


def test_a_file_that_many_rows_show_is_followed_once(monkeypatch, tmp_path):
    followed = []
    monkeypatch.setattr("vsgrpo.data.row.inside", lambda base, name: (followed.append(name), base / name)[1])
    rows = [make(row_id=str(number), path=f"videos/{number % 2}.mp4") for number in range(100)]
    places = [("video", tmp_path / "videos/0.mp4"), ("video", tmp_path / "videos/1.mp4")]
    assert media_files(rows, tmp_path) == places and followed == ["videos/0.mp4", "videos/1.mp4"]
