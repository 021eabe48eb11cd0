"""The records of the types of VSI-Bench and of those that ReVSI adds (families "vsibench" and "revsi")."""

from __future__ import annotations

import re
from functools import partial

from vsgrpo.spatial import directions, frame_true, held_out, questions, released, revsi
from vsgrpo.spatial.question import QuestionType

_BOTH_MODES = ("vsi100k", "vsibench", "revsi")
_BACKWARD = "(?:behind me|opposite direction)"
_STANDING = rf"\A(?!.*{_BACKWARD}).*standing (?:by|at|next to|beside) the .+"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


TYPES: tuple[QuestionType, ...] = (
    QuestionType(
        "object_counting",
        "number",
        questions.make_counting,
        family="vsibench",
        column="Count",
        modes=_BOTH_MODES,
        observe=questions.observe_count,
        resolve=questions.resolve_count,
        reading=released.COUNT,
        aliases=("object_count", "absolute_count", "object_counting_single", "obj_count"),
        sentence=_pattern(
            r"^how many (?![^?]+ in total\b)[^?]+?(?:\(s\)|are (?:there )?in (?:this|the) (?:room|scene|video))"
        ),
        judge=frame_true.judge_count,
        absent=questions.ask_count,
        untrue="not every instance is visible",
    ),
    QuestionType(
        "object_abs_distance",
        "number",
        questions.make_abs_distance,
        unit="m",
        family="vsibench",
        column="AbsDist",
        modes=_BOTH_MODES,
        caps={"vsibench": 7, "revsi": 7},
        pools={"vsibench": 60, "revsi": 60},
        observe=questions.observe_abs_distance,
        resolve=questions.resolve_abs_distance,
        reading=released.DISTANCE,
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
        family="vsibench",
        column="RelDist",
        modes=_BOTH_MODES,
        caps={"vsi100k": 9, "vsibench": 19, "revsi": 10},
        pools={"vsi100k": 60, "vsibench": 60, "revsi": 60},
        observe=questions.observe_rel_distance,
        resolve=questions.resolve_rel_distance,
        reading=released.NEAREST,
        aliases=(
            *("relative_distance", "relative_distance_object", "object_relative_distance"),
            *("object_rel_distance_v1", "object_rel_distance_v2", "object_rel_distance_v3"),
            "object_rel_distance_closest",
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
            family="vsibench",
            column="RelDir",
            modes=modes,
            caps={"vsi100k": 6, "vsibench": 6, "revsi": 6},
            pools={"vsi100k": 40, "vsibench": 40, "revsi": 100},
            words=directions.WORDS[difficulty],
            max_share=max_share,
            observe=directions.observe_rel_direction,
            resolve=partial(directions.resolve_rel_direction, difficulty),
            reading=released.direction(difficulty),
            aliases=(alias, f"object_rel_direction_forward_{difficulty}"),
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
        family="vsibench",
        column="ObjSize",
        balance="category",
        modes=("vsi100k", "vsibench"),
        observe=questions.observe_object_size,
        resolve=questions.resolve_object_size,
        reading=released.SIZE,
        aliases=("object_size", "object_size_est", "absolute_size_object"),
        sentence=_pattern("longest dimension"),
    ),
    QuestionType(
        "room_size_estimation",
        "number",
        questions.make_room_size,
        unit="m2",
        family="vsibench",
        column="RoomSize",
        balance="",
        modes=_BOTH_MODES,
        observe=questions.observe_room_size,
        resolve=questions.resolve_room_size,
        reading=released.ROOM,
        aliases=(
            *("room_size", "room_size_est", "absolute_size_room"),
            *("room_size_estimation_single", "room_size_estimation_multiple"),
        ),
        sentence=_pattern("size of (?:this|the)(?: entire| main)? room"),
        picture="floor",
        judge=frame_true.judge_room_size,
        untrue="the frames do not span the floor",
    ),
    QuestionType(
        "object_counting_multiple",
        "number",
        revsi.make_sum,
        family="revsi",
        column="CountSum",
        modes=("revsi",),
        caps={"revsi": 7},
        pools={"revsi": 30},
        sentence=_pattern(r"^how many [^?]+ in total\b"),
    ),
    QuestionType(
        "object_size_in_meters",
        "number",
        revsi.make_size_in_metres,
        unit="m",
        family="revsi",
        column="SizeM",
        balance="category",
        modes=("revsi",),
        resolve=revsi.resolve_size_in_metres,
        sentence=_pattern(r"longest dimension.+\bin met(?:er|re)s"),
    ),
    QuestionType(
        "object_rel_distance_farthest",
        "choice",
        revsi.make_farthest,
        family="revsi",
        column="Farthest",
        modes=("revsi",),
        caps={"revsi": 10},
        pools={"revsi": 60},
        sentence=_pattern(r"which of these objects .+ farthest from the"),
        listed=_pattern(r"which of these objects \((.+?)\)"),
    ),
    QuestionType(
        "object_rel_direction_backward",
        "choice",
        revsi.make_behind,
        task="object_rel_direction",
        family="revsi",
        column="RelDir",
        modes=("revsi",),
        caps={"revsi": 6},
        pools={"revsi": 100},
        words=directions.WORDS["medium"],
        resolve=revsi.resolve_behind,
        aliases=("object_rel_direction_backward_easy", "object_rel_direction_backward_hard"),
        sentence=_pattern(rf"standing (?:by|at|next to|beside) the .+{_BACKWARD}.+to my left, right, or back"),
    ),
    QuestionType(
        "route_planning",
        "choice",
        held_out.make_route_planning,
        family="vsibench",
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
        family="vsibench",
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
