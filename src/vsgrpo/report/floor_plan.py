"""Floor plans as SVG: a scene seen from above (metres, y up the page), and the objects of a question in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from html import escape

import numpy as np
from numpy.typing import NDArray

from vsgrpo.data.frame_true import named_frames
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.spatial.directions import sector_of
from vsgrpo.spatial.geometry import bearing_degrees
from vsgrpo.spatial.moments import moments_of
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Box, Scene

_MARGIN_M = 0.3
_LETTER_WIDTH = 0.56  # of the font size


@dataclass(frozen=True)
class Plan:
    """The floor plan of one scene.

    Attributes:
        view: viewBox (x, y, width, height) in metres, y down.
        footprints: instance id -> corner points (K, 2) in view coordinates.
        symbol: id of the SVG symbol that holds floor and footprints.
        cameras: number of a frame shown -> (2, 2) where the camera is, and the way it looks (length 1).
    """

    view: tuple[float, float, float, float]
    footprints: dict[int, NDArray[np.float64]]
    centers: dict[int, NDArray[np.float64]]
    symbol: str
    floor: str
    cameras: dict[int, NDArray[np.float64]] = field(default_factory=dict)


def make_plan(scene: Scene, symbol: str) -> Plan:
    """Lay out a scene: floor outline (where the scene json has one) and footprints."""
    loops = [
        _flip(np.asarray(loop, dtype=np.float64)) for loop in scene.extra.get("floor_outline", []) if len(loop) > 2
    ]
    footprints = {item.instance_id: _flip(footprint(item.box)) for item in scene.objects}
    centers = {item.instance_id: _flip(item.box.centroid[None, :2])[0] for item in scene.objects}
    points = (
        np.concatenate([*loops, *footprints.values(), np.zeros((0, 2))]) if loops or footprints else np.zeros((1, 2))
    )
    low, high = points.min(axis=0) - _MARGIN_M, points.max(axis=0) + _MARGIN_M
    view = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
    floor = "".join(f"M{_path(loop)}Z" for loop in loops)
    cameras = {}
    for moment in moments_of(scene):
        ahead = np.radians(moment.heading_degrees)
        cameras[moment.number] = _flip(np.array([moment.center[:2], [np.cos(ahead), np.sin(ahead)]]))
    return Plan(view, footprints, centers, symbol, floor, cameras)


def footprint(box: Box) -> NDArray[np.float64]:
    """Return the outline (K, 2) of a box seen from above: the convex hull of its corners, counter-clockwise."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.unique(box.corners()[:, :2].round(4), axis=0)
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:  # a flat box: a line, or a point
        return points


def symbol_svg(plan: Plan) -> str:
    """Return the symbol that map and question drawings share."""
    shapes = [f'<path class="floor" d="{plan.floor}"/>'] if plan.floor else []
    shapes += [f'<polygon class="box" points="{_path(points)}"/>' for points in plan.footprints.values()]
    return f'<symbol id="{plan.symbol}" viewBox="{_view(plan)}">{"".join(shapes)}</symbol>'


def map_svg(plan: Plan, scene: Scene, width: float = 440, height: float = 600) -> tuple[str, list[str]]:
    """Return the map with named objects and a metre bar, and the names that found no place on it.

    Args:
        width: of the page's pixels that the map gets at least (see .map of style.css): names are no smaller than 11.
        height: pixels that it gets where it is as high as it may be.
    """
    font = max(0.11, 11.2 * plan.view[2] / width, 11.2 * plan.view[3] / height)
    shapes = [_use(plan)]
    names: list[str] = []
    placed: list[tuple[float, float, float, float]] = []
    unnamed = []
    for item in sorted(scene.objects, key=lambda o: -_area(plan.footprints[o.instance_id])):
        points = _path(plan.footprints[item.instance_id])
        title = f"{escape(item.category)}: {', '.join(f'{x:.2f}' for x in item.box.axes_lengths)} m"
        hue = int.from_bytes(blake2b(item.category.encode(), digest_size=2).digest(), "big") % 360
        shapes.append(f'<polygon class="named" style="--h:{hue}" points="{points}"><title>{title}</title></polygon>')
        place = _label_place(plan.centers[item.instance_id], len(item.category), font, plan.view, placed)
        if place is None:
            unnamed.append(item.category)
        else:
            names.append(_name(*place, font, item.category))
    x, y, across, down = plan.view
    shapes.append(f'<path class="scale" d="M{x + across - 1.15:.3f},{y + down - 0.12:.3f}h1"/>')
    # Beside the bar: above it, the name would lie on the wall.
    names.append(_name(x + across - 1.15 - 1.2 * font, y + down - 0.12 + 0.35 * font, font, "1 m"))
    body = "".join([*shapes, *names])  # names last: no footprint covers them
    return f'<svg class="map" viewBox="{_view(plan)}" role="img"><title>floor plan</title>{body}</svg>', unnamed


def _use(plan: Plan) -> str:
    x, y, width, height = plan.view
    return f'<use href="#{plan.symbol}" x="{x:.3f}" y="{y:.3f}" width="{width:.3f}" height="{height:.3f}"/>'


def _name(x: float, y: float, font: float, text: str) -> str:
    return f'<text class="name" x="{x:.3f}" y="{y:.3f}" font-size="{font:.3f}">{escape(text)}</text>'


def question_svg(plan: Plan, row: Row) -> str:
    """Return the plan with the objects of a question highlighted (the first in blue, the answer in green).

    And with the geometry behind the answer: the floor of an area, the segment of a distance, the sector of a direction,
    the camera in the frames named.
    """
    ids = [item["instance_id"] for item in row.objects if item["instance_id"] in plan.footprints]
    shapes = [_use(plan)]
    if _picture(row) == "floor" and plan.floor:
        shapes.append(f'<path class="hit one" d="{plan.floor}"/>')
    if sector := _sector(plan, row, ids):
        shapes.append(f'<path class="sector" d="{sector}"/>')
    classes = _roles(row, len(ids))
    for instance_id, role in zip(ids, classes, strict=True):
        shapes.append(f'<polygon class="hit {role}" points="{_path(plan.footprints[instance_id])}"/>')
    shapes += [f'<path class="link" d="M{_path(line)}"/>' for line in _links(plan, row, ids)]
    radius = max(plan.view[2], plan.view[3]) / 15  # 10 of 150 pixels, with numbers of 11.5
    shapes += _camera_shapes(plan, row, radius)
    for number, (instance_id, role) in enumerate(zip(ids, classes, strict=True), start=1):
        x, y = plan.centers[instance_id]
        shapes.append(f'<circle class="dot {role}" cx="{x:.3f}" cy="{y:.3f}" r="{radius:.3f}"/>')
        text = f'x="{x:.3f}" y="{y + 0.36 * radius:.3f}" font-size="{1.15 * radius:.3f}"'
        shapes.append(f'<text class="number" {text}>{number}</text>')
    return f'<svg class="mini" viewBox="{_view(plan)}" aria-hidden="true">{"".join(shapes)}</svg>'


def _picture(row: Row) -> str:
    """Return what explains the answers of a row's type, "" for nothing; see `QuestionType.picture`."""
    kind = QUESTION_TYPES.get(row.question_type)
    return "" if kind is None else kind.picture


def _camera_shapes(plan: Plan, row: Row, radius: float) -> list[str]:
    """Return a wedge of view with the number of its frame for each frame that a question names, else for the last."""
    if _picture(row) != "camera" or not plan.cameras:
        return []
    shapes = []
    for number in named_frames(row) or (max(plan.cameras),):
        if number not in plan.cameras:
            continue
        place, ahead = plan.cameras[number]
        across = np.array([-ahead[1], ahead[0]])
        rim = [place + 3 * radius * (ahead + share * across) for share in (-0.6, 0.6)]
        shapes.append(f'<path class="view" d="M{_path(np.array([place, *rim]))}Z"/>')
        x, y = place
        shapes.append(f'<circle class="eye" cx="{x:.3f}" cy="{y:.3f}" r="{0.35 * radius:.3f}"/>')
        x, y = place + 2.1 * radius * ahead
        text = f'x="{x:.3f}" y="{y + 0.36 * radius:.3f}" font-size="{1.15 * radius:.3f}"'
        shapes.append(f'<text class="shot" {text}>{number}</text>')
    return shapes


def _roles(row: Row, number: int) -> list[str]:
    """Return a class per object: one (asked about), two, or right (the answer)."""
    if row.options and number == len(row.options) and [item["category"] for item in row.objects] == list(row.options):
        return ["right" if word == row.answer else "two" for word in row.options]
    if _picture(row) == "turn":
        return ["one", "one", "right"][:number]
    if row.options is not None and number == len(row.options) + 1:
        right = LETTERS.index(row.ground_truth)
        return ["one", *("right" if k == right else "two" for k in range(number - 1))]
    return ["one"] * number


def _links(plan: Plan, row: Row, ids: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return the lines that explain a question: between the two of a distance, the way one looks and turns.

    A distance from box to box runs between the nearest points as seen from above, one of centres between the centres.
    """
    points = [plan.centers[i] for i in ids]
    if _picture(row) == "segment" and len(points) == 2:
        if row.generator.get("distance") == "centroid":
            return [np.array(points)]
        return [nearest_points(*(plan.footprints[i] for i in ids))]
    if _picture(row) == "turn" and len(points) == 3:
        return [np.array([points[0], points[1]]), np.array([points[0], points[2]])]
    if _picture(row) == "nearest" and len(points) == len(row.options or ()) + 1:
        return [np.array([points[0], points[1 + LETTERS.index(row.ground_truth)]])]
    return []


def nearest_points(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a nearest pair of points (2, 2) of two polygons (K, 2) that do not overlap: a corner of one is in it."""
    pairs = []
    for corners, others in ((first, second), (second, first)):
        starts, steps = others, np.roll(others, -1, axis=0) - others
        for corner in corners:
            length = np.maximum((steps**2).sum(axis=1), 1e-12)
            along = np.clip(((corner - starts) * steps).sum(axis=1) / length, 0.0, 1.0)
            feet = starts + along[:, None] * steps
            gaps = np.hypot(*(feet - corner).T)
            place = int(gaps.argmin())
            pairs.append((float(gaps[place]), np.array([corner, feet[place]])))
    return min(pairs, key=lambda pair: pair[0])[1]


def _sector(plan: Plan, row: Row, ids: Sequence[int]) -> str:
    """Return the wedge of the right direction, or angle, as path data, seen from the standing point."""
    if _picture(row) != "turn" or len(ids) != 3:
        return ""
    standing, facing, target = (plan.centers[i] * np.array([1.0, -1.0]) for i in ids)  # y up again
    if row.answer_kind == "number":  # an angle, to the side on which the target lies
        is_left = float(bearing_degrees(standing, facing, target)) <= 180
        low, high = (0.0, float(row.answer)) if is_left else (-float(row.answer), 0.0)
    else:
        low, high = sector_of(row.answer, row.question_type.rpartition("_")[2])
    ahead = np.degrees(np.arctan2(*(facing - standing)[::-1]))
    degrees = np.radians(ahead + np.linspace(low, high, 25))
    radius = 1.15 * float(np.hypot(*(target - standing)))
    rim = standing + radius * np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    return f"M{_path(_flip(np.concatenate([standing[None], rim])))}Z"


def _label_place(
    center: NDArray[np.float64],
    letters: int,
    font: float,
    view: tuple[float, float, float, float],
    placed: list[tuple[float, float, float, float]],
) -> tuple[float, float] | None:
    """Return where a name fits beside the earlier ones (centre, then above and below), or None."""
    half = max(letters * _LETTER_WIDTH * font / 2, font / 2)
    x = float(np.clip(center[0], view[0] + half, max(view[0] + half, view[0] + view[2] - half)))
    for shift in (0.35, -0.75, 1.45, -1.85):
        y = float(center[1] + shift * font)
        box = (x - half, y - 0.8 * font, x + half, y + 0.25 * font)
        inside = view[1] < box[1] and box[3] < view[1] + view[3]
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in placed):
            placed.append(box)
            return x, y
    return None


def _area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def _flip(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points * np.array([1.0, -1.0])


def _path(points: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist())


def _view(plan: Plan) -> str:
    return " ".join(f"{value:.3f}" for value in plan.view)
