"""ARKitScenes: boxes, labels, floor, rooms and splits of scans whose geometry is known."""

import json

import numpy as np
import pytest
from arkit_room import FLOOR, ROOM_ID, THINGS, ArkitRoot, annotation, box, room_mesh

from vsgrpo.data.scan_files import ScanFiles
from vsgrpo.errors import DataError
from vsgrpo.scans.arkitscenes import ARKITSCENES, list_scans, read_scan, room_of, split_of
from vsgrpo.scans.boxed import BoxedObjects
from vsgrpo.scans.ply import ply_bytes
from vsgrpo.scans.source import Mesh, SceneSettings
from vsgrpo.spatial.scene import SceneObject
from vsgrpo.tables import arkitscenes_classes, categorize_arkitscenes

BENCHMARK = SceneSettings(categories="benchmark")


def scene_of(root, settings=BENCHMARK):
    return read_scan(root, ROOM_ID).scene(settings)


def test_boxes_are_the_annotators_with_rows_as_axes_and_heights_along_z(tmp_path):
    ArkitRoot(tmp_path).write()
    scene = scene_of(tmp_path)
    assert (scene.dataset, scene.scene_name, scene.room) == ("arkitscenes", ROOM_ID, "379876")
    # The benchmark drops the cabinet and calls the "tv monitor" tv.
    assert scene.object_counts == {"bed": 1, "chair": 2, "sofa": 1, "tv": 1}
    for item in scene.objects:
        label, wanted, _ = THINGS[item.instance_id]
        assert item.raw_label == label
        np.testing.assert_allclose(item.box.corners(), wanted.corners(), atol=1e-5)
    sofa = scene.of_category("sofa")[0]
    # 1.2 x 0.6 x 0.5 m, tilted by 8 degrees about its long edge: 0.6 sin 8 + 0.5 cos 8 = 0.0835 + 0.4951 = 0.5786 m.
    assert sofa.box.max[2] - sofa.box.min[2] == pytest.approx(0.5786, abs=1e-4)
    upright = scene_of(tmp_path, SceneSettings(categories="benchmark", box="aabb")).of_category("sofa")[0].box
    np.testing.assert_allclose([upright.min, upright.max], [sofa.box.min, sofa.box.max], atol=1e-9)
    assert scene.extra["dropped"] == {"not_in_benchmark": {"cabinet": 1}}
    assert {"cabinet", "tv", "tv monitor", "couch", "bed"} <= set(scene.extra["names"])


def test_floor_is_found_where_it_is_and_the_room_is_as_large_as_it_is(tmp_path):
    ArkitRoot(tmp_path).write()
    scene = scene_of(tmp_path)
    assert scene.extra["floor_height"] == pytest.approx(FLOOR, abs=0.03)
    assert scene.room_size == pytest.approx(20.0, abs=0.5)  # 5 x 4 m
    np.testing.assert_allclose(scene.room_center, [2.5, 2.0, 0.0], atol=1e-5)


def test_room_size_does_not_depend_on_where_the_vertices_are(tmp_path):
    # Nine tenths of the vertices in a finely tessellated box: drawn by vertex, the floor would have 300 points.
    folder = ArkitRoot(tmp_path).write()
    fine = room_mesh([("bed", box((2.5, 2.0, 0.5), (1, 1, 1)), (0, 0, 0))], step=0.5)
    crowd = np.random.default_rng(0).normal([2.5, 2, 0], 0.1, (20_000, 3)).astype(np.float32)
    vertices = np.concatenate([fine.vertices, crowd])
    colors = np.zeros((len(vertices), 3), np.uint8)
    (folder / f"{ROOM_ID}_3dod_mesh.ply").write_bytes(ply_bytes(Mesh(vertices, colors, fine.faces)))
    assert scene_of(tmp_path).room_size == pytest.approx(20.0, abs=0.5)


@pytest.mark.parametrize(
    ("label", "raw", "benchmark"),
    [
        ("tv monitor", "tv", "tv"),
        ("TV-monitor", "tv", "tv"),
        ("tv/monitor", "tv", "tv"),
        ("sofa", "couch", "sofa"),  # the names of VSI-100k and of the benchmark
        ("oven", "oven", None),
        ("washer", "washer", "washer"),
        ("guitar", None, None),
    ],
)
def test_labels_by_table(label, raw, benchmark):
    assert categorize_arkitscenes(label, "raw").name == raw
    assert categorize_arkitscenes(label, "benchmark").name == benchmark


def test_seventeen_classes_are_exhaustive_and_the_benchmark_keeps_thirteen():
    classes = arkitscenes_classes()
    assert len(classes) == 17
    dropped = {name for name, category in classes.values() if category is None}
    assert dropped == {"sink", "shelf", "oven", "cabinet"}
    assert ARKITSCENES.complete is not None and len(ARKITSCENES.complete) == 17
    assert {"tv", "fireplace", "stool"} <= set(ARKITSCENES.complete)


# --- which vertex belongs to which box ---


def test_faces_belong_to_the_smallest_box_that_holds_them_and_the_floor_to_none(tmp_path):
    ArkitRoot(tmp_path).write()
    scan = read_scan(tmp_path, ROOM_ID)
    owner, vertices = scan.instance_of_vertex(), scan.mesh.vertices
    # Vertices of each thing as they were made: floor, ceiling and walls first, then things in order.
    pieces = [len(room_mesh(THINGS[:number]).vertices) for number in range(len(THINGS) + 1)]
    assert (owner[: pieces[0]][vertices[: pieces[0], 2] < FLOOR + 0.03] == -1).all()
    for number in range(len(THINGS)):
        own = slice(pieces[number], pieces[number + 1])
        high = vertices[own, 2] > FLOOR + 0.12  # a face that goes on below the cut belongs to nobody
        assert (owner[own][high] == number).all(), THINGS[number][0]


def test_points_are_tested_against_grown_boxes_above_the_floor():
    big = SceneObject(5, "bed", box((0, 0, 0.5), (2, 2, 1)), box((0, 0, 0.5), (2, 2, 1)))
    small = SceneObject(3, "tv", box((0, 0, 0.9), (0.4, 0.4, 0.2), yaw=45), box((0, 0, 0.9), (0.4, 0.4, 0.2)))
    boxed = BoxedObjects([big, small], FLOOR)
    points = np.add(
        [
            (1.019, 0, 0.5),  # 19 mm outside of the bed
            (1.021, 0, 0.5),
            (0, 0, 0.031),  # 31 mm above the floor
            (0, 0, 0.029),
            (0, 0, 0.9),  # in both: the smaller one
            (0.3, 0, 0.9),  # the small box is turned by 45 degrees: its corner is at 0.283, grown 0.311
            (0.32, 0, 0.9),
        ],
        (0, 0, FLOOR),
    )
    assert boxed.owners(points).tolist() == [5, -1, 5, -1, 3, 3, 5]
    assert boxed.owners(np.zeros((0, 3))).tolist() == []


# --- layouts, folds, rooms ---


def test_both_layouts_give_the_same_scan_and_a_video_of_both_is_one(tmp_path):
    ArkitRoot(tmp_path / "a", "3dod").write()
    ArkitRoot(tmp_path / "b", "raw").write()
    ArkitRoot(tmp_path / "b", "3dod").write()
    assert list_scans(tmp_path / "a") == list_scans(tmp_path / "b") == [ROOM_ID]
    first, second = scene_of(tmp_path / "a"), scene_of(tmp_path / "b")
    assert first.object_counts == second.object_counts and first.room_size == second.room_size
    # raw without its mesh: that of 3dod is taken
    (tmp_path / "b" / "raw" / "Training" / ROOM_ID / f"{ROOM_ID}_3dod_mesh.ply").unlink()
    assert scene_of(tmp_path / "b").room_size == second.room_size


def test_rooms_are_visits_and_splits_are_folds(tmp_path):
    root = ArkitRoot(tmp_path)
    root.metadata(
        **{
            "40958767": {"visit_id": "1", "fold": "Validation"},  # the publisher's list goes first
            "49999999": {"visit_id": "500001", "fold": "Validation"},
            "49999998": {"visit_id": "NA", "fold": "Training"},
        }
    )
    assert (room_of(tmp_path, "40958767"), split_of(tmp_path, "40958767")) == ("379876", "train")
    assert (room_of(tmp_path, "49999999"), split_of(tmp_path, "49999999")) == ("500001", "val")
    assert (room_of(tmp_path, "49999998"), split_of(tmp_path, "49999998")) == ("49999998", "train")
    assert room_of(tmp_path, "41045408") == "41045408"  # Training, visit NA: a room of its own
    root.write("48888888", "Validation")
    assert split_of(tmp_path, "48888888") == "val"  # in no list: the folder


# --- defects ---


def test_skipped_and_empty_annotations_have_no_objects_and_say_so(tmp_path):
    root = ArkitRoot(tmp_path)
    folder = root.write(notes={"skipped": True, "comment": "mesh is broken"})
    path = folder / f"{ROOM_ID}_3dod_annotation.json"
    scan = read_scan(tmp_path, ROOM_ID)
    scene = scan.scene(BENCHMARK)
    assert not scene.objects and scene.warnings["annotation_skipped"] == 1 and scene.extra["names"] == []
    assert scan.notes == ["the annotators skipped this video: 'mesh is broken': it has no objects"]
    assert scene.room_size is not None
    path.write_text(json.dumps(annotation([])))
    scene = scene_of(tmp_path)
    assert not scene.objects and scene.warnings["annotation_empty"] == 1


def test_entries_that_are_no_boxes_are_counted_and_left_out(tmp_path):
    folder = ArkitRoot(tmp_path).write()
    document = annotation()
    data = document["data"]
    del data[0]["segments"]["obbAligned"]
    data[1]["segments"]["obbAligned"]["centroid"] = [0, 0, float("nan")]
    data[2]["segments"]["obbAligned"]["normalizedAxes"] = [1, 0, 0, 1, 0, 0, 0, 0, 1]
    data.append(
        {"label": "bed", "segments": {"obbAligned": {**data[5]["segments"]["obbAligned"], "centroid": [10**400, 0, 0]}}}
    )
    data.append({**data[5], "label": "copy"})  # the uid again
    data.append({**annotation([THINGS[0]])["data"][0], "uid": "other", "label": "grand piano"})
    (folder / f"{ROOM_ID}_3dod_annotation.json").write_text(json.dumps(document))
    scene = scene_of(tmp_path)
    assert scene.warnings["broken_boxes"] == 4 and scene.warnings["duplicate_uids"] == 1
    assert scene.extra["dropped"]["unknown_label"] == {"grand piano": 1}
    assert {"grand piano", "bed"} <= {*scene.extra["names"]}  # no room without a bed: its box alone is not known
    assert scene.object_counts == {"sofa": 1, "tv": 1}


def test_the_guard_sees_folders_of_pictures_that_are_links(tmp_path):
    folder = ArkitRoot(tmp_path).write()
    shown = tmp_path / "elsewhere/41159525/lowres_depth"  # a video of the benchmark
    shown.mkdir(parents=True)
    frames = folder / f"{ROOM_ID}_frames"
    frames.mkdir()
    files = ARKITSCENES.files_of(tmp_path, ROOM_ID)
    assert not ScanFiles("arkitscenes").look(tmp_path, files).denied()
    (frames / "lowres_depth").symlink_to(shown)
    (leak,) = ScanFiles("arkitscenes").look(tmp_path, files).denied()
    assert leak.room == "arkitscenes/381879"


def test_what_cannot_be_read_is_named(tmp_path):
    folder = ArkitRoot(tmp_path).write()
    path = folder / f"{ROOM_ID}_3dod_annotation.json"
    whole = path.read_text()
    path.write_text(whole[:500])
    with pytest.raises(DataError, match="truncated JSON"):
        read_scan(tmp_path, ROOM_ID)
    path.write_text('{"skipped": false}')
    with pytest.raises(DataError, match="no list `data`"):
        read_scan(tmp_path, ROOM_ID)
    path.unlink()
    with pytest.raises(DataError, match=f"lacks {ROOM_ID}_3dod_annotation.json"):
        read_scan(tmp_path, ROOM_ID)
    path.write_text(whole)
    (folder / f"{ROOM_ID}_3dod_mesh.ply").unlink()
    with pytest.raises(DataError, match=f"lacks {ROOM_ID}_3dod_mesh.ply"):
        read_scan(tmp_path, ROOM_ID)


def test_a_wrong_root_says_where_the_right_one_is(tmp_path):
    ArkitRoot(tmp_path).write()
    with pytest.raises(DataError) as error:
        list_scans(tmp_path / "3dod")
    assert f"source.root={tmp_path}" in error.value.hint
    (tmp_path / "3dod" / "Training" / ROOM_ID).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="holds no video"):
        list_scans(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        list_scans(tmp_path / "nowhere")
