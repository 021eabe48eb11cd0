"""Maps of a room on a grid of 10 x 10 cells: read them out of a model's text, score them, and what needs no eyes.

A map names the cells [x, y] of all instances of some categories: `<map>{"table": [[0, 3], [5, 7]]}</map>`. Source of
the format and of `published_score`: SpaceR (SG-RLVR). Its score is nearly blind: docs/question_types.md has the table.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

GRID = 10
"""Cells along each side."""
REACH = 3.0
"""Cells from which on a point earns nothing in the strict score."""
_WRONG = 0.5
"""Strict score that a turned or mirrored map may have to be given as a wrong one."""
Cell = tuple[int, int]
Cells = dict[str, tuple[Cell, ...]]
"""Category -> the cells of its instances, in order where they are read."""
_MAX_CHARACTERS = 20_000
_DIAGONAL = GRID * math.sqrt(2)
_TAGGED = re.compile(r"<map>((?:(?!</?map>).)*)</map>", re.DOTALL)
_OPENED = re.compile(r"<map>(.*)", re.DOTALL | re.IGNORECASE)


class _NoMap(ValueError):
    """A text that is no map."""


# --- reading and writing ---


def read_map(text: str) -> Cells | None:
    """Return the map of the last closed `<map>..</map>` of a text, None where there is none or it breaks a rule.

    Rules: a JSON object of category -> list of [x, y], whole numbers 0..9; no category twice (case and outer space
    aside); at most 20,000 characters. A map that breaks one is none at all, however much of it is right.
    """
    found = _TAGGED.findall(text)
    return cells_of(found[-1]) if found else None


def read_map_leniently(text: str) -> Cells | None:
    """Return the map that a person would read: also one without tags, in a code block, or whose tag is not closed."""
    if (found := read_map(text)) is not None:
        return found
    opened = _OPENED.findall(text)
    part = opened[-1] if opened else text
    start, end = part.find("{"), part.rfind("}")  # a pattern would look for the end behind every brace
    return cells_of(part[start : end + 1]) if 0 <= start < end else None


def read_map_as(scorer: str, text: str) -> Cells | None:
    """Return the map that a scorer reads in an answer: `lenient` as a person would, the others by its tags."""
    return read_map_leniently(text) if scorer == "lenient" else read_map(text)


def cells_of(value: Any) -> Cells | None:
    """Return the map that JSON text, or what was read of it, stands for; None where it breaks a rule of `read_map`."""
    try:
        if isinstance(value, str):
            if len(value) > _MAX_CHARACTERS:
                return None
            value = json.loads(value, object_pairs_hook=_once, parse_constant=_refuse)
        return _checked(value)
    except (ValueError, RecursionError):  # of the JSON, of a number of thousands of digits, or `_NoMap`
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _NoMap("a key twice")
    return dict(pairs)


def _refuse(name: str) -> None:
    raise _NoMap(name)


def _checked(value: Any) -> Cells:
    if not isinstance(value, Mapping):
        raise _NoMap("no object")
    cells: Cells = {}
    for key, points in value.items():
        name = category_key(key) if isinstance(key, str) else ""
        if not name or name in cells or not isinstance(points, list | tuple):
            raise _NoMap("a category without a name or list, or one twice")
        cells[name] = tuple(sorted(_cell(point) for point in points))
    return cells


def _cell(point: Any) -> Cell:
    is_pair = isinstance(point, list | tuple) and len(point) == 2
    if not is_pair or not all(type(part) is int and 0 <= part < GRID for part in point):
        raise _NoMap("a cell that is no [x, y] of the grid")
    return point[0], point[1]


def category_key(name: str) -> str:
    """Return a category's name as maps compare them."""
    return " ".join(name.casefold().split())


def map_text(cells: Mapping[str, Sequence[Cell]]) -> str:
    """Return a map as answers write it; the categories as they come, the cells of each in order."""
    listed = {name: [list(cell) for cell in sorted(points)] for name, points in cells.items()}
    return f"<map>{json.dumps(listed, ensure_ascii=False)}</map>"


def least_tokens(cells: Mapping[str, Sequence[Cell]]) -> int:
    """Return the tokens that a map takes at least: Qwen's tokenizers give each digit one, and what is between one more.

    A cell has two digits and something behind each, a category its name and something around it. True maps take about
    half as many again.
    """
    return 1 + sum(2 + 4 * len(points) for points in cells.values())


# --- scores ---


def strict_score(prediction: Cells | None, truth: Cells) -> float:
    """Return how near a map's points are to the true ones: max(0, 1 - d / 3) each, d in cells; 0 for no map.

    Ours. Points are paired per category, nearest pairs first; their sum over max(number predicted, number true) is the
    category's score, and the map's is the mean over categories weighted by their true points. Categories that are not
    asked for cost nothing.

    Raises:
        ValueError: a true map without points.
    """
    return _score(prediction, truth, REACH)


def published_score(prediction: Cells | None, truth: Cells) -> float:
    """Return SpaceR's score of a map: as `strict_score`, but a point earns 1 - d / (10 sqrt 2), so any earns something.

    Raises:
        ValueError: a true map without points.
    """
    return _score(prediction, truth, _DIAGONAL)


def _score(prediction: Cells | None, truth: Cells, reach: float) -> float:
    total = sum(map(len, truth.values()))
    if not total:
        raise ValueError("a true map without points: nothing to score")
    if prediction is None:
        return 0.0
    earned = 0.0
    for name, points in truth.items():
        said = prediction.get(name, ())
        if points and said:
            near = sum(max(0.0, 1.0 - distance / reach) for distance in _paired(said, points))
            earned += near / max(len(said), len(points)) * len(points)
    return earned / total


def _paired(said: Sequence[Cell], points: Sequence[Cell]) -> Iterator[float]:
    """Yield the distances of pairs of points, nearest first, each point in one pair; of equals the earlier ones."""
    gaps = np.hypot(*(np.array(said)[:, None] - np.array(points)[None]).transpose(2, 0, 1))
    taken: tuple[set[int], set[int]] = (set(), set())
    for place in np.argsort(gaps, axis=None, kind="stable"):
        i, j = divmod(int(place), len(points))
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            yield float(gaps[i, j])
            if len(taken[0]) == min(len(said), len(points)):
                return


# --- maps that need no eyes, and wrong ones ---


def centred(truth: Cells, one_each: bool = False) -> Cells:
    """Return all points of a map in its middle, or one point of each category there."""
    middle = (GRID // 2, GRID // 2)
    return {name: (middle,) * (1 if one_each else len(points)) for name, points in truth.items()}


def scattered(truth: Cells, rng: np.random.Generator) -> Cells:
    """Return as many points of each category, anywhere on the grid."""
    return {n: tuple((int(x), int(y)) for x, y in rng.integers(GRID, size=(len(p), 2))) for n, p in truth.items()}


def turned(truth: Cells, quarters: int) -> Cells:
    """Return the map turned counter-clockwise by so many quarters."""
    for _ in range(quarters % 4):
        truth = {name: tuple((GRID - 1 - y, x) for x, y in points) for name, points in truth.items()}
    return truth


def mirrored(truth: Cells) -> Cells:
    """Return the map with left and right exchanged."""
    return {name: tuple((GRID - 1 - x, y) for x, y in points) for name, points in truth.items()}


def shifted(truth: Cells, cells: int = 1) -> Cells:
    """Return the map with every point so many cells further to the right, the last ones to the left."""
    return {
        name: tuple((x + cells if x + cells < GRID else x - cells, y) for x, y in points)
        for name, points in truth.items()
    }


def wrong_map(truth: Cells, rng: np.random.Generator) -> Cells:
    """Return a map that reads like the true one and is wrong: turned or mirrored; scattered where these are right."""
    others = [turned(truth, 1), turned(truth, 2), turned(truth, 3), mirrored(truth), mirrored(turned(truth, 2))]
    wrong = [other for other in others if strict_score(other, truth) <= _WRONG]
    if wrong:
        return wrong[int(rng.integers(len(wrong)))]
    return min((scattered(truth, rng) for _ in range(8)), key=lambda other: strict_score(other, truth))
