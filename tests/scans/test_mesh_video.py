from itertools import pairwise

import numpy as np
import pytest
from furnished_room import FURNITURE, SIZE, furnished_room, intrinsics_of, pose_of

from vsgrpo.errors import DataError
from vsgrpo.scans.source import Mesh
from vsgrpo.scans.walk.camera_plan import Sightings, choose_views, order_tour
from vsgrpo.scans.walk.floor_map import (
    eye_height,
    floor_height,
    map_floor,
    surface_points,
    walk_pitch_degrees,
)
from vsgrpo.scans.walk.mesh_video import RoomShell, WalkSettings, render_walk
from vsgrpo.scans.walk.rasterizer import Camera, Surface
from vsgrpo.spatial.sight import floor_cells, share_in_sight

pytestmark = pytest.mark.integration

SMALL = WalkSettings(num_frames=11, width=112, height=84)


@pytest.fixture(scope="module")
def room():
    return furnished_room()


@pytest.fixture(scope="module")
def walk(room):
    return render_walk(*room.arguments(), SMALL)


def shown(walk):
    """Return the ids of instances seen with at least 12 pixels (200 of 448 x 336) in at least two frames."""
    return tuple(sorted(i for i, row in walk.pixels.items() if sum(px >= 12 for px in row) >= 2))


def eyes(walk):
    return np.array([camera.eye for camera in walk.cameras])


def distance_to_furniture(point):
    """Metres in the floor plane from a point to the nearest piece of furniture."""
    gaps = []
    for (x0, y0, x1, y1, _), _ in FURNITURE.values():
        gaps.append(np.hypot(max(x0 - point[0], point[0] - x1, 0), max(y0 - point[1], point[1] - y1, 0)))
    return min(gaps)


def test_a_walk_shows_the_floor_of_a_room_and_one_frame_a_part_of_it(walk):
    corners = np.array([[0, 0], [SIZE[0], 0], [SIZE[0], SIZE[1]], [0, SIZE[1]]])
    cells = floor_cells([corners])
    assert len(cells) == 50 * 40
    assert share_in_sight(cells, eyes(walk), walk.reach) > 0.97
    # Views are 75 degrees wide.
    alone = [share_in_sight(cells, [eye], [reach]) for eye, reach in zip(eyes(walk), walk.reach, strict=True)]
    assert min(alone) > 0.02 and max(alone) < 0.75


def test_walk_shows_every_object_of_a_simple_room(walk):
    assert walk.frames.shape == (11, 84, 112, 3)
    assert walk.frames.dtype == np.uint8
    assert shown(walk) == (10, 11, 12, 13, 14)
    # 200 px of 448 x 336 are 12.5 px of 112 x 84.
    assert SMALL.scaled_min_pixels == 12
    assert all(len(row) == 11 for row in walk.pixels.values())
    assert walk.notes == ()


def test_camera_keeps_clear_of_walls_and_furniture(walk):
    # Cells are 0.05 m, so 0.3 m of clearance may be short by one cell's diagonal.
    for x, y, z in eyes(walk):
        assert distance_to_furniture((x, y)) > 0.22
        assert 0.22 < x < SIZE[0] - 0.22
        assert 0.22 < y < SIZE[1] - 0.22
        assert z == pytest.approx(1.5, abs=1e-6)


def test_walk_is_deterministic(room, walk):
    again = render_walk(*room.arguments(), SMALL)
    np.testing.assert_array_equal(again.frames, walk.frames)
    assert again.cameras == walk.cameras
    assert again.pixels == walk.pixels


def test_pixels_are_those_of_the_frames(walk):
    # The bed is the only blue thing: its count equals the blue pixels of the frame, as no colour blends across objects.
    for frame, count in zip(walk.frames, walk.pixels[10], strict=True):
        assert (frame == (40, 40, 160)).all(axis=2).sum() == count


def test_instance_without_faces_is_counted_as_never_seen(room):
    vertices = np.append(room.vertices, [[2.0, 2.0, 1.0]], axis=0)
    colors, ids = np.append(room.colors, [[1, 2, 3]], axis=0), np.append(room.instances, 77)
    walk = render_walk(Mesh(vertices, colors, room.faces), ids, WalkSettings(num_frames=3, width=32, height=24))
    assert walk.pixels[77] == (0, 0, 0)
    assert 77 not in shown(walk)


def test_poses_and_intrinsics_project_a_corner_of_the_bed_onto_its_edge(walk):
    frame = int(np.argmax(walk.pixels[10]))
    blue = (walk.frames[frame] == (40, 40, 160)).all(axis=2)
    (x0, y0, x1, y1, height), _ = FURNITURE["bed"]
    corners = np.array([(x, y, z, 1) for x in (x0, x1) for y in (y0, y1) for z in (0, height)])
    in_camera = (np.linalg.inv(pose_of(walk.cameras[frame])) @ corners.T)[:3]
    assert (in_camera[2] > 0).all()
    pixel = (intrinsics_of(walk.cameras[frame]) @ in_camera)[:2] / in_camera[2]
    rows, columns = np.nonzero(blue)
    assert columns.min() == pytest.approx(max(np.ceil(pixel[0].min()), 0), abs=1)
    assert rows.min() == pytest.approx(max(np.ceil(pixel[1].min()), 0), abs=1)


def test_floor_need_not_be_at_zero(room, walk):
    moved = room.vertices + np.float32([10.0, -20.0, 0.7])
    shifted = render_walk(Mesh(moved, room.colors, room.faces), room.instances, SMALL)
    assert shown(shifted) == shown(walk)
    np.testing.assert_allclose(eyes(shifted)[:, 2], 2.2, atol=1e-5)
    assert (eyes(shifted)[:, 0] > 10.2).all() and (eyes(shifted)[:, 1] < -16.2).all()


def test_walk_without_annotation_still_shows_the_room(room):
    walk = render_walk(Mesh(room.vertices, room.colors, room.faces), np.full(len(room.vertices), -1), SMALL)
    assert walk.pixels == {}
    seen = [(walk.frames == tone).all(axis=3).sum(axis=(1, 2)) for _, tone in FURNITURE.values()]
    assert all((count >= 12).sum() >= 1 for count in seen)


@pytest.mark.parametrize("num_frames", [1, 4])
def test_number_of_frames_is_exact(room, num_frames):
    walk = render_walk(*room.arguments(), WalkSettings(num_frames=num_frames, width=32, height=24))
    assert len(walk.frames) == len(walk.cameras) == num_frames


def test_frames_have_no_black_holes_where_the_scan_has_none(room):
    open_room = furnished_room(with_ceiling=False)
    walk = render_walk(*open_room.arguments(), SMALL)
    assert walk.frames.max(axis=3).min() > 20


def test_steps_of_the_walk_do_not_jump_across_the_room(walk):
    steps = [np.linalg.norm(b - a) for a, b in pairwise(eyes(walk))]
    assert max(steps) < 3


def test_floor_is_the_lowest_strong_level(room):
    assert floor_height(room.vertices, room.faces) == pytest.approx(0, abs=1e-6)
    walls = furnished_room(with_floor=False, with_ceiling=False)
    upright = walls.faces[np.ptp(walls.vertices[walls.faces, 2], axis=1) > 0.01]
    assert floor_height(walls.vertices, upright) is None


def test_free_area_is_the_floor_less_the_furniture(room):
    floor_map = map_floor(room.vertices, room.faces)
    furniture = sum((x1 - x0) * (y1 - y0) for (x0, y0, x1, y1, _), _ in FURNITURE.values())
    # 20 m2 - (2.66 + 1.2 + .6 + .09 + .16) = 15.29; each outline loses about one 0.05 m cell: 18 m of walls and 14 m
    # of furniture, .05 * 32 = 1.6; the gaps of 0.1 m behind furniture are lost too.
    assert furniture == pytest.approx(4.71)
    assert 12.5 < floor_map.free.sum() * 0.05**2 < 15.29


def test_hole_in_the_floor_where_the_operator_stood_is_floor():
    room = furnished_room()
    middle = room.vertices[room.faces].mean(axis=1)
    hole = (np.abs(middle[:, 0] - 2.5) < 0.5) & (np.abs(middle[:, 1] - 2.0) < 0.5) & (middle[:, 2] < 0.01)
    assert hole.sum() > 10
    floor_map = map_floor(room.vertices, room.faces[~hole])
    row, column = floor_map.cell_of(np.array([[2.5, 2.0]]))[0]
    assert floor_map.stand[row, column]


def test_surface_points_leave_no_gap_on_large_faces():
    corners = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]], np.float32)
    points = surface_points(corners, np.array([[0, 1, 2]]), spacing=0.1)
    # Longest edge 2.83 m, 2^5 steps: every point of the triangle has a lattice point within 2.83 / 32 = 0.09 m.
    rng = np.random.default_rng(0)
    probe = rng.dirichlet((1, 1, 1), 200) @ corners
    gaps = np.linalg.norm(probe[:, None] - points, axis=2).min(axis=1)
    assert gaps.max() < 0.09


def test_surface_points_of_a_garbled_mesh_stay_few():
    # 5,000 faces across a 100 m scan would be 33k points each, 165 million in all.
    rng = np.random.default_rng(0)
    points = surface_points(rng.uniform(0, 100, (500, 3)), rng.integers(0, 500, (5_000, 3)))
    assert len(points) < 8_100_000


def test_low_scan_lowers_eye_and_pitch():
    # Top at 1.3 m: eye = clip(1.3 - .1, 1.2, 1.5) = 1.2; pitch = atan(.1 / 2.5) - 30 = 2.29 - 30 = -27.71.
    vertices = np.array([[0, 0, 0.2], [0, 0, 1.5]] * 500)
    eye, top = eye_height(vertices, floor=0.2, wanted=1.5)
    assert (eye, top) == (pytest.approx(1.2), pytest.approx(1.3))
    assert walk_pitch_degrees(eye, top, vfov_degrees=60) == pytest.approx(-27.71, abs=0.01)
    # Top at 2.6: atan(1.1 / 2.5) = 23.7, less 30 is -6.3: held at -15.
    assert walk_pitch_degrees(1.5, 2.6, vfov_degrees=60) == -15
    # An eye above the scan's top: atan(-.7 / 2.5) - 30 = -45.6, held at -30.
    assert walk_pitch_degrees(1.2, 0.5, vfov_degrees=60) == -30


def test_scan_cut_at_table_height_is_walked():
    room = furnished_room()
    low = (room.vertices[room.faces, 2] < 1.2).all(axis=1)
    walk = render_walk(Mesh(room.vertices, room.colors, room.faces[low]), room.instances, SMALL)
    assert set(shown(walk)) >= {10, 11, 13, 14}
    assert max(camera.pitch_degrees for camera in walk.cameras) < -20


def test_shell_fills_every_empty_pixel_and_continues_the_floor(room):
    floor_map = map_floor(room.vertices, room.faces)
    shell = RoomShell(room, floor_map)
    # An empty mesh behind the camera: the whole frame is shell.
    away = Surface(np.array([[90, 0, 0], [90, 1, 0], [90, 0, 1]]), np.zeros((3, 3)), np.array([[0, 1, 2]]))
    view = Camera((2.5, 2.0, 1.5), 180.0, -20.0, 64, 48, 75.0)
    raster = away.draw(view)
    image = np.zeros((48, 64, 3), np.uint8)
    shell.fill(image, raster, view)
    assert (image.max(axis=2) > 100).all()
    np.testing.assert_allclose(image[-1, 32], (180, 170, 150), atol=3)
    np.testing.assert_array_equal(image[15, 32], (205, 203, 197))


def test_choosing_swaps_greedy_views_that_turned_out_useless():
    # Greedy takes the two views of four objects (4 + 4), then gains 1 + 1 from one of each other pair: 10.
    # The other four views together show each of the six objects twice: 12.
    big, left, right = (900, 900, 900, 900, 0, 0), (900, 900, 0, 0, 900, 0), (0, 0, 900, 900, 0, 900)
    pixels = np.array([big, big, left, left, right, right], np.float32)
    chosen = choose_views(Sightings(pixels, np.zeros(6)), np.ones(6, np.float32), 4, 200)
    assert sorted(chosen) == [2, 3, 4, 5]


def test_unpleasant_views_lose_against_equal_ones():
    pixels = np.full((2, 3), 900, np.float32)
    assert choose_views(Sightings(pixels, np.array([0.3, 0.0])), np.ones(3, np.float32), 1, 200) == [1]


def test_tour_visits_places_on_a_line_in_order():
    place = np.array([3.0, 0.0, 4.0, 1.0, 2.0])
    order = order_tour(np.abs(place[:, None] - place))
    assert list(place[order]) in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])


def test_mesh_without_faces_is_refused(room):
    with pytest.raises(DataError, match="0 faces"):
        render_walk(Mesh(room.vertices, room.colors, np.zeros((0, 3), np.int32)), room.instances, SMALL)
    with pytest.raises(DataError, match="0 vertices"):
        render_walk(Mesh(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.int32)), np.zeros(0, np.int32), SMALL)


def test_one_triangle_is_refused_as_no_place_to_stand():
    vertices = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])
    with pytest.raises(DataError, match="nowhere for a camera to stand"):
        render_walk(Mesh(vertices, np.zeros((3, 3)), np.array([[0, 1, 2]])), np.full(3, -1), SMALL)


def test_broken_vertices_and_faces_are_dropped_with_a_note(room):
    vertices = room.vertices.copy()
    vertices[5] = np.nan
    faces = room.faces.copy()
    faces[0] = (0, 1, len(vertices))
    walk = render_walk(Mesh(vertices, room.colors, faces), room.instances, SMALL)
    assert shown(walk) == (10, 11, 12, 13, 14)
    assert len(walk.notes) == 1 and "faces dropped" in walk.notes[0]
    with pytest.raises(DataError, match="finite"):
        render_walk(Mesh(np.full_like(vertices, np.nan), room.colors, room.faces), room.instances, SMALL)


def test_scan_without_floor_uses_its_footprint():
    bare = furnished_room(with_floor=False, with_ceiling=False)
    upright = bare.faces[np.ptp(bare.vertices[bare.faces, 2], axis=1) > 0.01]
    walk = render_walk(Mesh(bare.vertices, bare.colors, upright), bare.instances, SMALL)
    assert len(walk.frames) == 11
    assert "no horizontal faces" in walk.notes[0]
    assert all(distance_to_furniture(eye) > 0.1 for eye in eyes(walk))


def test_scan_in_millimetres_is_refused(room):
    with pytest.raises(DataError, match="too large"):
        render_walk(Mesh(room.vertices * 1000, room.colors, room.faces), room.instances, SMALL)


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"width": 8}, {"min_pixels": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WalkSettings(**wrong)
