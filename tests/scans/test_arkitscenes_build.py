"""build-data from ARKitScenes, by each form of video: rows, rooms, splits, and what becomes of defects."""

import json

import pytest
from arkit_room import ROOM_ID, ArkitRoot, Recorded, walk_cameras

from vsgrpo.cli import main
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.video.reader import probe

pytestmark = pytest.mark.integration

TURNED, LEAK, NO_VISIT, SAFE = "41007548", "41159526", "41045408", "42899688"
"""Training; Training, but of a benchmark room's visit; Training, visit NA; Validation, of no benchmark room."""
NO_MESH, SKIPPED, NO_TRAJ = "41007581", "41007589", "41007602"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arkitscenes")
    made = ArkitRoot(folder)

    def add(video, fold="Training", turns=0, **options):
        place = made.write(video, fold, step=0.25, **options)
        cameras = walk_cameras(8, turns)
        made.record(place, Recorded(cameras, [50 + 0.1 * k for k in range(len(cameras))], turns))
        return place

    for video, fold, turns in ((ROOM_ID, "Training", 0), (TURNED, "Training", 1), (LEAK, "Training", 0)):
        add(video, fold, turns)
    add(NO_VISIT, turns=3)
    add(SAFE, "Validation")
    add(SKIPPED, notes={"skipped": True})
    (add(NO_MESH) / f"{NO_MESH}_3dod_mesh.ply").unlink()
    (add(NO_TRAJ) / f"{NO_TRAJ}_frames" / "lowres_wide.traj").unlink()
    made.metadata(**{NO_VISIT: {"visit_id": "NA", "fold": "Training", "sky_direction": "Up"}})
    return folder


def build(root, out, *given):
    common = [f"source.root={root}", f"output={out}", "build.num_workers=1", "build.max_skipped=0.5"]
    walk = ["video.walk_frames=5", "video.walk_width=112", "video.walk_height=84", "video.budgets=[4]"]
    with pytest.raises(SystemExit) as done:
        main(["build-data", "source=arkitscenes", "data.mode=vsibench", *common, *walk, *given])
    assert done.value.code == 0
    return json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize("video", ["recorded", "mesh", "none"])
def test_rows_rooms_and_defects_of_a_build(root, tmp_path, video):
    out = tmp_path / video
    manifest = build(root, out, f"video.source={video}")
    rows, verdict = read_checked_rows(out / "train.jsonl")
    assert verdict == "unknown"  # the video without a visit: nobody says which room it shows
    rooms = {row.scene_name: row.room for row in rows}
    built = {ROOM_ID: "379876", TURNED: "379881", NO_VISIT: NO_VISIT, SKIPPED: "380030"}
    assert rooms == built | ({} if video == "recorded" else {NO_TRAJ: "380024"})
    assert {row.dataset for row in rows} == {"arkitscenes"} and {row.split for row in rows} == {"train"}
    # The room is 5 x 4 m; a skipped annotation leaves nothing else to ask about.
    assert {row.answer for row in rows if row.question_type == "room_size_estimation"} <= {"19.9", "20.0"}
    assert {row.question_type for row in rows if row.scene_name == SKIPPED} == {"room_size_estimation"}
    # 1.2 m is the sofa's longest edge, which is tilted.
    sizes = {row.objects[0]["category"]: row.answer for row in rows if row.question_type == "object_size_estimation"}
    assert sizes == {"bed": "200", "sofa": "120", "tv": "90"}
    refused = manifest["counts"]["refused"]
    assert sorted(refused.values()) == [1, 1] and any("arkitscenes/381879" in reason for reason in refused)
    skipped = {name for name, scan in manifest["scans"].items() if scan["status"] == "skipped"}
    assert skipped == ({NO_MESH, NO_TRAJ} if video == "recorded" else {NO_MESH})
    wanted = {"annotation_skipped": 1} | ({"sky_direction_differs": 1} if video == "recorded" else {})
    found = manifest["counts"]["warnings"]
    assert {name: found[name] for name in wanted} == wanted
    if video == "recorded":
        header = probe(out / "videos" / "arkitscenes" / f"{TURNED}.mp4")
        assert (header.num_frames, header.width, header.height, header.fps) == (8, 96, 128, 10)


def test_validation_videos_of_other_rooms_are_val_safe(root, tmp_path):
    build(root, tmp_path / "val", "data.split=val_safe", "video.source=none")
    rows, _ = read_checked_rows(tmp_path / "val" / "train.jsonl", allow_val_safe=True)
    assert {(row.scene_name, row.split, row.room) for row in rows} == {(SAFE, "val_safe", "435371")}
