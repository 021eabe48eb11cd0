"""Demo rooms: known construction against what the real reader finds, pictures against geometry, determinism."""

import io
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from demo_rooms import write_rooms
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.scans.annotation import read_labels
from vsgrpo.scans.demo.plan import room_truth, scan_number
from vsgrpo.scans.demo.raycast import ABOVE, FLOOR, WALL, render
from vsgrpo.scans.demo.rooms import (
    CATALOGUE,
    CEILING,
    PRESETS,
    camera_matrix,
    camera_poses,
    floor_polygon,
)
from vsgrpo.scans.demo.source import room_mesh, write_demo_labels, write_room
from vsgrpo.scans.scannet import list_scans, read_scan
from vsgrpo.scans.sens import SensReader
from vsgrpo.scans.source import SceneSettings
from vsgrpo.scans.visibility import Masks


def _files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _l_shaped(count):
    rooms = (room_truth(0, index, "furnished") for index in range(5 * count))
    return [room for room in rooms if room.notch is not None][:count]


def test_equal_seeds_write_equal_bytes_and_other_seeds_other_rooms(tmp_path):
    first = write_rooms(tmp_path / "a", 2, "easy", 3)
    write_rooms(tmp_path / "b", 2, "easy", 3)
    other = write_rooms(tmp_path / "c", 2, "easy", 4)
    assert first == ["demo030000_00", "demo030001_00"]  # 3 * 10000 + 0 and + 1
    assert other == ["demo040000_00", "demo040001_00"]
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert room_truth(3, 0, "easy").area != room_truth(4, 0, "easy").area


def test_scan_numbers_never_meet_and_bad_ones_are_refused():
    # seed 0 ends at 9999, seed 1 starts at 10000: the largest index of a seed stays below the next seed's first.
    assert scan_number(0, 9999) + 1 == scan_number(1, 0) == 10000
    assert scan_number(99, 9999) == 999999
    with pytest.raises(ConfigError, match="index=10000"):
        scan_number(0, 10000)


def test_complete_rooms_are_skipped_and_broken_or_other_ones_rewritten(tmp_path):
    (scan_id,) = write_rooms(tmp_path, 1)
    folder = tmp_path / "scans" / scan_id
    whole = _files(folder)
    mesh = folder / f"{scan_id}_vh_clean_2.ply"
    stamp = mesh.stat().st_mtime_ns
    write_rooms(tmp_path, 1)
    assert mesh.stat().st_mtime_ns == stamp
    mesh.write_bytes(b"half")  # killed before the last file, the txt, was there
    (folder / f"{scan_id}.txt").unlink()
    write_rooms(tmp_path, 1)
    assert _files(folder) == whole
    write_room(tmp_path, 0, num_frames=4)
    with SensReader(folder / f"{scan_id}.sens") as reader:
        assert reader.num_frames == 4


def test_labels_of_real_scans_are_not_replaced(tmp_path):
    write_demo_labels(tmp_path)
    write_demo_labels(tmp_path)
    table = tmp_path / "scannetv2-labels.combined.tsv"
    real = table.read_text() + "999\tkitchen cabinets\n"
    table.write_text(real)
    with pytest.raises(DataError, match="label table of other scans"):
        write_rooms(tmp_path, 1)
    assert table.read_text() == real


@pytest.mark.parametrize("preset", ["easy", "furnished"])
def test_reader_finds_the_boxes_counts_and_area_that_were_built(tmp_path, preset):
    ids = write_rooms(tmp_path, 8, preset, 5, num_frames=4, height=28, width=28)
    labels = read_labels(tmp_path)
    assert list_scans(tmp_path) == ids
    shapes = set()
    for index, scan_id in enumerate(ids):
        room = room_truth(5, index, preset)
        scan = read_scan(tmp_path, scan_id, labels, "demo")
        scene = scan.scene(SceneSettings(alpha_points=("random10k", "voxel5cm")[index % 2]))
        assert not np.allclose(scan.alignment, np.eye(4), atol=0.1)
        assert [item.raw_label for item in scene.objects] == [item.category for item in room.objects]
        assert [item.instance_id for item in scene.objects] == list(range(len(room.objects)))
        assert min(item.num_vertices for item in scene.objects) >= 50
        for found, built in zip(scene.objects, room.objects, strict=True):
            np.testing.assert_allclose(found.box.centroid, built.box.centroid, atol=0.01)
            np.testing.assert_allclose(found.box.min, built.box.min, atol=0.01)
            np.testing.assert_allclose(found.box.max, built.box.max, atol=0.01)
            np.testing.assert_allclose(np.sort(found.box.axes_lengths), np.sort(built.size), atol=0.01)
        assert scene.room_size == pytest.approx(room.area, rel=0.03)
        shapes.add(room.notch is not None)
    assert shapes == ({False, True} if preset == "furnished" else {False})


def test_sens_holds_the_rendered_frames_and_poses_in_the_raw_frame(tmp_path):
    (scan_id,) = write_rooms(tmp_path, 1, "easy", 2)
    room = room_truth(2, 0, "easy")
    poses = camera_poses(room, 8)
    pictures = render(room, poses, 56, 56).rgb
    with SensReader(tmp_path / "scans" / scan_id / f"{scan_id}.sens") as reader:
        frames = list(reader.frames())
    assert len(frames) == 8
    for frame, pose, picture in zip(frames, poses, pictures, strict=True):
        np.testing.assert_allclose(room.alignment @ frame.pose, pose, atol=1e-5)
        decoded = np.asarray(Image.open(io.BytesIO(frame.jpeg)))
        assert np.abs(decoded.astype(int) - picture).mean() < 4


def test_masks_hold_the_rendered_instances(tmp_path):
    (scan_id,) = write_rooms(tmp_path, 1, "easy", 2)
    room = room_truth(2, 0, "easy")
    owner = render(room, camera_poses(room, 8), 56, 56).objects
    ids = list(range(len(room.objects)))
    with Masks(tmp_path / "scans" / scan_id / f"{scan_id}_2d-instance-filt.zip", ids) as masks:
        for frame in range(8):
            assert masks.count(frame).tolist() == [(owner[frame] == number).sum() for number in ids]


def test_easy_camera_makes_four_stops_of_two_degree_pairs_that_tile_the_room():
    poses = camera_poses(room_truth(0, 0, "easy"), 8)
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1.0)
    forward = poses[:, :3, 2]
    np.testing.assert_allclose(np.degrees(np.arcsin(forward[:, 2])), -15)
    heading = np.degrees(np.arctan2(forward[:, 1], forward[:, 0]))
    np.testing.assert_allclose((heading[1::2] - heading[::2]) % 360, 2)
    np.testing.assert_allclose(np.diff(heading[::2]) % 360, 90)
    np.testing.assert_allclose(poses[:, 2, 1] < 0, True)  # the camera's y axis points down
    assert PRESETS["easy"].hfov_degrees == 90


def test_pixels_agree_with_the_depth_of_floor_and_walls():
    # A pixel (x, y) of depth z lies at K^-1 (x, y, 1) z in the camera; on the floor its height is 0, at a wall one of
    # its coordinates is 0 or the side length.
    room = room_truth(1, 1, "easy")
    poses = camera_poses(room, 4)
    frames = render(room, poses, 40, 60)
    camera = camera_matrix(40, 60, 90.0)
    v, u = np.mgrid[0:40, 0:60] + 0.5
    local = np.stack([(u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1], np.ones_like(u)], axis=-1)
    for pose, owner, depth in zip(poses, frames.objects, frames.depth, strict=True):
        points = (local * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
        np.testing.assert_allclose(points[owner == FLOOR][:, 2], 0, atol=1e-4)
        np.testing.assert_allclose(points[owner == ABOVE][:, 2], CEILING, atol=1e-4)
        wall = points[owner == WALL][:, :2]
        assert np.minimum(np.abs(wall), np.abs(wall - room.extent)).min(axis=1).max() < 1e-4
        for number, item in enumerate(room.objects):
            seen = points[owner == number]
            inside = np.abs((seen - item.box.centroid) @ item.box.axes.T) - item.box.axes_lengths / 2
            assert inside.max(initial=0) < 1e-3


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_piece_fills_its_box(name):
    # All four footprint corners, the ground and the top are touched, so that the smallest upright box is the piece's.
    piece = CATALOGUE[name]
    assert (piece.lo < piece.hi).all()
    assert 24 * len(piece.lo) >= 50
    np.testing.assert_allclose(piece.lo.min(axis=0), [-0.5, -0.5, 0])
    np.testing.assert_allclose(piece.hi.max(axis=0), [0.5, 0.5, 1])
    for x, side in ((piece.lo[:, 0], -0.5), (piece.hi[:, 0], 0.5)):
        assert ((x == side) & (piece.lo[:, 1] == -0.5)).any()
        assert ((x == side) & (piece.hi[:, 1] == 0.5)).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(0, 9999), st.sampled_from(sorted(PRESETS)))
def test_furniture_stands_apart_inside_the_room_and_clear_of_the_camera(seed, index, preset):
    room = room_truth(seed, index, preset)
    assert room.objects
    assert max(Counter(item.category for item in room.objects).values()) <= room.preset.num_instances[1]
    for number, item in enumerate(room.objects):
        corners = item.box.corners()
        assert (corners[:, :2] > 0).all()
        assert (corners[:, :2] < room.extent).all()
        assert corners[:, 2].min() >= 0 and corners[:, 2].max() < CEILING
        local = item.box.axes[:2, :2] @ (room.eye[:2] - item.center)
        assert (np.abs(local) > item.size[:2] / 2).any()
        for other in room.objects[:number]:
            assert _are_apart(item, other)


def _are_apart(a, b):
    """Separating axis on the corners themselves: some edge direction keeps the two projections apart."""
    ground_a, ground_b = a.box.corners()[::2, :2], b.box.corners()[::2, :2]
    for axis in (*a.box.axes[:2, :2], *b.box.axes[:2, :2]):
        if (ground_a @ axis).max() < (ground_b @ axis).min() or (ground_b @ axis).max() < (ground_a @ axis).min():
            return True
    return False


def test_l_shaped_rooms_know_their_polygon_and_area():
    # 5 x 4 without its corner 2 x 1 at the far right: 20 - 2 = 18, counter-clockwise from the origin.
    polygon = floor_polygon(np.array([5.0, 4.0]), (3.0, 3.0, 5.0, 4.0))
    assert polygon.tolist() == [[0, 0], [5, 0], [5, 3], [3, 3], [3, 4], [0, 4]]
    for room in _l_shaped(8):
        x, y = room.polygon.T
        shoelace = 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))  # positive: counter-clockwise
        assert shoelace == pytest.approx(room.area)
        x0, y0, x1, y1 = room.notch
        assert not (x0 < room.eye[0] < x1 and y0 < room.eye[1] < y1)


def test_mesh_faces_look_into_the_room():
    for room in _l_shaped(2):
        mesh = room_mesh(room)
        a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
        normals = np.cross(b - a, c - a)
        floor = np.isin(mesh.faces[:, 0], dict(mesh.instances)["floor"])
        assert (normals[floor, 2] > 0).all()
        assert normals[floor, 2].sum() / 2 == pytest.approx(room.area)
        # Divergence theorem: outward faces of closed boxes sum to their positive volume.
        first_floor_vertex = dict(mesh.instances)["floor"][0]
        boxes = mesh.faces[:, 0] < first_floor_vertex
        volume = np.einsum("ij,ij->i", a, normals)[boxes].sum() / 6
        assert volume == pytest.approx(8 * room.parts.half.prod(axis=1).sum())
        walls = mesh.faces[:, 0] > dict(mesh.instances)["floor"][-1]
        # From every wall point a small step along the normal stays inside: walls and floor enclose area x height.
        step = (a + b + c)[walls] / 3 + 1e-3 * normals[walls] / np.linalg.norm(normals[walls], axis=1, keepdims=True)
        assert (step[:, :2] > 0).all() and (step[:, :2] < room.extent).all()


def test_every_easy_object_is_seen():
    for index in range(10):
        room = room_truth(8, index, "easy")
        owner = render(room, camera_poses(room, 8), 56, 56).objects
        pixels = np.bincount(owner[owner >= 0], minlength=len(room.objects))
        assert pixels.min() >= 16, (index, pixels)


def test_large_pictures_show_the_same_scene_as_small_ones():
    # 8 x 8 blocks of a 448 picture vote for what the middle of a 56 picture's pixel shows; borders may differ.
    room = room_truth(0, 3, "furnished")
    poses = camera_poses(room, 2)
    small = render(room, poses, 56, 56)
    large = render(room, poses, 448, 448)
    middle = large.objects[:, 4::8, 4::8]
    assert (middle == small.objects).mean() > 0.97
    assert math.isclose(np.median(small.depth), np.median(large.depth), rel_tol=0.02)
