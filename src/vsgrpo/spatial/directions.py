"""Questions about relative direction: which word a bearing means, which triples of objects are clear enough to ask.

Source: VSI-Bench's generator (rules confirmed on its questions): theta counter-clockwise in [0, 360); hard quadrants
front-left, back-left, back-right, front-right; medium left [0, 135), back [135, 225), right [225, 360); easy as
medium without back, so 180 is no boundary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.geometry import bearing_degrees, object_distances
from vsgrpo.spatial.question import Asking, Question, names_overlap
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.questions import fields_of, only_object, option_word, pattern_of
from vsgrpo.spatial.scene import Box, Scene, SceneObject

DIRECTION_EASY_VSI100K = (
    "If I am standing by the {standing} and facing the {facing} "
    "is the {target} to the left or the right of the {facing}?"
)
DIRECTION = {
    "easy": "If I am standing by the {standing} and facing the {facing}, "
    "is the {target} to the left or the right of the {facing}?",
    "medium": "If I am standing by the {standing} and facing the {facing}, "
    "is the {target} to my left, right, or back?\n"
    "An object is to my back if I would have to turn at least 135 degrees in order to face it.",
    "hard": "If I am standing by the {standing} and facing the {facing}, "
    "is the {target} to my front-left, front-right, back-left, or back-right?\n"
    "The directions refer to the quadrants of a Cartesian plane "
    "(if I am standing at the origin and facing along the positive y-axis).",
}
WORDS = {
    "easy": ("left", "right"),
    "medium": ("left", "right", "back"),
    "hard": ("front-left", "front-right", "back-left", "back-right"),
}
_THIRDS, _QUADRANTS = np.array([0.0, 135.0, 225.0, 360.0]), np.array([0.0, 90.0, 180.0, 270.0, 360.0])
_BOUNDARIES = {"easy": _THIRDS, "medium": _THIRDS, "hard": _QUADRANTS}
_SECTORS = {
    "easy": ("left", None, "right"),
    "medium": ("left", "back", "right"),
    "hard": ("front-left", "back-left", "back-right", "front-right"),
}
_READ_BACK = {name: pattern_of(template) for name, template in DIRECTION.items()}
_MIN_ARM_M = 0.1
_MAX_CORNER_CHECKS = 2000


def make_rel_direction(ask: Asking) -> list[Question]:
    """Ask where an object lies for one who stands by a second and faces a third; all three categories occur once."""
    difficulty = ask.kind.name.rpartition("_")[2]
    items = ask.nameable_objects()
    distances = object_distances(items, items, "closest_point")
    for i, j in zip(*np.triu_indices(len(items), 1), strict=True):
        if names_overlap(items[i].category, items[j].category):
            distances[i, j] = distances[j, i] = np.nan
    triples = clear_triples([o.box for o in items], distances, difficulty, ask.settings, ask.rng)
    is_paper_form = ask.settings.mode == "vsi100k" and difficulty == "easy"  # the paper has no other
    sentence = DIRECTION_EASY_VSI100K if is_paper_form else DIRECTION[difficulty]
    questions = []
    for standing, facing, target, word in triples[: ask.cap]:
        objects = [items[standing], items[facing], items[target]]
        names = dict(zip(("standing", "facing", "target"), (o.category for o in objects), strict=True))
        words = tuple(str(w) for w in ask.rng.permutation(WORDS[difficulty]))
        questions.append(ask.choice(sentence.format(**names), words, words.index(word), objects))
    return questions


def direction_word(bearing: float, difficulty: str) -> str | None:
    """Return the word for a bearing in degrees, or None where easy has none (behind)."""
    return _SECTORS[difficulty][int(_sector(np.asarray(bearing), difficulty))]


def sector_of(word: str, difficulty: str) -> tuple[float, float]:
    """Return the bearings (low, high) in degrees that a word means.

    Raises:
        ValueError: no such word at this difficulty.
    """
    place, bounds = _SECTORS[difficulty].index(word), _BOUNDARIES[difficulty]
    return float(bounds[place]), float(bounds[place + 1])


def _sector(degrees: NDArray[np.float64], difficulty: str) -> NDArray[np.intp]:
    return np.searchsorted(_BOUNDARIES[difficulty], degrees, side="right") - 1


def clear_triples(
    boxes: Sequence[Box],
    distances: NDArray[np.float64],
    difficulty: str,
    settings: QuestionSettings,
    rng: np.random.Generator,
    turn: float = 0.0,
) -> list[tuple[int, int, int, str]]:
    """Return (standing, facing, target, word) index triples that are not ambiguous, in random order, words in turn.

    Every pairwise distance lies in `direction_range`, the bearing is `direction_margin_degrees` from every boundary
    and at most `max_corners_elsewhere` of the target's 8 corners lie in another sector than its centre.
    Deviation: the benchmark's hard type tests only the upper boundary of a quadrant (a slip); the margin here is
    symmetric. The triples come with their words in turn (left, right, left, ...), so that a cap keeps the balance.

    Args:
        boxes: n boxes.
        distances: (n, n) metres; NaN or infinity excludes a pair.
        turn: degrees added to every bearing: 180 with one's back to the second object.
    """
    low, high = settings.direction_range
    near = (distances >= low) & (distances <= high)
    standing, facing, target = np.nonzero(near[:, :, None] & near[:, None, :] & near[None, :, :])
    different = (standing != facing) & (facing != target) & (standing != target)
    order = rng.permutation(np.flatnonzero(different))
    standing, facing, target = standing[order], facing[order], target[order]
    centers = np.array([b.centroid for b in boxes], dtype=np.float64).reshape(-1, 3)[:, :2]
    degrees = (bearing_degrees(centers[standing], centers[facing], centers[target]) + turn) % 360
    margin = np.abs(degrees[:, None] - _BOUNDARIES[difficulty]).min(axis=1)
    arms = [np.hypot(*(centers[end] - centers[standing]).T) for end in (facing, target)]
    sector = _sector(degrees, difficulty)
    has_word = np.array([word is not None for word in _SECTORS[difficulty]])[sector]
    keep = has_word & (margin >= settings.direction_margin_degrees) & (arms[0] >= _MIN_ARM_M) & (arms[1] >= _MIN_ARM_M)
    kept = np.flatnonzero(keep)[:_MAX_CORNER_CHECKS]  # plenty for any cap, and bounds the work
    if len(kept) == 0:
        return []
    corners = np.array([b.corners() for b in boxes])[target[kept]]
    corner_degrees = bearing_degrees(centers[standing[kept], None], centers[facing[kept], None], corners[..., :2])
    corner_degrees = (corner_degrees + turn) % 360
    elsewhere = (_sector(corner_degrees, difficulty) != sector[kept, None]).sum(axis=1)
    kept = kept[elsewhere <= settings.max_corners_elsewhere]
    rank = np.zeros(len(kept), dtype=np.int64)  # how many of the same sector came before
    for value in np.unique(sector[kept]):
        rank[sector[kept] == value] = np.arange((sector[kept] == value).sum())
    kept = kept[np.argsort(rank, kind="stable")]
    return [(int(standing[k]), int(facing[k]), int(target[k]), str(_SECTORS[difficulty][int(sector[k])])) for k in kept]


def observe_rel_direction(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the angle to turn by."""
    standing, facing, target = objects[:3]
    bearing = float(bearing_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid))
    side, angle = ("left", bearing) if bearing <= 180 else ("right", 360 - bearing)
    return f"To face the {target.category} I turn {round(angle)} degrees to the {side}."


def resolve_rel_direction(difficulty: str, scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the direction in which the target lies."""
    names = fields_of(_READ_BACK[difficulty], question)
    standing, facing, target = (only_object(scene, names[key]) for key in ("standing", "facing", "target"))
    if standing is None or facing is None or target is None:
        return None
    bearing = float(bearing_degrees(standing.box.centroid, facing.box.centroid, target.box.centroid))
    word = direction_word(bearing, difficulty)
    return next((option[0] for option in options if option_word(option) == word), None)
