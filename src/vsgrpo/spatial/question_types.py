"""The question types, one record each, and what every command asks of them.

A record of `QUESTION_TYPES` holds all that differs by type: how questions are made, answered, scored, imported and
shown. The records are in one file per group of types (`benchmark_types.py`). A user's own type is a record in a module
outside the package, named as package.module:NAME (docs/extending.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vsgrpo.spatial import benchmark_types, camera_types, frame_true, map_types, object_types, revsi
from vsgrpo.spatial.question import Asking, Question, QuestionType, Reading, question_rng
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.released import without_measure
from vsgrpo.spatial.scene import Scene

QUESTION_TYPES: dict[str, QuestionType] = {
    kind.name: kind for kind in (*benchmark_types.TYPES, *object_types.TYPES, *map_types.TYPES, *camera_types.TYPES)
}
"""Name -> type, in the order in which a scene is asked about; `register` adds those of other modules at the end."""


def register(kind: QuestionType) -> None:
    """Add a type to `QUESTION_TYPES`, if it is not there yet.

    Raises:
        ValueError: another type or a family has its name, or its family is called like a type.
    """
    if kind.name in family_names() or kind.family in QUESTION_TYPES or kind.family == kind.name:
        raise ValueError(f"question type {kind.name} of family {kind.family!r}: a type and a family have one name")
    if QUESTION_TYPES.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"question type {kind.name}: the name is taken")


def family_names() -> tuple[str, ...]:
    """Return the names of all families, in the order of the types."""
    return tuple(dict.fromkeys(kind.family for kind in QUESTION_TYPES.values() if kind.family))


def types_named(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of types that `names` stand for, each once: a family stands for its types, others stay."""
    of_family = {name: [k.name for k in QUESTION_TYPES.values() if k.family == name] for name in family_names()}
    return tuple(dict.fromkeys(kind for name in names for kind in of_family.get(name, (name,))))


def answer_kind_of(question_type: str) -> str | None:
    """Return "number", "choice" or "map", None for a type that is not known (rows of other projects have some)."""
    kind = QUESTION_TYPES.get(question_type)
    return None if kind is None else kind.answer_kind


def counts_things(question_type: str) -> bool:
    """Return whether answers of a type are numbers of things, which alone may be 0."""
    kind = QUESTION_TYPES.get(question_type)
    return kind is not None and kind.answer_kind == "number" and kind.unit is None


def tolerance_of(question_type: str) -> float | None:
    """Return the largest error of a right number of a type, None where the relative error is scored."""
    kind = QUESTION_TYPES.get(question_type)
    return None if kind is None else kind.tolerance


def reading_of(question_type: str) -> Reading | None:
    """Return how questions of a type are read in anybody's wording, None where that is not known."""
    kind = QUESTION_TYPES.get(question_type)
    return None if kind is None else kind.reading


def question_key(question_type: str, question: str) -> tuple[str, ...]:
    """Return the type, and what two questions of it have in common where they ask the same in whatever words.

    The two objects of a distance and the candidates of a choice are in no order; how to measure is left out. Of other
    sentences the letters and digits count.
    """
    reading = reading_of(question_type)
    names = reading.names_in(question) if reading is not None else None
    if reading is None or names is None:
        return (question_type, re.sub(r"[\W_]+", "", without_measure(question)).casefold())
    return (question_type, *(names.values() if reading.key is None else reading.key(names)))


def type_called(name: str) -> str | None:
    """Return the type with this name or alias, None where there is none."""
    return next((kind.name for kind in QUESTION_TYPES.values() if name in (kind.name, *kind.aliases)), None)


def type_names(answer_kind: str | None = None) -> tuple[str, ...]:
    """Return the names of all types, or of one kind of answer.

    Choices come first, among them those that share a task, then maps, then numbers. Messages and the bootstrap over
    scenes keep this order.
    """
    kinds = sorted(QUESTION_TYPES.values(), key=lambda kind: (kind.answer_kind, kind.task == kind.name))
    return tuple(kind.name for kind in kinds if answer_kind in (None, kind.answer_kind))


def table_tasks() -> dict[str, tuple[str, ...]]:
    """Return task -> its types, in the order of VSI-Bench's table: numbers, then choices."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in sorted(QUESTION_TYPES.values(), key=lambda kind: kind.answer_kind != "number"):
        found[kind.task] = (*found.get(kind.task, ()), kind.name)
    return found


def table_columns() -> dict[str, str]:
    """Return "overall" and every task -> heading of its column, in the order of the table."""
    return {"overall": "Avg", **{task: QUESTION_TYPES[types[0]].column for task, types in table_tasks().items()}}


def asked_types(settings: QuestionSettings) -> list[QuestionType]:
    """Return the types that `settings` ask for.

    Raises:
        ValueError: an unknown type, or in mode vsi100k one that the paper holds out.
    """
    allowed = {name: kind for name, kind in QUESTION_TYPES.items() if settings.mode != "vsi100k" or not kind.held_out}
    if settings.types is None:
        return [kind for kind in allowed.values() if settings.mode in kind.modes]
    names = types_named(settings.types)
    for name in names:
        if name not in allowed:
            raise ValueError(f"types={name!r}: one of {tuple(allowed)}")
    return [allowed[name] for name in names]


def make_questions(scene: Scene, settings: QuestionSettings, seed: int) -> list[Question]:
    """Return the questions of all types asked for, type by type.

    Raises:
        ValueError: as `asked_types`.
    """
    return ask(scene, settings, seed)[0]


def ask(scene: Scene, settings: QuestionSettings, seed: int) -> tuple[list[Question], dict[str, int]]:
    """Return the questions of all types asked for, and how many a rule left out, by "type: rule".

    Raises:
        ValueError: as `asked_types`.
    """
    made: list[Question] = []
    left_out: Counter[str] = Counter()
    for kind in asked_types(settings):
        asking = Asking(kind, scene, settings, question_rng(seed, scene.scene_name, kind.name))
        if settings.mode == revsi.MODE:
            asked = kind.make(replace(asking, settings=replace(settings, pooled=True)))
            faults = [revsi.fault_of(scene, question) for question in asked]
            made += [question for question, fault in zip(asked, faults, strict=True) if fault is None][: asking.cap]
            left_out.update(f"{kind.name}: {fault}" for fault in faults if fault is not None)
        else:
            made += kind.make(asking)[: asking.cap]
    return frame_true.judged(scene, made, settings), dict(left_out)


def observation(scene: Scene, question: Question, distance: str) -> str | None:
    """Return one sentence that leads to the answer without stating it as such; None for types without a template.

    Args:
        scene: the scene the question was made from.
        question: with the instances it is about.
        distance: "centroid" or "closest_point", as the question was made.
    """
    by_id = {item.instance_id: item for item in scene.objects}
    objects = [by_id[ref.instance_id] for ref in question.objects if ref.instance_id in by_id]
    observe = question.type.observe
    if observe is None or (question.objects and not objects):
        return None
    return observe(scene, question, objects, distance)


def answer_from_boxes(
    scene: Scene, question_type: str, question: str, options: Sequence[str] | None = None
) -> str | None:
    """Return the answer by our formulas: number text or letter; None if an object is absent or its name not unique.

    Args:
        scene: the scene the question is about.
        question_type: a name of `QUESTION_TYPES`.
        question: in the benchmark's wording, without the options.
        options: "A. chair", ... of choice types.

    Raises:
        ValueError: a type that boxes cannot answer, or a question in other words.
    """
    resolver = QUESTION_TYPES[question_type].resolve if question_type in QUESTION_TYPES else None
    if resolver is None:
        raise ValueError(f"question_type={question_type!r}: boxes alone do not answer it")
    return resolver(scene, question, options or ())
