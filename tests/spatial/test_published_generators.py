"""What published generators of questions get wrong, as far as it can be computed; docs/question_types.md tells it."""

import numpy as np
import pytest

from vsgrpo.spatial.scoring import mra_many

NUM_PAIRS = 20_000


def random_poses(rng, low: float, high: float):
    """Return rotations camera -> world (N, 3, 3) and places (N, 3) of level cameras at 1.5 m in a square room."""
    places = np.column_stack([rng.uniform(low, high, (NUM_PAIRS, 2)), np.full(NUM_PAIRS, 1.5)])
    heading = rng.uniform(0, 2 * np.pi, NUM_PAIRS)
    zero = np.zeros(NUM_PAIRS)
    right = np.stack([np.sin(heading), -np.cos(heading), zero], axis=1)
    forward = np.stack([np.cos(heading), np.sin(heading), zero], axis=1)
    return np.stack([right, np.cross(forward, right), forward], axis=2), places


def place_of_the_origin(rotations, places):
    """Return -R^T c of camera -> world poses [R | c]: where the camera sees the world's origin, not where it is."""
    return -np.einsum("nji,nj->ni", rotations, places)


@pytest.mark.parametrize(
    ("low", "high", "wrong_metres", "perfect"),
    [
        (0.0, 3.0, 3.14, 0.26),  # origin in a corner of a room of 3 x 3 m
        (-1.5, 1.5, 1.57, 0.41),  # origin in its middle
    ],
)
def test_a_perfect_answer_fails_against_displacements_of_the_wrong_place(low, high, wrong_metres, perfect):
    # VSTI-Bench's scripts take -R^T c of camera -> world matrices for the place of the camera. The true displacement is
    # |c2 - c1|, on average 0.5214 x 3 m = 1.56 m for two random places of a square.
    rng = np.random.default_rng(0)
    first, second = random_poses(rng, low, high), random_poses(rng, low, high)
    true = np.linalg.norm(second[1] - first[1], axis=1)
    wrong = np.linalg.norm(place_of_the_origin(*second) - place_of_the_origin(*first), axis=1)
    kept = (wrong > 0.2) & (wrong < 10)  # the range that its scripts keep
    assert true.mean() == pytest.approx(1.56, abs=0.02)
    assert wrong[kept].mean() == pytest.approx(wrong_metres, abs=0.05)
    assert np.corrcoef(true[kept], wrong[kept])[0, 1] < 0.3
    assert mra_many(true[kept], wrong[kept]).mean() == pytest.approx(perfect, abs=0.015)


def test_a_camera_that_only_turns_has_moved_by_the_wrong_place():
    # It stands 2 m from the origin and turns by 90 degrees: sqrt(2) x 2 m instead of 0.
    quarter = np.array([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    places = np.array([[2.0, 0, 0]])
    moved = place_of_the_origin(quarter, places) - place_of_the_origin(np.eye(3)[None], places)
    assert np.linalg.norm(moved) == pytest.approx(2 * np.sqrt(2))
