"""The question types, one record each, and what every command asks of them.

A record of `QUESTION_TYPES` holds all that differs by type: how questions are made, answered, scored, imported and
shown. A user's own type is a record in a module outside the package, named as package.module:NAME (docs/extending.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from vsgrpo.spatial import directions, frame_true, held_out, questions, revsi
from vsgrpo.spatial.question import Asking, Question, QuestionSettings, QuestionType, question_rng
from vsgrpo.spatial.scene import Scene

_BOTH_MODES = ("vsi100k", "vsibench", "revsi")
_STANDING = r"standing (?:by|at|next to|beside) the .+"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


QUESTION_TYPES: dict[str, QuestionType] = {
    kind.name: kind
    for kind in (
        QuestionType(
            "object_counting",
            "number",
            questions.make_counting,
            column="Count",
            modes=_BOTH_MODES,
            observe=questions.observe_count,
            resolve=questions.resolve_count,
            aliases=("object_count", "absolute_count"),
            sentence=_pattern(r"^how many [^?]+?(?:\(s\)|are (?:there )?in (?:this|the) (?:room|scene|video))"),
            judge=frame_true.judge_count,
            absent=questions.ask_count,
            untrue="not every instance is visible",
        ),
        QuestionType(
            "object_abs_distance",
            "number",
            questions.make_abs_distance,
            unit="m",
            column="AbsDist",
            modes=_BOTH_MODES,
            caps={"vsibench": 7, "revsi": 7},
            pools={"vsibench": 60, "revsi": 60},
            observe=questions.observe_abs_distance,
            resolve=questions.resolve_abs_distance,
            aliases=("object_distance", "absolute_distance", "absolute_distance_object", "object_absolute_distance"),
            sentence=_pattern(
                r"distance between (?!(?:the )?(?:camera|observer|viewer)).+"
                r" and (?!(?:the )?(?:camera|observer)).+\(in "
            ),
            picture="segment",
        ),
        QuestionType(
            "object_rel_distance",
            "choice",
            questions.make_rel_distance,
            column="RelDist",
            modes=_BOTH_MODES,
            caps={"vsi100k": 9, "vsibench": 19, "revsi": 10},
            pools={"vsi100k": 60, "vsibench": 60, "revsi": 60},
            observe=questions.observe_rel_distance,
            resolve=questions.resolve_rel_distance,
            aliases=(
                *("relative_distance", "relative_distance_object", "object_relative_distance"),
                *("object_rel_distance_v1", "object_rel_distance_v2", "object_rel_distance_v3"),
            ),
            sentence=_pattern(r"which of these objects .+ closest to the"),
            listed=_pattern(r"which of these objects \((.+?)\)"),
            picture="nearest",
            judge=frame_true.judge_rel_distance,
            untrue="an object is not visible, or another is the nearest visible one",
        ),
        *(
            QuestionType(
                f"object_rel_direction_{difficulty}",
                "choice",
                directions.make_rel_direction,
                task="object_rel_direction",
                column="RelDir",
                modes=modes,
                caps={"vsi100k": 6, "vsibench": 6, "revsi": 6},
                pools={"vsi100k": 40, "vsibench": 40, "revsi": 100},
                words=directions.WORDS[difficulty],
                max_share=max_share,
                observe=directions.observe_rel_direction,
                resolve=partial(directions.resolve_rel_direction, difficulty),
                aliases=(alias,),
                sentence=_pattern(_STANDING + asked),
                picture="turn",
            )
            for difficulty, modes, max_share, alias, asked in (
                ("easy", _BOTH_MODES, 0.6, "object_rel_direction_v3", "to the left or (?:to )?the right of"),
                ("medium", ("vsibench", "revsi"), 0.6, "object_rel_direction_v2", "to my left, right, or back"),
                ("hard", ("vsibench", "revsi"), 0.5, "object_rel_direction_v1", "front-left"),
            )
        ),
        QuestionType(
            "object_size_estimation",
            "number",
            questions.make_object_size,
            unit="cm",
            column="ObjSize",
            balance="category",
            modes=("vsi100k", "vsibench"),
            observe=questions.observe_object_size,
            resolve=questions.resolve_object_size,
            aliases=("object_size", "object_size_est", "absolute_size_object"),
            sentence=_pattern("longest dimension"),
        ),
        QuestionType(
            "room_size_estimation",
            "number",
            questions.make_room_size,
            unit="m2",
            column="RoomSize",
            balance="",
            modes=_BOTH_MODES,
            observe=questions.observe_room_size,
            resolve=questions.resolve_room_size,
            aliases=("room_size", "room_size_est", "absolute_size_room"),
            sentence=_pattern("size of (?:this|the)(?: entire| main)? room"),
            picture="floor",
            judge=frame_true.judge_room_size,
            untrue="the frames do not span the floor",
        ),
        QuestionType(
            "object_counting_multiple",
            "number",
            revsi.make_sum,
            column="CountSum",
            modes=("revsi",),
            caps={"revsi": 7},
            pools={"revsi": 30},
        ),
        QuestionType(
            "object_size_in_meters",
            "number",
            revsi.make_size_in_metres,
            unit="m",
            column="SizeM",
            balance="category",
            modes=("revsi",),
            resolve=revsi.resolve_size_in_metres,
        ),
        QuestionType(
            "object_rel_distance_farthest",
            "choice",
            revsi.make_farthest,
            column="Farthest",
            modes=("revsi",),
            caps={"revsi": 10},
            pools={"revsi": 60},
            listed=_pattern(r"which of these objects \((.+?)\)"),
        ),
        QuestionType(
            "object_rel_direction_backward",
            "choice",
            revsi.make_behind,
            task="object_rel_direction",
            column="RelDir",
            modes=("revsi",),
            caps={"revsi": 6},
            pools={"revsi": 100},
            words=directions.WORDS["medium"],
            resolve=revsi.resolve_behind,
        ),
        QuestionType(
            "route_planning",
            "choice",
            held_out.make_route_planning,
            column="Route",
            caps={"vsibench": 3},
            held_out=True,
            needs=("floor",),
            aliases=("route_plan",),
            sentence=_pattern(r"\brobot\b.{0,40}?\b(?:beginning|starting|standing|positioned|located)\b.+navigate to"),
        ),
        QuestionType(
            "obj_appearance_order",
            "choice",
            held_out.make_appearance_order,
            column="Order",
            modes=("vsibench",),
            caps={"vsibench": 30},
            held_out=True,
            needs=("footage",),
            aliases=("appearance_order", "object_appearance_order"),
            sentence=_pattern("first-time appearance order|order of (?:first )?appearance"),
            judge=frame_true.judge_order,
            untrue="a category is not visible in a frame of its own, or a frame contradicts the order",
        ),
    )
}
"""Name -> type, in the order in which a scene is asked about; `register` adds those of other modules at the end."""


def register(kind: QuestionType) -> None:
    """Add a type to `QUESTION_TYPES`, if it is not there yet.

    Raises:
        ValueError: another type has its name.
    """
    if QUESTION_TYPES.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"question type {kind.name}: the name is taken")


def answer_kind_of(question_type: str) -> str | None:
    """Return "number" or "choice", None for a type that is not known (rows of other projects have some)."""
    kind = QUESTION_TYPES.get(question_type)
    return None if kind is None else kind.answer_kind


def counts_things(question_type: str) -> bool:
    """Return whether answers of a type are numbers of things, which alone may be 0."""
    kind = QUESTION_TYPES.get(question_type)
    return kind is not None and kind.answer_kind == "number" and kind.unit is None


def type_called(name: str) -> str | None:
    """Return the type with this name or alias, None where there is none."""
    return next((kind.name for kind in QUESTION_TYPES.values() if name in (kind.name, *kind.aliases)), None)


def type_names(answer_kind: str | None = None) -> tuple[str, ...]:
    """Return the names of all types, or of one kind of answer.

    Choices come first, among them those that share a task, then numbers. Messages and the bootstrap over scenes keep
    this order.
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
    for name in settings.types:
        if name not in allowed:
            raise ValueError(f"types={name!r}: one of {tuple(allowed)}")
    return [allowed[name] for name in settings.types]


def make_questions(scene: Scene, settings: QuestionSettings, seed: int) -> list[Question]:
    """Return the questions of all types asked for, type by type.

    Raises:
        ValueError: as `asked_types`.
    """
    made = []
    for kind in asked_types(settings):
        asking = Asking(kind, scene, settings, question_rng(seed, scene.scene_name, kind.name))
        if settings.mode == revsi.MODE:
            asked = kind.make(replace(asking, settings=replace(settings, pooled=True)))
            made += [question for question in asked if revsi.fault_of(scene, question) is None][: asking.cap]
        else:
            made += kind.make(asking)[: asking.cap]
    return frame_true.judged(scene, made, settings)


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
