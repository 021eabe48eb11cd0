"""Which points of a surface a frame shows, by hand; what they make of a coarse room."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.scans.source import Mesh
from vsgrpo.scans.surface_points import GRAIN_M, is_fine, seen_points, surface_samples
from vsgrpo.scans.walk.mesh_video import WalkSettings, render_walk
from vsgrpo.spatial.floor import floor_shares, room_floor

TRIANGLE = np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.2, 0]], np.float32)


def test_a_grid_on_a_face_larger_than_the_grain():
    # The longest edge is 0.2 * sqrt(2) = 0.28 m: 3 steps of 0.094 m, 10 points of a grid less the 3 corners.
    samples = surface_samples(TRIANGLE, np.array([[0, 1, 2]]))
    third = 0.2 / 3
    along = [(0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1)]
    expected = sorted((round(third * i, 3), round(third * j, 3)) for i, j in along)
    assert np.array(sorted(samples[:, :2].tolist())) == pytest.approx(np.array(expected), abs=1e-6)
    assert is_fine(TRIANGLE, np.array([[0, 1, 2]])).tolist() == [False]
    assert is_fine(TRIANGLE / 4, np.array([[0, 1, 2]])).tolist() == [True]
    assert len(surface_samples(TRIANGLE / 4, np.array([[0, 1, 2]]))) == 0


def test_broken_faces_have_no_samples():
    vertices = np.array([*TRIANGLE, [np.nan, 0, 0]], np.float32)
    assert len(surface_samples(vertices, np.array([[0, 1, 3], [0, 1, 9], [-1, 0, 1]]))) == 0
    assert len(surface_samples(np.zeros((0, 3), np.float32), np.zeros((0, 3), int))) == 0


@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9))
def test_every_point_of_a_face_is_near_a_sample_or_a_corner(numbers):
    corners = np.array(numbers).reshape(3, 3)
    known = np.concatenate([corners, surface_samples(corners, np.array([[0, 1, 2]]))])
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    for point in weights @ corners:
        assert np.linalg.norm(known - point, axis=1).min() <= GRAIN_M + 0.002


def test_a_mesh_in_millimetres_has_a_bounded_number_of_samples():
    vertices = np.array([(x, y, 0) for x in range(0, 4000, 100) for y in range(0, 4000, 100)], np.float32)
    corner = np.array([40 * i + j for i in range(39) for j in range(39)])
    assert 0 < len(surface_samples(vertices, np.stack([corner, corner + 1, corner + 40], axis=1))) < 1_000_000


def test_seen_is_what_has_the_depth_of_its_pixel():
    # A camera at the origin looks along z at a wall 2 m away; column 0 of the picture knows no depth.
    depth = np.full((5, 5), 2.0, np.float32)
    depth[:, 0] = 0
    matrix = np.array([[2.0, 0, 2], [0, 2.0, 2], [0, 0, 1]])
    points = np.array([[0, 0, 2], [0, 0, 2.05], [0, 0, 2.1], [0, 0, -2], [-2, 0, 2], [9, 0, 2]], np.float32)
    seen, camera = seen_points(points, np.eye(4), matrix, depth, 0.03)
    assert seen.tolist() == [0, 1] and camera[:, 2].tolist() == pytest.approx([2, 2.05])


def coarse_room():
    """A floor of 4 x 4 m in faces of 0.15 m, and a bed of six faces in a corner: 1.8 x 1.8 m, 0.5 m high."""
    steps = np.linspace(0, 4, 28)
    floor = np.array([(x, y, 0) for x in steps for y in steps])
    faces = [
        face
        for i in range(27)
        for j in range(27)
        for face in ((28 * i + j, 28 * i + 28 + j, 28 * i + j + 1), (28 * i + j + 1, 28 * i + 28 + j, 28 * i + j + 29))
    ]
    bed = np.array(
        [(0, 0, 0.5), (1.8, 0, 0.5), (1.8, 1.8, 0.5), (0, 1.8, 0.5), (1.8, 0, 0), (1.8, 1.8, 0), (0, 1.8, 0)]
    )
    top, sides = [(0, 1, 2), (0, 2, 3)], [(1, 4, 5), (1, 5, 2), (2, 5, 6), (2, 6, 3)]
    n = len(floor)
    sides = [tuple(n + k for k in face) for face in (*top, *sides)]
    vertices = np.concatenate([floor, bed]).astype(np.float32)
    return Mesh(vertices, np.full((len(vertices), 3), 128, np.uint8), np.array([*faces, *sides])), n


def test_what_lies_under_a_bed_is_spanned_by_its_top():
    mesh, bed = coarse_room()
    owner = np.where(np.arange(len(mesh.vertices)) >= bed, 0, -1)
    walk = render_walk(mesh, owner, WalkSettings(num_frames=15, width=224, height=168))
    samples = surface_samples(mesh.vertices, mesh.faces)
    seen = walk.seen.any(axis=0)
    assert seen.shape == (len(mesh.vertices) + len(samples),)
    under = np.flatnonzero((mesh.vertices[:bed, :2] < 1.6).all(axis=1))
    assert not seen[under].any()  # the floor there is hidden, though one of its faces may look out
    (share,) = floor_shares(mesh.vertices, [seen], "voxel5cm", samples=samples)
    (bare,) = floor_shares(mesh.vertices, [seen[: len(mesh.vertices)]], "voxel5cm")
    area, _ = room_floor(mesh.vertices, "voxel5cm")
    # 3.24 of 16 m2 are under the bed: without points on its top they count as not seen.
    assert area == pytest.approx(16, abs=0.1) and share > 0.95 and bare < 0.85
