"""Boxes, distances, floor area and bearings against hand-computed values and slow references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.spatial import ConvexHull, Delaunay
from scipy.spatial.transform import Rotation

from vsgrpo.spatial.floor import alpha_shape, room_floor, shape_area
from vsgrpo.spatial.geometry import (
    bearing_degrees,
    box_distances,
    fit_box,
)
from vsgrpo.spatial.scene import Box


def box_distance(a: Box, b: Box) -> float:
    return float(box_distances([a], [b])[0, 0])


def centroid_distance(a: Box, b: Box) -> float:
    return float(np.linalg.norm(a.centroid - b.centroid))


def alpha_shape_area(points, *settings, **more) -> float:
    return shape_area(alpha_shape(points, *settings, **more))


def room_area(vertices, *settings, **more) -> float | None:
    return room_floor(vertices, *settings, **more)[0]


seeds = st.integers(0, 2**32 - 1)


def box(center, lengths, yaw_degrees=0.0) -> Box:
    axes = Rotation.from_euler("z", -yaw_degrees, degrees=True).as_matrix()
    return Box(np.array(center, dtype=float), np.array(lengths, dtype=float), axes)


def random_box(rng: np.random.Generator) -> Box:
    return Box(rng.uniform(-2, 2, 3), rng.uniform(0.01, 2, 3), Rotation.random(rng=rng).as_matrix())


def moved(b: Box, rotation: np.ndarray, shift: np.ndarray) -> Box:
    return Box(rotation @ b.centroid + shift, b.axes_lengths, b.axes @ rotation.T)


def slow_box_distance(a: Box, b: Box) -> float:
    """Minimise |x - y| over x in a, y in b: bounded least squares in six coordinates."""
    matrix = np.concatenate([a.axes.T * a.axes_lengths / 2, -b.axes.T * b.axes_lengths / 2], axis=1)
    offset = b.centroid - a.centroid
    return float(np.linalg.norm(matrix @ lsq_linear(matrix, offset, (-1, 1), tol=1e-15, method="bvls").x - offset))


# --- fitting ---


def test_upright_box_of_a_yawed_table_keeps_its_edges():
    # 2 x 1 x 0.7 m, turned by 30 degrees: edges 2, 1, 0.7; its aabb is 2 cos30 + 1 sin30 = 2.232 wide,
    # 2 sin30 + 1 cos30 = 1.866 deep.
    corners = box([1, 2, 0.35], [2, 1, 0.7], yaw_degrees=30).corners()
    fitted = fit_box(corners)
    np.testing.assert_allclose(sorted(fitted.axes_lengths), [0.7, 1, 2], atol=1e-12)
    np.testing.assert_allclose(fitted.centroid, [1, 2, 0.35], atol=1e-12)
    np.testing.assert_allclose(fit_box(corners, "aabb").axes_lengths, [2.232051, 1.866025, 0.7], atol=1e-6)


def test_upright_box_stays_upright_where_the_free_box_tilts():
    # A 1 x 1 x 0.1 board tilted by 45 degrees about x: height and depth (1 + 0.1) / sqrt 2 = 0.7778.
    tilt = Rotation.from_euler("x", 45, degrees=True).as_matrix()
    corners = Box(np.zeros(3), np.array([1.0, 1.0, 0.1]), tilt.T).corners()
    np.testing.assert_allclose(sorted(fit_box(corners).axes_lengths), [0.777817, 0.777817, 1.0], atol=1e-6)
    np.testing.assert_allclose(sorted(fit_box(corners, "min_obb").axes_lengths), [0.1, 1.0, 1.0], atol=1e-9)


@pytest.mark.parametrize("kind", ["upright_min", "aabb", "min_obb"])
@pytest.mark.parametrize(
    "points", [[[1, 2, 3]], [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0]], [[0, 0, 0], [1, 0, 0], [1, 1, 0]]]
)
def test_fit_survives_points_lines_and_planes(kind, points):
    fitted = fit_box(np.array(points, dtype=float), kind)
    assert np.isfinite(fitted.axes_lengths).all()
    np.testing.assert_allclose(fitted.axes @ fitted.axes.T, np.eye(3), atol=1e-9)


def test_flat_clouds_of_many_points_and_upright_lines_keep_their_extent():
    rng = np.random.default_rng(0)
    tilt = Rotation.random(rng=rng).as_matrix()
    board = np.column_stack([rng.uniform(0, 1, (50_000, 2)) * [2, 1], np.zeros(50_000)])
    board = np.concatenate([board, [[0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 0]]]) @ tilt
    np.testing.assert_allclose(sorted(fit_box(board, "min_obb").axes_lengths), [0, 1, 2], atol=1e-6)
    pole = np.column_stack([np.zeros((100, 1)), rng.uniform(0, 3, 100), rng.uniform(0, 2, 100)])
    np.testing.assert_allclose(sorted(fit_box(pole).axes_lengths), sorted(np.ptp(pole, axis=0)), atol=1e-9)


def test_fit_refuses_what_is_not_a_cloud():
    with pytest.raises(ValueError, match="finite"):
        fit_box(np.array([[0.0, np.nan, 0.0]]))
    with pytest.raises(ValueError, match="kind='obb'"):
        fit_box(np.zeros((4, 3)), "obb")


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_fitted_boxes_hold_their_points_and_the_smaller_rule_is_smaller(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(int(rng.integers(4, 60)), 3)) * rng.uniform(0.1, 2, 3)
    fitted = {kind: fit_box(points, kind) for kind in ("upright_min", "aabb", "min_obb")}
    for b in fitted.values():
        local = (points - b.centroid) @ b.axes.T
        assert (np.abs(local) <= b.axes_lengths / 2 + 1e-9).all()
        assert np.linalg.det(b.axes) == pytest.approx(1)
    assert fitted["upright_min"].axes_lengths.prod() <= fitted["aabb"].axes_lengths.prod() * (1 + 1e-8)


def slow_min_rectangle(xy: np.ndarray) -> float:
    """Try every pair of points as a side; the smallest rectangle has one along a hull edge, so it is among them."""
    best = np.inf
    for a in xy:
        for b in xy:
            if (a == b).all():
                continue
            u = (b - a) / np.linalg.norm(b - a)
            along, across = xy @ u, xy @ np.array([-u[1], u[0]])
            best = min(best, np.ptp(along) * np.ptp(across))
    return best


def slow_min_volume(points: np.ndarray) -> float:
    """Loop over the faces and edges of the convex hull."""
    hull, best = ConvexHull(points), np.inf
    for simplex, plane in zip(hull.simplices, hull.equations, strict=True):
        for k in range(3):
            u = points[simplex[k]] - points[simplex[k - 1]]
            u = u / np.linalg.norm(u)
            frame = np.stack([u, np.cross(plane[:3], u), plane[:3]])
            best = min(best, np.ptp(points @ frame.T, axis=0).prod())
    return best


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_fitted_boxes_equal_slow_references(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(int(rng.integers(5, 15)), 3)) * rng.uniform(0.1, 2, 3)
    upright = fit_box(points, "upright_min").axes_lengths
    assert upright[0] * upright[1] == pytest.approx(slow_min_rectangle(points[:, :2]), rel=1e-8)
    assert upright[2] == pytest.approx(np.ptp(points[:, 2]))
    assert fit_box(points, "min_obb").axes_lengths.prod() == pytest.approx(slow_min_volume(points), rel=1e-8)
    np.testing.assert_allclose(fit_box(points, "aabb").axes_lengths, [max(c) - min(c) for c in points.T], atol=1e-12)


# --- distances ---


def test_box_distance_by_hand():
    a = box([0, 0, 0], [2, 2, 2])
    # Face to face along x: 4 - 1 - 1 = 2.
    assert box_distance(a, box([4, 0, 0], [2, 2, 2])) == pytest.approx(2)
    # Corner to corner: gaps (3 - 2, 3 - 2, 3 - 2) -> sqrt 3.
    assert box_distance(a, box([3, 3, 3], [2, 2, 2])) == pytest.approx(np.sqrt(3))
    # Turned by 45 degrees its half diagonal sqrt 2 points at a: 4 - 1 - sqrt 2.
    assert box_distance(a, box([4, 0, 0], [2, 2, 2], yaw_degrees=45)) == pytest.approx(3 - np.sqrt(2))
    # Two edges that cross in the air: a's top edge along y at (1, ., 1), the other's bottom edge along x at z = 2.
    tilted = Box(np.array([1, 0, 2 + np.sqrt(2)]), np.array([2.0, 2.0, 2.0]), np.eye(3)[[0, 1, 2]])
    tilted = Box(tilted.centroid, tilted.axes_lengths, Rotation.from_euler("x", 45, degrees=True).as_matrix())
    assert box_distance(a, tilted) == pytest.approx(1)
    assert centroid_distance(a, box([3, 4, 0], [1, 1, 1])) == 5


def test_touching_nested_and_crossing_boxes_are_at_distance_zero():
    a = box([0, 0, 0], [2, 2, 2])
    assert box_distance(a, box([2, 0, 0], [2, 2, 2])) == 0
    assert box_distance(a, box([0.1, 0, 0], [0.2, 0.2, 0.2], 20)) == 0
    assert box_distance(box([0.1, 0, 0], [0.2, 0.2, 0.2], 20), a) == 0
    assert box_distance(a, box([0, 0, 0], [9, 0.1, 0.1], 7)) == 0  # a bar through it, no corner inside


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_box_distance_equals_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    first, second = [random_box(rng) for _ in range(4)], [random_box(rng) for _ in range(4)]
    expected = [slow_box_distance(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(np.diag(box_distances(first, second)), expected, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_box_distance_is_symmetric_and_does_not_move_with_the_room(seed):
    rng = np.random.default_rng(seed)
    a, b = random_box(rng), random_box(rng)
    rotation, shift = Rotation.random(rng=rng).as_matrix(), rng.uniform(-5, 5, 3)
    distance = box_distance(a, b)
    assert box_distance(b, a) == pytest.approx(distance, abs=1e-9)
    assert box_distance(moved(a, rotation, shift), moved(b, rotation, shift)) == pytest.approx(distance, abs=1e-9)
    assert distance <= centroid_distance(a, b) + 1e-12


def test_box_distance_survives_parallel_and_nearly_parallel_edges():
    a = box([0, 0, 0], [1, 1, 1])
    for yaw in (0, 1e-12, 1e-9, 1e-6, 90, 90 + 1e-9):
        assert box_distance(a, box([1.7, 1.7, 0.3], [1, 1, 1], yaw)) == pytest.approx(0.7 * np.sqrt(2), abs=1e-7)


def test_distance_table_has_a_row_per_first_box():
    boxes = [box([x, 0, 0], [1, 1, 1]) for x in (0, 2, 5)]
    np.testing.assert_allclose(box_distances(boxes[:2], boxes), [[0, 1, 4], [1, 0, 2]], atol=1e-12)
    assert box_distances([], boxes).shape == (0, 3)


# --- floor area ---


def floor(width: float, depth: float, step: float = 0.05) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, width + 1e-9, step), np.arange(0, depth + 1e-9, step))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def test_alpha_shape_of_a_rectangle_an_l_and_two_rooms():
    assert alpha_shape_area(floor(4, 3)) == pytest.approx(12)
    # An L: 4 x 3 less its 2 x 1.5 corner (kept points have x <= 2 or y <= 1.5) = 9; at the inner corner the alpha
    # shape may bridge a triangle whose circumradius is below 0.2 m.
    grid = floor(4, 3)
    assert alpha_shape_area(grid[(grid[:, 0] <= 2 + 1e-9) | (grid[:, 1] <= 1.5 + 1e-9)]) == pytest.approx(9, abs=0.05)
    # Disjoint parts add up: 4 x 3 + 2 x 2.
    assert alpha_shape_area(np.concatenate([floor(4, 3), floor(2, 2) + np.array([6, 0])])) == pytest.approx(16)


def test_holes_are_filled_or_kept():
    grid = floor(4, 4)
    ring = grid[np.abs(grid - 2).max(axis=1) > 1 - 1e-9]  # a 2 x 2 hole in 4 x 4
    assert alpha_shape_area(ring) == pytest.approx(16)
    # Kept: 16 - 4; the four inner corners are bridged by triangles with legs up to 0.2 m (0.02 m2 each).
    assert alpha_shape_area(ring, holes="keep") == pytest.approx(12, abs=0.1)
    # A bay open to the outside is no hole: a 2 x 1 notch in the lower side stays out.
    bay = grid[(np.abs(grid[:, 0] - 2) > 1 - 1e-9) | (grid[:, 1] > 1 - 1e-9)]
    assert alpha_shape_area(bay) == pytest.approx(14, abs=0.05)


def random_sets():
    rng = np.random.default_rng(1)
    for k in range(24):
        points = rng.uniform(0, 1, (int(rng.integers(200, 3000)), 2)) * rng.uniform(1, 6, 2)
        if k % 3 == 0:
            points = points[np.hypot(*(points - points.mean(0)).T) > rng.uniform(0.3, 0.8)]
        if k % 3 == 1:
            points = np.concatenate([points, points[:100]])
        if k % 5 == 0:
            points = np.concatenate([points, points[: len(points) // 2] + 8])
        yield points


def test_alpha_shape_equals_areas_printed_by_the_alphashape_package():
    # alphashape 1.3.1 (alphashape(points, 5.0).area) on all 24 sets: holes, doubled points, disjoint parts.
    # fmt: off
    published = [
        37.78217281370911, 12.14132666214496, 3.7025346974281343, 16.38462077334476, 5.7102096494610874,
        6.208773339200972, 13.645519229228784, 12.28096829830041, 4.73015940331471, 3.8491528219671762,
        17.362906767978163, 18.656299103856217, 8.399766836246128, 7.311870127822898, 7.366683731462598,
        3.0983494463280232, 9.43361759255092, 10.193271070821915, 5.276190840545401, 2.597453510778273,
        4.181133366656324, 7.744582913620699, 8.383809419532575, 18.961850533895817,
    ]
    # fmt: on
    ours = [alpha_shape_area(points) for points in random_sets()]
    np.testing.assert_allclose(ours, published, atol=1e-9)


@pytest.mark.integration  # the areas it prints for these sets are checked above
def test_alpha_shape_equals_the_alphashape_package():
    alphashape = pytest.importorskip("alphashape", reason="the alphashape package is not installed")
    for points in random_sets():
        assert alpha_shape_area(points) == pytest.approx(alphashape.alphashape(points, 5.0).area, abs=1e-6)


def slow_alpha_area(points: np.ndarray, alpha: float, holes: str) -> float:
    """Triangle by triangle; empty ones that the outside reaches, found by walking, are left out."""
    triangulation = Delaunay(points)
    kept, areas = [], []
    for simplex in triangulation.simplices:
        a, b, c = (np.linalg.norm(points[simplex[k]] - points[simplex[k - 1]]) for k in range(3))
        half = (a + b + c) / 2
        area = np.sqrt(max(half * (half - a) * (half - b) * (half - c), 0.0))  # Heron
        areas.append(area)
        kept.append(area > 0 and a * b * c / (4 * area) < 1 / alpha)
    if holes == "keep":
        return sum(area for area, is_in in zip(areas, kept, strict=True) if is_in)
    outside = {t for t, row in enumerate(triangulation.neighbors) if not kept[t] and -1 in row}
    todo = list(outside)
    while todo:
        for t in triangulation.neighbors[todo.pop()].tolist():
            if t >= 0 and not kept[t] and t not in outside:
                outside.add(t)
                todo.append(t)
    return sum(area for t, area in enumerate(areas) if t not in outside)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(["fill", "keep"]), st.sampled_from([2.0, 5.0]))
def test_alpha_shape_area_equals_the_slow_reference(seed, holes, alpha):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 2, (int(rng.integers(10, 250)), 2))
    if rng.random() < 0.5:
        points = points[np.hypot(*(points - 1).T) > 0.45]  # a hole in the middle
    assert alpha_shape_area(points, alpha, holes) == pytest.approx(slow_alpha_area(points, alpha, holes), abs=1e-9)


def test_room_area_hands_alpha_and_holes_on():
    grid = floor(4, 4)
    ring = grid[np.abs(grid - 2).max(axis=1) > 1 - 1e-9]
    vertices = np.column_stack([ring, np.zeros(len(ring))])
    assert room_area(vertices, "voxel5cm") == pytest.approx(16, rel=0.005)
    assert room_area(vertices, "voxel5cm", holes="keep") == pytest.approx(12, abs=0.15)
    # At alpha = 100 a triangle of 5 cm legs (circumradius 3.5 cm) is too large.
    assert room_area(vertices, "voxel5cm", alpha=100.0, holes="keep") is None


def test_alpha_shape_of_nothing_is_zero_and_bad_arguments_are_refused():
    assert alpha_shape_area(np.zeros((0, 2))) == 0
    assert alpha_shape_area(np.array([[0.0, 0], [1, 1], [2, 2]])) == 0
    with pytest.raises(ValueError, match="alpha"):
        alpha_shape_area(floor(1, 1), alpha=0)
    with pytest.raises(ValueError, match="holes"):
        alpha_shape_area(floor(1, 1), holes="drop")


def test_room_area_from_vertices_is_within_three_percent_and_repeatable():
    rng = np.random.default_rng(0)
    vertices = rng.uniform(0, 1, (60_000, 3)) * [5, 4, 2.5]  # 20 m2
    random = room_area(vertices, "random10k", "scene0000_00")
    assert random == pytest.approx(20, rel=0.03)
    assert random == room_area(vertices, "random10k", "scene0000_00")
    assert random != room_area(vertices, "random10k", "scene0000_01")
    assert room_area(vertices, "voxel5cm") == pytest.approx(20, rel=0.005)
    with pytest.raises(ValueError, match="alpha_points"):
        room_area(vertices, "voxel10cm")


def test_voxels_keep_the_outline_of_a_turned_coarse_floor():
    turn = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    vertices = np.concatenate([floor(4, 3, 0.1), floor(4, 3, 0.1)])
    vertices = np.column_stack([vertices, np.zeros(len(vertices))]) @ turn.T
    assert room_area(vertices, "voxel5cm") == pytest.approx(12, rel=0.005)


def test_room_without_an_area_is_none():
    assert room_area(np.zeros((2, 3))) is None
    assert room_area(np.array([[0.0, 0, 0], [1, 0, 1], [2, 0, 2], [np.nan, 1, 1]])) is None


# --- bearings ---


@pytest.mark.parametrize(
    ("target", "degrees"),
    [((0, 2), 0), ((-1, 1), 45), ((-1, 0), 90), ((0, -1), 180), ((1, 0), 270), ((1, 1), 315)],
)
def test_bearing_counts_counter_clockwise_from_the_facing_direction(target, degrees):
    # Standing at the origin, facing north (+y): west is to the left, 90.
    assert bearing_degrees(np.zeros(3), np.array([0, 1, 5.0]), np.array([*target, -3.0])) == pytest.approx(degrees)


def test_bearing_stays_below_a_full_turn():
    assert bearing_degrees(np.zeros(2), np.array([0, 1.0]), np.array([1e-300, 1.0])) < 360


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_turning_round_adds_half_a_turn(seed):
    p, o, q = np.random.default_rng(seed).uniform(-3, 3, (3, 3))
    forward, backward = bearing_degrees(p, o, q), bearing_degrees(p, 2 * p - o, q)
    assert (backward - forward) % 360 == pytest.approx(180, abs=1e-6)
