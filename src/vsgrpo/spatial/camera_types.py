"""The records of the types that need to know where the camera is (family "camera") or when it sees what ("time")."""

from __future__ import annotations

from vsgrpo.spatial import camera, moments, sightings, views
from vsgrpo.spatial.question import Judge, Maker, QuestionType

_CAPS = {"vsi100k": 6, "vsibench": 6, "revsi": 6}
_POOLS = {"vsi100k": 40, "vsibench": 40, "revsi": 40}


def _camera(
    name: str,
    column: str,
    make: Maker,
    *,
    unit: str | None = None,
    words: tuple[str, ...] | None = None,
    aliases: tuple[str, ...] = (),
) -> QuestionType:
    """Return the record of a type whose questions name moments: a number with a unit, or a choice."""
    return QuestionType(
        name,
        "choice" if unit is None else "number",
        make,
        unit=unit,
        family="camera",
        column=column,
        caps=_CAPS,
        pools=_POOLS,
        needs=("poses",),
        words=words,
        aliases=aliases,
        picture="camera",
        judge=moments.judge_moments,
        untrue="the frames it names are not those shown",
    )


def _time(name: str, column: str, make: Maker, judge: Judge) -> QuestionType:
    """Return the record of a type that asks for seconds."""
    return QuestionType(
        name,
        "number",
        make,
        unit="s",
        family="time",
        column=column,
        caps=_CAPS,
        pools=_POOLS,
        needs=("footage",),
        tolerance=sightings.TOLERANCE_S,
        judge=judge,
        untrue="the frames shown tell another time",
    )


TYPES: tuple[QuestionType, ...] = (
    _camera("camera_displacement", "CamDist", camera.make_displacement, unit="m"),
    _camera("camera_movement_direction", "CamMove", camera.make_movement_direction, words=camera.DIRECTIONS),
    _camera("camera_turn", "CamTurn", camera.make_turn, words=camera.SIDES),
    _camera("camera_turn_angle", "CamAngle", camera.make_turn_angle, unit="degrees"),
    _camera("camera_object_distance", "CamObj", views.make_object_distance, unit="m"),
    _camera("camera_nearest", "CamNear", views.make_nearest, aliases=("relative_distance_camera",)),
    _camera("camera_farthest", "CamFar", views.make_farthest),
    _camera("object_left_right", "LeftRight", views.make_left_right, words=camera.SIDES),
    _camera("object_near_far", "NearFar", views.make_near_far),
    QuestionType(
        "object_where_now",
        "choice",
        views.make_where_now,
        family="camera",
        column="WhereNow",
        caps=_CAPS,
        pools=_POOLS,
        needs=("poses",),
        words=views.NOW_WORDS,
        aliases=("relative_direction_camera",),
        picture="camera",
    ),
    _time("object_first_seen", "FirstSeen", sightings.make_first_seen, sightings.judge_first_seen),
    _time("object_last_seen", "LastSeen", sightings.make_last_seen, sightings.judge_last_seen),
)
