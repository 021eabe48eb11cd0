"""The record of the type that asks for a map of the room (family "map"), and the map that other rows carry."""

from __future__ import annotations

from vsgrpo.spatial.map_questions import judge_map, make_map, observe_map, resolve_map, scene_map
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


def map_of(scene: Scene, settings: QuestionSettings, seed: int) -> dict[str, list[list[int]]] | None:
    """Return the map of a scene as rows of other types carry it, the same as `make_map` asks for; None where none is.

    Args:
        settings, seed: as the questions are made with.
    """
    (kind,) = TYPES
    drawn = scene_map(Asking(kind, scene, settings, question_rng(seed, scene.scene_name, kind.name)))
    return None if drawn is None else {name: [list(cell) for cell in cells] for name, cells in drawn[0].items()}
