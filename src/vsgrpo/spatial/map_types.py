"""The record of the type that asks for a map of the room (family "map"), and the map that other rows carry."""

from __future__ import annotations

from typing import Any

from vsgrpo.spatial.frame_true import judged
from vsgrpo.spatial.map_questions import judge_map, make_map, map_request, observe_map, resolve_map, scene_map
from vsgrpo.spatial.maps import map_text
from vsgrpo.spatial.question import Asking, QuestionType, question_rng
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.scene import Scene

TYPES = (
    QuestionType(
        "object_map",
        "map",
        make_map,
        family="map",
        column="Map",
        caps=dict.fromkeys(("vsi100k", "vsibench", "revsi"), 1),
        balance="",
        needs=("poses",),
        observe=observe_map,
        resolve=resolve_map,
        judge=judge_map,
        untrue="an object it names is not visible, or the first frame looks elsewhere",
    ),
)
"""No mode asks these unless data.types lists them."""


def map_of(scene: Scene, settings: QuestionSettings, seed: int) -> dict[str, Any] | None:
    """Return what rows of other types carry in `extra`; None where the scene has no map.

    `map`: the cells, those of the map that `make_map` asks for; `map_judged_at` and `map_true_at`, where a video was
    judged: as `frame_true.judged` says them of that question.

    Args:
        settings, seed: as the questions are made with.
    """
    (kind,) = TYPES
    ask = Asking(kind, scene, settings, question_rng(seed, scene.scene_name, kind.name))
    if (drawn := scene_map(ask)) is None:
        return None
    cells, objects = drawn
    (asked,) = judged(scene, [ask.map(map_request(list(cells)), map_text(cells), objects)], settings)
    judgement = {f"map_{name}": asked.extra[name] for name in ("judged_at", "true_at") if name in asked.extra}
    return {"map": {name: [list(cell) for cell in points] for name, points in cells.items()}, **judgement}
