"""ScanNet++ scans of known geometry: boxes, both releases of segments, labels, lists, and every defect by name."""

import json

import numpy as np
import pytest
from furnished_room import FURNITURE, furnished_room
from scannetpp_room import SCAN_ID, box_of, groups_of, write_room, writer

from vsgrpo.errors import DataError
from vsgrpo.scans.decimate import decimate
from vsgrpo.scans.scannetpp import list_scans, read_scan, split_of
from vsgrpo.scans.source import Mesh, SceneSettings, find_source
from vsgrpo.spatial.scene import Box
from vsgrpo.tables import categorize_scannetpp, scannetpp_categories

BENCHMARK = SceneSettings(categories="benchmark")


def edit(path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edges(box: Box) -> np.ndarray:
    return np.sort(box.axes_lengths)


@pytest.mark.parametrize("segments", ["vertices", "real", "none"])
def test_boxes_of_both_releases_are_those_of_the_annotation(tmp_path, segments):
    write_room(tmp_path, segments=segments)
    scene = read_scan(tmp_path, SCAN_ID).scene(BENCHMARK)
    assert [item.category for item in scene.objects] == ["bed", "table", "bookshelf", "trash can", "chair"]
    for item, name in zip(scene.objects, FURNITURE, strict=True):
        truth = box_of(name)
        np.testing.assert_allclose(item.box.min, truth.min, atol=1e-5)
        np.testing.assert_allclose(item.box.max, truth.max, atol=1e-5)  # the height too, whichever row is up
        np.testing.assert_allclose(edges(item.box), edges(truth), atol=1e-5)
    assert (scene.dataset, scene.scene_name, scene.room) == ("scannetpp", SCAN_ID, SCAN_ID)
    assert scene.warnings == {
        "boxes_missing": 1,  # of the floor
        "dropped_not_in_benchmark": 1,
        **({"segments_missing": 1} if segments == "none" else {}),
    }
    assert abs(scene.room_size - 20) < 0.02 * 20  # 5 x 4 m


def test_rows_are_axes_in_both_orders_and_for_tilted_boxes(tmp_path):
    # Turned by 30 degrees about the vertical, then tilted by 20 about its own x: columns would be another box.
    a, b = np.radians([30.0, 20.0])
    turn = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    truth = Box(np.array([1.0, 2.0, 0.8]), np.array([1.2, 0.4, 0.7]), tilt @ turn)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 6)] * 3), axis=-1).reshape(-1, 3)
    points = (truth.centroid + (grid * truth.axes_lengths) @ truth.axes).astype(np.float32)
    mesh = Mesh(points, np.zeros((len(points), 3), np.uint8), np.arange(210, dtype=np.int32).reshape(-1, 3))
    own = np.arange(len(points))
    writer.write_scan(tmp_path, SCAN_ID, mesh, [(label, own, truth) for label in ("a", "b", "c", "d", "e")])
    first, *_, fifth = read_scan(tmp_path, SCAN_ID).groups  # row 1 up, and row 2 up
    for group, order in ((first, [1, 2, 0]), (fifth, [0, 1, 2])):
        assert group.box is not None
        np.testing.assert_allclose(group.box.axes_lengths, truth.axes_lengths[order], atol=1e-9)
        np.testing.assert_allclose((group.box.min, group.box.max), (truth.min, truth.max), atol=1e-9)
        local = np.abs((points - group.box.centroid) @ group.box.axes.T)
        assert (local <= group.box.axes_lengths / 2 + 1e-6).all()


@pytest.mark.parametrize("segments", ["vertices", "real"])
def test_a_vertex_of_two_groups_counts_for_both_and_shows_the_smaller(tmp_path, segments):
    mesh = furnished_room(0.05)
    groups = groups_of(mesh)
    bed = groups[0][1]
    blanket = bed[mesh.vertices[bed, 0] < 1.0]
    groups.insert(0, ("blanket", blanket, None))
    writer.write_scan(tmp_path, SCAN_ID, mesh, groups, segments=segments)
    scan = read_scan(tmp_path, SCAN_ID)
    scene = scan.scene(SceneSettings(categories="raw"))
    by_name = {item.category: item for item in scene.objects}
    assert by_name["bed"].num_vertices == len(bed) and by_name["blanket"].num_vertices == len(blanket)
    np.testing.assert_allclose(by_name["bed"].box.max, box_of("bed").max, atol=1e-5)
    np.testing.assert_allclose(by_name["blanket"].box.min, [0.1, 0.1, 0.0], atol=1e-4)  # fitted: it has no obb
    assert (scan.owner[blanket] == 1).all() and (scan.owner[np.setdiff1d(bed, blanket)] == 2).all()


def damage(document, key, value) -> None:
    document["segGroups"][1]["obb"][key] = value


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        (lambda d: d["segGroups"][1].pop("obb"), "boxes_missing"),
        (lambda d: damage(d, "normalizedAxes", [1.0, 0, 0, 1, 0, 0, 0, 0, 1]), "boxes_broken"),
        (lambda d: damage(d, "axesLengths", [1.0, None, 2]), "boxes_broken"),
        (lambda d: damage(d, "centroid", [10**400, 0, 0]), "boxes_broken"),  # JSON has no largest number
        (lambda d: damage(d, "centroid", [-9.0, 0, 0]), "boxes_elsewhere"),
    ],
)
def test_a_box_that_cannot_be_used_is_fitted_and_counted(tmp_path, change, counted):
    folder = write_room(tmp_path)
    edit(folder / "scans/segments_anno.json", change)
    scene = read_scan(tmp_path, SCAN_ID).scene(BENCHMARK)
    assert scene.warnings[counted] == (2 if counted == "boxes_missing" else 1)
    table = scene.of_category("table")[0]
    np.testing.assert_allclose((table.box.min, table.box.max), (box_of("table").min, box_of("table").max), atol=1e-4)


def test_repeated_groups_and_numbers_are_survived_and_counted(tmp_path):
    folder = write_room(tmp_path)

    def spoil(document):
        groups = document["segGroups"]
        groups.append(dict(groups[0], objectId=77))  # the bed again
        groups[2]["objectId"] = groups[1]["objectId"]
        groups[3]["segments"].append(10**7)  # on no vertex
        groups.append({"objectId": 78, "label": "cup", "segments": [], "id": 0})

    edit(folder / "scans/segments_anno.json", spoil)
    scan = read_scan(tmp_path, SCAN_ID)
    counted = ("duplicate_groups", "duplicate_object_ids", "missing_segments", "empty_instances")
    assert [scan.warnings[name] for name in counted] == [1, 1, 1, 1]
    ids = [group.instance_id for group in scan.groups]
    assert len(set(ids)) == len(ids) == 7
    scene = scan.scene(BENCHMARK)
    assert "cup" not in scene.object_counts and "cup" in scene.extra["names"]  # it is there, nobody knows where


def test_a_number_of_an_object_that_leaves_none_free_behind_it_is_refused(tmp_path):
    folder = write_room(tmp_path)

    def share_the_largest(document):
        for group in document["segGroups"][:2]:
            group["objectId"] = 2**31 - 1  # the second would get 2**31, which no owner of 32 bits holds

    edit(folder / "scans/segments_anno.json", share_the_largest)
    with pytest.raises(DataError, match=r"segGroups\[0\] lacks objectId"):
        read_scan(tmp_path, SCAN_ID)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mesh_aligned_0.05.ply", None, "lacks mesh_aligned_0.05.ply"),
        ("segments_anno.json", None, "lacks segments_anno.json"),
        ("segments_anno.json", "{}", "segments_anno.json: has no segGroups"),
        ("segments_anno.json", '{"segGroups": [{"label": "bed"}]}', r"segGroups\[0\] lacks objectId"),
        ("segments_anno.json", '{"segGroups": [{"objectId": 1, "label": "bed", "segments": [0.5]}]}', "lacks objectId"),
        ("segments.json", '{"segIndices": [1, 2, 3]}', "has 3 segIndices for"),
        ("segments.json", '{"segIndices": "none"}', "no list segIndices"),
        ("segments.json", '{"segIndices": [1', "truncated JSON"),
    ],
)
def test_a_broken_scan_is_named(tmp_path, name, content, says):
    path = write_room(tmp_path) / "scans" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=says) as caught:
        read_scan(tmp_path, SCAN_ID)
    assert caught.value.hint


def test_segments_of_the_other_release_are_refused(tmp_path):
    folder = write_room(tmp_path, segments="real")
    identity = {"segIndices": list(range(len(furnished_room(0.05).vertices)))}
    path = folder / "scans/segments.json"
    path.unlink()
    with pytest.raises(DataError, match="too few segments for each to be a vertex"):
        read_scan(tmp_path, SCAN_ID)
    path.write_text(json.dumps(identity))
    edit(folder / "scans/segments_anno.json", lambda d: [g.update(segments=[10**7]) for g in d["segGroups"]])
    with pytest.raises(DataError, match="6 of its 6 segments are on no vertex"):
        read_scan(tmp_path, SCAN_ID)


def test_the_users_lists_say_what_is_trained_on(tmp_path):
    write_room(tmp_path)
    writer.list_scan(tmp_path, "00000000ff", "nvs_sem_val")
    assert list_scans(tmp_path) == [SCAN_ID]
    assert [split_of(tmp_path, name) for name in (SCAN_ID, "00000000ff", "00000000aa")] == ["train", "val", None]
    with pytest.raises(DataError, match="holds no folder data") as caught:
        list_scans(tmp_path / "data")
    assert caught.value.hint == f"this looks like the data folder itself: source.root={tmp_path}"
    (tmp_path / "bare/data" / SCAN_ID).mkdir(parents=True)
    with pytest.raises(DataError, match=r"nvs_sem_train\.txt: no such file"):
        list_scans(tmp_path / "bare")


def test_labels_become_the_benchmarks_names():
    kept = {name for name in scannetpp_categories().values() if name}
    assert len(kept) == 48
    said = {
        "Office Chair": "chair",
        "ceiling lamp": "ceiling light",
        "mouse": "computer mouse",
        "coat rack": "coat hanger",
    }
    assert {label: categorize_scannetpp(label, "benchmark").name for label in said} == said
    for label in ("kitchen cabinet", "cabinet", "window", "poster", "wall", "guitar"):
        assert categorize_scannetpp(label, "benchmark").reason == "not_in_benchmark"
    raw = {"office chair": "chair", "guitar": "guitar", "window": "window", "coat hanger": "coat hanger"}
    assert {label: categorize_scannetpp(label, "raw").name for label in raw} == raw
    assert [categorize_scannetpp(label, "raw").reason for label in ("wall", "doorframe", "object")] == [
        *("structure", "structure", "blacklist")
    ]


def test_decimation_keeps_objects_apart_and_in_place():
    mesh = furnished_room(0.02)
    thinned, owner = decimate(mesh, mesh.instances, 20_000)
    assert 8_000 < len(thinned.vertices) < 24_000 < len(mesh.vertices)
    assert set(owner.tolist()) == set(mesh.instances.tolist())
    for number, name in enumerate(FURNITURE):
        own = thinned.vertices[owner == 10 + number]
        np.testing.assert_allclose(own.min(axis=0), box_of(name).min, atol=0.05)
        np.testing.assert_allclose(own.max(axis=0), box_of(name).max, atol=0.05)
    assert thinned.faces.max() < len(thinned.vertices)
    corners = [thinned.vertices[thinned.faces[:, k]].astype(float) for k in range(3)]
    area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0]), axis=1).sum() / 2
    whole = 2 * (5 * 4 + 5 * 2.6 + 4 * 2.6)  # the room's six sides
    furniture = sum(w * d + 2 * h * (w + d) for w, d, h in (box_of(name).axes_lengths for name in FURNITURE))
    assert abs(area - (whole + furniture)) < 0.05 * (whole + furniture)
    same, kept = decimate(mesh, mesh.instances, len(mesh.vertices))
    assert same is mesh and kept is mesh.instances


def test_the_source_is_registered_with_its_room():
    source = find_source("scannetpp")
    assert source.room_of is not None and source.room_of(None, SCAN_ID) == SCAN_ID  # type: ignore[arg-type]
