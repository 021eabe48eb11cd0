"""How much of a floor lies under the lines of sight of frames, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.spatial.sight import floor_cells, reach_of, share_in_sight

SIZE = 57
MATRIX = np.array([[28.5, 0, 28], [0, 28.5, 28], [0, 0, 1.0]])
"""90 degrees wide: half of 57 pixels over 28.5; the middle of the picture is the middle of pixel 28."""
SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4.0]])


def level_pose(x: float, y: float, degrees: float) -> np.ndarray:
    """Return a camera at (x, y, 1.5) that looks level in a direction of the floor plan, (4, 4)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[sin, 0, cos, x], [-cos, 0, sin, y], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def room_depth(pose: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the depth image of an empty room of four walls, floor and ceiling, seen from inside."""
    row, column = np.mgrid[:SIZE, :SIZE]
    rays = np.stack([(column - 28) / 28.5, (row - 28) / 28.5, np.ones((SIZE, SIZE))], axis=-1) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        walls = np.where(rays > 0, high, low) - pose[:3, 3]
        return np.where(np.abs(rays) < 1e-9, np.inf, walls / np.where(rays == 0, 1.0, rays)).min(axis=-1)


def share(eyes, frames, outlines=(SQUARE,)) -> float:
    return share_in_sight(floor_cells(outlines), [np.array(eye) for eye in eyes], frames)


def frame_of(x: float, y: float, degrees: float, size=(4.0, 4.0)) -> np.ndarray:
    pose = level_pose(x, y, degrees)
    return reach_of(room_depth(pose, np.zeros(3), np.array([*size, 2.6])), MATRIX, pose)


def test_reach_is_the_distance_over_the_floor_plan_in_the_direction_of_each_pixel():
    # A wall 2 m ahead along +x, seen from the origin. 2 pi * 28.5 = 179 directions. The middle pixel looks along +x:
    # 2 m. Pixel 0 looks 28 / 28.5 to the left of 1 ahead: angle atan(28 / 28.5) = 0.7766, of 2 pi / 179 = 0.0351 each:
    # direction 22, sqrt(2^2 + (2 * 28 / 28.5)^2) = 2.803 m. Nothing is seen behind. The height does not matter.
    reach = reach_of(np.full((SIZE, SIZE), 2.0), MATRIX, level_pose(0, 0, 0))
    assert reach.shape == (179,)
    assert reach[0] == pytest.approx(2.0, abs=0.002)
    assert reach[22] == pytest.approx(2.803, abs=0.001)
    assert reach[24:154].max() == 0
    # Unknown depth shows nothing.
    assert reach_of(np.zeros((SIZE, SIZE)), MATRIX, level_pose(0, 0, 0)).max() == 0


def test_large_images_are_looked_at_every_few_pixels():
    # 2 pi * 577 / 720 = 5.04: every fifth pixel of a 640 x 480 image, in 720 directions.
    matrix = np.array([[577.0, 0, 319.5], [0, 577.0, 239.5], [0, 0, 1]])
    reach = reach_of(np.full((480, 640), 3.0), matrix, level_pose(0, 0, 90))
    seen = np.flatnonzero(reach)
    half = math.degrees(math.atan(319.5 / 577))  # 29 degrees to both sides of 90
    assert len(reach) == 720 and seen.min() / 2 == pytest.approx(90 - half, abs=1)
    assert seen.max() / 2 == pytest.approx(90 + half, abs=1)
    assert len(seen) == seen.max() - seen.min() + 1  # without a gap


def test_cells_lie_inside_the_outlines():
    # 10 x 10 cells of a square metre; without a hole of 0.5 m a side 75 of them; two squares apart 200.
    unit = SQUARE / 4
    hole = unit / 2 + 0.2
    assert np.array(sorted(floor_cells([unit]).tolist()))[[0, -1]] == pytest.approx(
        np.array([[0.05, 0.05], [0.95, 0.95]])
    )
    assert [len(floor_cells(loops)) for loops in ([unit], [unit, hole], [unit, unit + 3], [], [unit[:2]])] == [
        100,
        75,
        200,
        0,
        0,
    ]
    # A triangle of 4 x 4 / 2 m2, less what the slope cuts: 800 cells but for those half on it.
    assert len(floor_cells([SQUARE[:3]])) == pytest.approx(800, abs=20)


def test_half_of_a_floor_is_half_of_it():
    # Four directions of 90 degrees: 0 and 3 are the half with x above the eye's.
    east = np.array([9, 0, 0, 9], np.float32)
    assert share([(2, 2)], [east]) == pytest.approx(0.5)
    assert share([(2, 2), (2, 2)], [east, np.roll(east, 2)]) == 1.0
    # One metre in every direction from the middle: pi of 16 m2; cells whose centre is inside.
    assert share([(2, 2)], [np.ones(8, np.float32)]) == pytest.approx(math.pi / 16, abs=0.005)
    assert share([], []) == 0.0 and share([(2, 2)], [east], ()) == 0.0


def test_a_view_of_90_degrees_from_the_middle_of_a_square_shows_a_quarter_of_its_floor():
    # Down to the floor under the camera and up to the walls, by lines of sight, though the frame shows no floor near.
    assert share([(2, 2)], [frame_of(2, 2, 0)]) == pytest.approx(0.25, abs=0.02)
    two = [frame_of(2, 2, degrees) for degrees in (0, 90)]
    assert share([(2, 2)] * 2, two) == pytest.approx(0.5, abs=0.03)
    four = [frame_of(2, 2, degrees) for degrees in (0, 90, 180, 270)]
    assert share([(2, 2)] * 4, four) > 0.99


def test_what_is_behind_a_thing_is_not_in_sight():
    # A screen from floor to ceiling 1 m ahead, as wide as the picture: of the quarter of 4 m2 a triangle of 1 m2.
    pose = level_pose(2, 2, 0)
    depth = np.minimum(room_depth(pose, np.zeros(3), np.array([4, 4, 2.6])), 1.0)
    assert share([(2, 2)], [reach_of(depth, MATRIX, pose)]) == pytest.approx(1 / 16, abs=0.01)
    # A low one leaves the wall above it in sight, and so the size of the room.
    depth = room_depth(pose, np.zeros(3), np.array([4, 4, 2.6]))
    depth[28:] = np.minimum(depth[28:], 1.0)
    assert share([(2, 2)], [reach_of(depth, MATRIX, pose)]) == pytest.approx(0.25, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.floats(2, 9), st.floats(2, 9), st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0, 360))
def test_four_views_round_an_empty_room_show_all_of_it_and_two_opposite_ones_not(width, length, x, y, degrees):
    room = SQUARE / 4 * [width, length]
    eye = (x * width, y * length)
    frames = [frame_of(*eye, degrees + turn, (width, length)) for turn in (0, 90, 180, 270)]
    assert share([eye] * 4, frames, (room,)) > 0.97
    apart = share([eye] * 2, frames[::2], (room,)) + share([eye] * 2, frames[1::2], (room,))
    assert apart == pytest.approx(1.0, abs=0.08)  # the two halves meet, and overlap by less than a direction
