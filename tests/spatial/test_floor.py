import numpy as np
import pytest

from vsgrpo.spatial.floor import alpha_shape, room_floor, shape_area, shape_outlines


def shoelace(loop):
    x, y = loop.T
    return abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def grid(width, height, step=0.1):
    return np.stack(np.meshgrid(np.arange(0, width + 1e-9, step), np.arange(0, height + 1e-9, step)), -1).reshape(-1, 2)


def test_the_outline_of_a_rectangle_holds_its_area_and_bounds():
    (loop,) = shape_outlines(alpha_shape(grid(4.0, 3.0)))
    assert shoelace(loop) == pytest.approx(12.0)
    assert loop.min(axis=0).tolist() == [0.0, 0.0] and loop.max(axis=0) == pytest.approx([4.0, 3.0])


def test_parts_and_kept_holes_are_loops_of_their_own_largest_first():
    ring = grid(4.0, 4.0)
    ring = ring[np.abs(ring - 2.0).max(axis=1) > 0.95]  # a hole of 2 x 2 m between points at 1.0 and 3.0
    outer, inner = shape_outlines(alpha_shape(ring, holes="keep"))
    assert shoelace(outer) == pytest.approx(16.0)
    assert shoelace(inner) == pytest.approx(4.0, abs=0.1)  # triangles of 0.1 m cut the hole's corners
    assert shape_area(alpha_shape(ring, holes="keep")) == pytest.approx(shoelace(outer) - shoelace(inner))
    assert len(shape_outlines(alpha_shape(ring))) == 1
    apart = np.concatenate([grid(1.0, 1.0), grid(2.0, 1.0) + 9.0])
    assert [round(shoelace(loop), 6) for loop in shape_outlines(alpha_shape(apart))] == [2.0, 1.0]


def test_random_outlines_agree_with_the_area():
    rng = np.random.default_rng(0)
    for _ in range(10):
        xy = rng.random((400, 2)) * [3.0, 2.0]
        total = sum(shoelace(loop) for loop in shape_outlines(alpha_shape(xy, holes="fill")))
        assert total == pytest.approx(shape_area(alpha_shape(xy, holes="fill")), rel=1e-9)


@pytest.mark.parametrize("kind", ["random10k", "voxel5cm"])
def test_the_room_outline_is_that_of_its_area(kind):
    vertices = np.column_stack([grid(4.0, 3.0, 0.04), np.zeros(len(grid(4.0, 3.0, 0.04)))])
    area, loops = room_floor(vertices, kind, "scene0000_00")
    assert sum(shoelace(loop) for loop in loops) == pytest.approx(area)


def test_nothing_has_no_outline():
    assert shape_outlines(alpha_shape(np.zeros((0, 2)))) == [] and shape_outlines(alpha_shape(np.zeros((5, 2)))) == []
    assert room_floor(np.zeros((2, 3))) == (None, [])
