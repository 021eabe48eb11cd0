import numpy as np
import pytest
from furnished_room import SIZE, box_sides, furnished_room, rectangle
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.scans.walk.rasterizer import NEAR, Camera, Surface

WIDTH, HEIGHT = 64, 48


def camera(eye=(0.0, 0.0, 0.0), yaw=0.0, pitch=0.0, hfov=90.0, width=WIDTH, height=HEIGHT):
    return Camera(eye, yaw, pitch, width, height, hfov)


def surface(points, faces, colors=None):
    return Surface(np.asarray(points), np.full((len(points), 3), 100) if colors is None else colors, np.asarray(faces))


def hit_points(raster, view):
    """World points of all pixels, (H * W, 3) float64."""
    rays = np.stack(view.rays(np.arange(view.width * view.height)), axis=1).astype(float)
    return np.array(view.eye) + rays * raster.depth.reshape(-1, 1)


def test_camera_axes_follow_yaw_and_pitch():
    # Yaw 90 looks along +y, its right hand is +x, down is -z.
    np.testing.assert_allclose(camera(yaw=90).axes(), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-15)
    # Pitch -90 looks at the floor.
    np.testing.assert_allclose(camera(pitch=-90).axes()[2], [0, 0, -1], atol=1e-15)
    axes = camera(yaw=33, pitch=-15).axes()
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)


def test_focal_length_of_90_degrees_is_half_the_width():
    assert camera().focal == pytest.approx(32)


@pytest.mark.parametrize("step", [9.0, 0.3])
def test_depth_of_a_facing_wall_is_its_distance(step):
    points, faces = rectangle((2, -4, -4), (0, 8, 0), (0, 0, 8), step)
    raster = surface(points, faces).draw(camera())
    assert (raster.face >= 0).all()
    np.testing.assert_allclose(raster.depth, 2, rtol=1e-6)


def test_wall_covers_the_pixels_of_its_projection():
    # A 1 m square 2 m away, focal 32 px: 16 px wide, centred on (31.5, 23.5): columns 24..39, rows 16..31.
    points, faces = rectangle((2, -0.5, -0.5), (0, 1, 0), (0, 0, 1), 0.2)
    seen = surface(points, faces).draw(camera()).face >= 0
    rows, columns = np.nonzero(seen)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 24, 39)
    assert seen.sum() == 16 * 16


@pytest.mark.parametrize("step", [20.0, 0.5])
def test_floor_depth_and_color_equal_the_analytic_ones(step):
    # One pair of 20 m triangles reaches behind the eye and is cut at the near plane.
    points, faces = rectangle((-10, -10, -1.5), (20, 0, 0), (0, 20, 0), step)
    # Colour affine in x and y: what perspective-correct interpolation must give back at each hit point.
    tone = np.stack([128 + 12 * points[:, 0], 128 + 12 * points[:, 1], 128 - 6 * points[:, 0]], axis=1)
    plane = surface(points, faces, np.round(tone).astype(np.uint8))
    view = camera(yaw=30, pitch=-35)
    raster = plane.draw(view)
    image = plane.shade(raster, view).reshape(-1, 3)
    hits = hit_points(raster, view)
    on = (raster.face >= 0).reshape(-1) & (np.abs(hits[:, :2]) < 9.9).all(1)
    assert on.sum() > 0.8 * on.size
    np.testing.assert_allclose(hits[on, 2], -1.5, atol=2e-4)
    expected = np.stack([128 + 12 * hits[:, 0], 128 + 12 * hits[:, 1], 128 - 6 * hits[:, 0]], axis=1)
    assert np.abs(image[on] - expected[on]).max() <= 1.5


def test_nearer_face_wins_and_ids_are_right():
    wall, wall_faces = rectangle((4, -4, -4), (0, 8, 0), (0, 0, 8), 9)
    card, card_faces = rectangle((2, -0.5, -0.5), (0, 1, 0), (0, 0, 1), 9)
    raster = surface(np.concatenate([wall, card]), np.concatenate([wall_faces, card_faces + 4])).draw(camera())
    assert raster.face[24, 32] in (2, 3)
    assert raster.depth[24, 32] == pytest.approx(2)
    assert raster.face[2, 2] in (0, 1)
    assert (raster.face >= 2).sum() == 256


def test_order_of_faces_does_not_matter():
    room = furnished_room()
    view = camera(eye=(2.5, 2.0, 1.5), yaw=200, pitch=-15)
    order = np.random.default_rng(0).permutation(len(room.faces))
    first = Surface(room.vertices, room.colors, room.faces).draw(view)
    second = Surface(room.vertices, room.colors, room.faces[order]).draw(view)
    np.testing.assert_array_equal(first.depth, second.depth)


def test_view_into_nothing_is_void():
    points, faces = rectangle((-2, -1, -1), (0, 2, 0), (0, 0, 2), 0.5)
    drawn = surface(points, faces)
    raster = drawn.draw(camera())
    assert (raster.face == -1).all()
    assert np.isinf(raster.depth).all()
    assert not drawn.shade(raster, camera()).any()


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.15, 4.85),
    st.floats(0.15, 3.85),
    st.floats(0.15, 2.45),
    st.floats(0, 360),
    st.floats(-80, 80),
    st.booleans(),
)
def test_closed_room_has_no_cracks(x, y, z, yaw, pitch, is_coarse):
    # From inside a closed box each pixel hits a wall, at the distance of the box along the ray.
    sides = box_sides((0, 0, 0), SIZE, 9 if is_coarse else 0.21)
    starts = np.cumsum([0] + [len(points) for points, _ in sides])
    room = surface(
        np.concatenate([points for points, _ in sides]),
        np.concatenate([faces + start for (_, faces), start in zip(sides, starts[:-1], strict=True)]),
    )
    view = camera(eye=(x, y, z), yaw=yaw, pitch=pitch)
    raster = room.draw(view)
    assert (raster.face >= 0).all()
    rays = np.stack(view.rays(np.arange(WIDTH * HEIGHT)), axis=1).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(rays > 0, np.array(SIZE) - view.eye, -np.array(view.eye)) / rays
    np.testing.assert_allclose(raster.depth.reshape(-1), np.nanmin(reach, axis=1), rtol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_triangles_match_ray_casting(seed):
    """Every pixel clearly inside or outside of all triangles agrees with double-precision ray casting."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-3, 3, (12, 3, 3)) + np.array([rng.uniform(1, 5), 0, 0])
    view = camera(width=32, height=24)
    raster = surface(corners.reshape(-1, 3), np.arange(36).reshape(-1, 3)).draw(view)
    rays = np.stack(view.rays(np.arange(32 * 24)), axis=1).astype(float)
    best = np.full(len(rays), np.inf)
    doubtful = np.zeros(len(rays), bool)
    for a, b, c in corners:
        # Moeller-Trumbore with the eye at the origin.
        across = np.cross(rays, c - a)
        scale = across @ (b - a)
        u = across @ -a / scale
        v = rays @ np.cross(-a, b - a) / scale
        depth = (c - a) @ np.cross(-a, b - a) / scale
        margin = np.minimum(np.minimum(u, v), 1 - u - v)
        doubtful |= (np.abs(margin) < 1e-3) & (depth > 0) | (np.abs(depth - NEAR) < 1e-3) | (np.abs(scale) < 1e-4)
        inside = (margin > 0) & (depth >= NEAR)
        best[inside] = np.minimum(best[inside], depth[inside])
    np.testing.assert_allclose(raster.depth.reshape(-1)[~doubtful], best[~doubtful], rtol=1e-3)
