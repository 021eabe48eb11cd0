"""Scenes on disk: the official meta info and our own files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vsgrpo.errors import DataError
from vsgrpo.scans.meta_info import read_meta_info, read_scene_json, write_scene_json
from vsgrpo.spatial.scene import Box, Footage, Scene, SceneObject


def official_box(x: float) -> dict:
    # Row 0 of the axes points along y, so the 2 m edge lies along y: min = (x - .5, -1, -.25).
    axes = [0, 1, 0, -1, 0, 0, 0, 0, 1]
    return {"centroid": [x, 0, 0], "axesLengths": [2, 1, 0.5], "normalizedAxes": axes, "min": [], "max": []}


def official_scene(**changes) -> dict:
    boxes = {"printer": [official_box(0), official_box(0)], "table": [official_box(3)]}
    scene = {"dataset": "scannet", "room_size": 12.5, "room_center": [0, 0, 1], "object_bbox": boxes}
    return {**scene, "object_counts": {"printer": 1, "table": 7}, **changes}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_official_boxes_are_rows_and_doubled_ones_are_taken_once(tmp_path):
    (scene,) = read_meta_info(write(tmp_path / "m.json", {"scene0251_00": official_scene()}))
    assert (scene.scene_name, scene.room, scene.dataset, scene.room_size) == (
        "scene0251_00",
        "scene0251",
        "scannet",
        12.5,
    )
    assert [(o.instance_id, o.category) for o in scene.objects] == [(0, "printer"), (1, "table")]
    assert scene.object_counts == {"printer": 1, "table": 7}  # hand-edited counts stay
    assert scene.warnings == {"doubled_boxes": 1}
    np.testing.assert_allclose(scene.objects[0].box.min, [-0.5, -1, -0.25])
    assert [o.category for o in scene.unique_objects()] == ["printer"]  # one box, but seven tables were counted


def test_the_other_spelling_of_the_box_key_and_other_datasets_are_read(tmp_path):
    entry = official_scene(dataset="arkitscenes")
    entry["object_bboxes"] = entry.pop("object_bbox")
    (scene,) = read_meta_info(write(tmp_path / "m.json", {"41125731": entry}))
    assert scene.room == "41125731"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ({}, "no scenes"),
        ([], "no scenes"),
        ({"scene0251_00": []}, "scene0251_00"),
        ({"scene0251_00": {"dataset": "scannet"}}, "scene0251_00: key 'object_bboxes' is missing"),
        ({"scene0251_00": official_scene(room_center=[0, 0])}, "3 finite numbers"),
        ({"scene0251_00": official_scene(room_size=None)}, "scene0251_00"),
        ({"scene0251_00": official_scene(room_size=float("nan"))}, "1 finite numbers"),
        ({"scene0251_00": official_scene(room_center=[10**400, 0, 0])}, "scene0251_00"),
        ({"scene0251_00": official_scene(object_counts={"printer": float("inf")})}, "scene0251_00"),
    ],
)
def test_broken_meta_info_names_file_and_scene(tmp_path, content, message):
    path = write(tmp_path / "m.json", content)
    with pytest.raises(DataError) as caught:
        read_meta_info(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


def a_scene() -> Scene:
    rng = np.random.default_rng(0)

    def box() -> Box:
        return Box(rng.normal(size=3), rng.uniform(0.1, 2, 3), np.linalg.qr(rng.normal(size=(3, 3)))[0])

    chair, shared = box(), box()
    objects = (
        SceneObject(2, "chair", chair, box(), "office chair", 812),
        SceneObject(3, "table", shared, shared, "table", 99),
        SceneObject(7, "chair", box(), box(), "chair", 51),
    )
    pixels = {2: (0, 5, 300), 3: (1, 2, 3)}
    return Scene(
        "demo", "demo000000_00", "demo000000", objects, 12.25, rng.normal(size=3), {"chair": 2, "table": 1}, pixels,
        {"label_unknown": 2}, {"video_source": "mesh"},
    )  # fmt: skip


def test_a_scene_comes_back_bit_for_bit(tmp_path):
    scene = a_scene()
    path = tmp_path / "scenes/demo/demo000000_00.json"
    write_scene_json(scene, path)
    again = read_scene_json(path)
    for a, b in zip(scene.objects, again.objects, strict=True):
        assert (a.instance_id, a.category, a.raw_label, a.num_vertices) == (
            b.instance_id, b.category, b.raw_label, b.num_vertices
        )  # fmt: skip
        for x, y in ((a.box, b.box), (a.size_box, b.size_box)):
            for name in ("centroid", "axes_lengths", "axes"):
                np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
    np.testing.assert_array_equal(scene.room_center, again.room_center)
    for name in ("dataset", "scene_name", "room", "room_size", "object_counts", "pixels", "warnings", "extra"):
        assert getattr(scene, name) == getattr(again, name)
    assert [p.name for p in path.parent.iterdir()] == ["demo000000_00.json"]  # no temporary file left


def test_what_a_video_shows_comes_back_with_the_poses(tmp_path):
    poses = np.stack([np.eye(4), np.full((4, 4), np.nan)])
    poses[0, :3, 3] = 0.1, 1 / 3, 1.5
    given = {"budgets": {2: (0, 1)}, "areas": {2: 0.9}, "frames_shown": 2, "numbers": (1, 2), "has_clock": True}
    footage = Footage((0.0, 0.5), (0, 1), 150528, {2: (0, 300)}, poses=poses, **given)
    path = tmp_path / "s.json"
    write_scene_json(replace(a_scene(), footage=footage), path)
    again = read_scene_json(path).footage
    np.testing.assert_array_equal(again.poses, poses)
    assert replace(again, poses=None) == replace(footage, poses=None)
    content = json.loads(path.read_text())
    del content["footage"]  # as earlier versions wrote it
    path.write_text(json.dumps(content))
    assert read_scene_json(path).footage is None
    content["footage"] = {"times": [0.0]}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="key 'poses' is missing"):
        read_scene_json(path)


def test_our_file_carries_the_official_keys(tmp_path):
    path = tmp_path / "s.json"
    write_scene_json(replace(a_scene(), pixels=None, room_size=None), path)
    content = json.loads(path.read_text())
    assert content["schema_version"] == 1
    assert content["pixels"] is content["room_size"] is None
    assert content["video_path"] == "demo/demo000000_00.mp4"
    entry = content["object_bbox"]["chair"][0]
    assert set(entry) >= {"centroid", "axesLengths", "normalizedAxes", "min", "max", "instance_id"}
    assert "size_box" not in content["object_bbox"]["table"][0]
    assert read_scene_json(path).room_size is None


def test_broken_scene_files_are_named(tmp_path):
    path = tmp_path / "s.json"
    with pytest.raises(DataError, match="no such file"):
        read_scene_json(path)
    for content, message in (
        ('{"schema_version": 9}', "schema_version=9"),
        ('{"schema_version": 1}', "key 'object_bbox'"),
    ):
        with pytest.raises(DataError, match=message):
            read_scene_json(write(path, content))
