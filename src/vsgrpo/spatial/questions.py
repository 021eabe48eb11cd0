"""Questions about counts, sizes and distances: how each type is asked, thought about and answered from boxes.

A type has up to three functions, of one signature for all types: `make_...` (`question.Maker`) asks, `observe_...`
(`Observer`) gives one sentence of templated thought that leads to the answer without stating it, `resolve_...`
(`Resolver`) answers a question of VSI-Bench. Thoughts are synthetic, for think and observe SFT: nobody thought them and
no video was looked at; rows that carry one say so (`extra.synthetic_reasoning`).

Two modes: `vsi100k` (arXiv 2504.00883 section 3: six types, centroid distance, options not shown) and `vsibench`
(the benchmark's wordings, closest-point distance, options shown). Same scene, settings and generator: same questions.
Wordings are quoted, odd spaces included: `vsibench` measured on the 5,130 questions of VSI-Bench, `vsi100k` the
examples printed in the paper. Whether a question says "Measuring from the closest point of each object" follows the
distance that is meant, not the mode: a centroid distance is never asked in the closest point's words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial.geometry import object_distances
from vsgrpo.spatial.question import Asking, Question, names_overlap, one_decimal
from vsgrpo.spatial.scene import Scene, SceneObject

CLOSEST_POINT = "Measuring from the closest point of each object, "

COUNTING = {
    "vsi100k": "How many {category}(s)in the room?",
    "vsibench": "How many {category}(s) are in this room?",
}
SIZE = {
    "vsi100k": "What is the length of the longest dimension (length,width, or height) of the {category}, "
    "measured in centimeters?",
    "vsibench": "What is the length of the longest dimension (length, width, or height) of the {category}, "
    "measured in centimeters?",
}
ROOM = {
    "vsi100k": "What is the size of this room (in square meters)?",
    "vsibench": "What is the size of this room (in square meters)? \n"
    "If multiple rooms are shown, estimate the size of the combined space.",
}
# Both modes: the prefix CLOSEST_POINT (and a small first letter) where the closest point is meant.
ABS_DISTANCE = "What is the distance between the {first} and the {second} (in meters)?"
REL_DISTANCE = {
    "vsi100k": "Which of these objects ({options})is the closest to the {category}?",
    "vsibench": "Which of these objects ({options}) is the closest to the {category}?",
}

OTHER_NAMES = {"coat rack": "coat hanger"}
"""Names in the benchmark's questions whose boxes are filed under another name (13 rows of one ScanNet++ scene)."""
# vsi100k asks one question per target of relative distance (its 8.6 a scan); the benchmark asks several. A pool to
# choose from has more.
_SETS_PER_TARGET = {"vsi100k": 1, "vsibench": 4}
_SETS_IN_POOL = 12
_DRAWS_PER_SET = 5
_NUM_CANDIDATES = 4
_MAX_NAMED = 8


# --- wordings, written and read back ---


def with_distance(sentence: str, distance: str) -> str:
    """Prefix `sentence` with "Measuring from the closest point ..." where `distance` is "closest_point"."""
    if distance == "closest_point":
        return CLOSEST_POINT + sentence[0].lower() + sentence[1:]
    return sentence


def pattern_of(template: str) -> re.Pattern[str]:
    """Return a pattern that reads the fields of `template` back out of a question; a repeated field must repeat."""
    seen: set[str] = set()

    def field(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>.+?)"

    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", field, escaped), re.DOTALL)


def fields_of(pattern: re.Pattern[str], question: str) -> dict[str, str]:
    """Return the fields of a question by name; ValueError where it has another wording."""
    match = pattern.fullmatch(question)
    if match is None:
        raise ValueError(f"question {question!r} is not in the benchmark's wording")
    return match.groupdict()


def only_object(scene: Scene, category: str) -> SceneObject | None:
    """Return the one object of a category, None where there are none or several."""
    items = objects_called(scene, category)
    return items[0] if len(items) == 1 else None


def objects_called(scene: Scene, category: str) -> tuple[SceneObject, ...]:
    """Return the objects of a category, whose boxes may be filed under another name."""
    return scene.of_category(category) or scene.of_category(OTHER_NAMES.get(category, ""))


def option_word(option: str) -> str:
    """Return an option without its letter."""
    return option.split(". ", 1)[-1]


_COUNTING = pattern_of(COUNTING["vsibench"])
_SIZE = pattern_of(SIZE["vsibench"])
_ABS_DISTANCE = pattern_of(with_distance(ABS_DISTANCE, "closest_point"))
_REL_DISTANCE = pattern_of(with_distance(REL_DISTANCE["vsibench"], "closest_point"))


# --- counts and sizes ---


def make_counting(ask: Asking) -> list[Question]:
    """Ask how many objects of a category there are."""
    usable = ask.usable_ids()
    questions = []
    for category, count in sorted(ask.scene.object_counts.items()):
        items = ask.scene.of_category(category)
        in_range = ask.settings.min_count <= count <= ask.settings.max_count
        if in_range and items and all(o.instance_id in usable for o in items):
            text = ask_count(ask.settings.mode, category)
            questions.append(ask.number(text, str(count), items))
    return ask.capped(questions)


def ask_count(mode: str, category: str) -> str:
    """Return the question how many objects of a category there are; modes without a wording take the benchmark's."""
    return COUNTING.get(mode, COUNTING["vsibench"]).format(category=category)


def observe_count(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str | None:
    """Count the objects one by one; None where they are not known."""
    if not objects:
        return None
    category, count = objects[0].category, int(question.answer)
    named = ", ".join(f"{category} {number}" for number in range(1, min(count, _MAX_NAMED) + 1))
    return f"I see {named}." if count <= _MAX_NAMED else f"I see {named} and more, up to {category} {count}."


def resolve_count(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return how many objects of the category the scene counts."""
    category = fields_of(_COUNTING, question)["category"]
    count = scene.object_counts.get(category, scene.object_counts.get(OTHER_NAMES.get(category, "")))
    return None if count is None else str(count)


def make_object_size(ask: Asking) -> list[Question]:
    """Ask for the longest edge, in whole centimetres, of each object whose category occurs once."""
    questions = []
    for item in ask.nameable_objects():
        longest = float(np.max(item.size_box.axes_lengths))
        if np.isfinite(longest) and round(100 * longest) >= 1:
            text = SIZE[ask.form].format(category=item.category)
            questions.append(ask.number(text, str(round(100 * longest)), [item]))
    return ask.capped(questions)


def observe_object_size(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the edges of the box, the longest first."""
    edges = sorted((round(100 * float(edge)) for edge in objects[0].size_box.axes_lengths), reverse=True)
    return f"Its box is {edges[0]} by {edges[1]} by {edges[2]} cm."


def resolve_object_size(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the longest edge in whole centimetres."""
    item = only_object(scene, fields_of(_SIZE, question)["category"])
    return None if item is None else str(round(100 * float(item.size_box.axes_lengths.max())))


def make_room_size(ask: Asking) -> list[Question]:
    """Ask for the floor area, one decimal; one question or none."""
    low, high = ask.settings.room_range
    if ask.scene.room_size is None or not low <= ask.scene.room_size <= high:
        return []
    text = ROOM[ask.form]
    return [ask.number(text, one_decimal(ask.scene.room_size), [])]


def observe_room_size(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str | None:
    """Name the extent of all furniture; None in an empty room."""
    if not scene.objects:
        return None
    low = np.min([item.box.min for item in scene.objects], axis=0)
    high = np.max([item.box.max for item in scene.objects], axis=0)
    x, y = (one_decimal(float(value)) for value in (high - low)[:2])
    return f"The furniture spreads over {x} m by {y} m."


def resolve_room_size(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the floor area in square metres."""
    return None if scene.room_size is None else one_decimal(scene.room_size)


# --- distances ---


def make_abs_distance(ask: Asking) -> list[Question]:
    """Ask for the distance of each pair of objects whose categories occur once, one decimal.

    Skipped: below 0.1 m in vsi100k (the reward divides by it), below a rounded 0.4 m in vsibench (its own filter).
    """
    items = ask.nameable_objects()
    distances = object_distances(items, items, str(ask.settings.distance))
    sentence = with_distance(ABS_DISTANCE, str(ask.settings.distance))
    questions = []
    for i, j in zip(*np.triu_indices(len(items), 1), strict=True):
        swap = bool(ask.rng.integers(2))
        distance = float(distances[i, j])
        tested, minimum = (round(distance, 1), 0.4) if ask.form == "vsibench" else (distance, 0.1)
        if not (np.isfinite(distance) and tested >= minimum):
            continue
        first, second = (items[j], items[i]) if swap else (items[i], items[j])
        text = sentence.format(first=first.category, second=second.category)
        questions.append(ask.number(text, one_decimal(distance), [first, second]))
    return ask.capped(questions)


def observe_abs_distance(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name how far the two centres are apart along each axis."""
    apart = np.abs(objects[0].box.centroid - objects[1].box.centroid)
    x, y, z = (one_decimal(float(value)) for value in apart)
    return f"Their centres are {x} m by {y} m apart on the floor, {z} m in height."


def resolve_abs_distance(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the distance between closest points in metres."""
    names = fields_of(_ABS_DISTANCE, question)
    first, second = only_object(scene, names["first"]), only_object(scene, names["second"])
    if first is None or second is None:
        return None
    return one_decimal(float(object_distances([first], [second], "closest_point")[0, 0]))


_Candidate = tuple[float, SceneObject]
"""Distance from the target in metres, and the object."""


def make_rel_distance(ask: Asking) -> list[Question]:
    """Ask which of four categories is nearest to an object whose category occurs once; nearest instance counts."""
    targets = ask.nameable_objects()
    others = [o for o in ask.scene.objects if o.is_sound]
    usable = ask.usable_ids()
    distances = object_distances(targets, others, str(ask.settings.distance))
    is_large = ask.scene.room_size is not None and ask.scene.room_size > ask.settings.large_room_m2
    gap = ask.settings.min_gap_large if is_large else ask.settings.min_gap
    sentence = with_distance(REL_DISTANCE[ask.form], str(ask.settings.distance))
    nearest = [_nearest_per_category(t, others, row) for t, row in zip(targets, distances, strict=True)]
    order, asked, questions = ask.rng.permutation(len(targets)), set(), []
    for _ in range(_SETS_IN_POOL if ask.settings.pooled else _SETS_PER_TARGET[ask.form]):
        for index in order:
            target = targets[index]
            candidates = [(d, o) for d, o in nearest[index] if d >= ask.settings.min_gap and o.instance_id in usable]
            for _ in range(_DRAWS_PER_SET):
                shown = draw_candidates(target.category, candidates, gap, ask.rng)
                key = (index, frozenset(o.category for _, o in shown))
                if shown and key not in asked:
                    asked.add(key)
                    words = tuple(o.category for _, o in shown)
                    text = sentence.format(options=", ".join(words), category=target.category)
                    best = min(range(len(shown)), key=lambda k: shown[k][0])
                    objects = [target, *(o for _, o in shown)]
                    questions.append(ask.choice(text, words, best, objects))
                    break
    return questions[: ask.cap]


def _nearest_per_category(
    target: SceneObject, others: Sequence[SceneObject], row: NDArray[np.float64]
) -> list[_Candidate]:
    best: dict[str, _Candidate] = {}
    for distance, item in zip(row.tolist(), others, strict=True):
        if item.category != target.category and (item.category not in best or distance < best[item.category][0]):
            best[item.category] = (distance, item)
    return [best[category] for category in sorted(best)]


def draw_candidates(
    target: str, candidates: Sequence[_Candidate], gap: float, rng: np.random.Generator, *, farthest: bool = False
) -> list[_Candidate]:
    """Return four candidates in shown order, distances more than `gap` apart, no name inside another; or none.

    The right one's place is drawn by itself, so that it is uniform whatever the greedy choice prefers.
    """
    chosen: list[_Candidate] = []
    for k in rng.permutation(len(candidates)):
        distance, item = candidates[k]
        names = [target, *(o.category for _, o in chosen)]
        if all(abs(distance - d) > gap for d, _ in chosen) and not any(names_overlap(item.category, n) for n in names):
            chosen.append(candidates[k])
        if len(chosen) == _NUM_CANDIDATES:
            best = (max if farthest else min)(chosen, key=lambda pair: pair[0])
            rest = [pair for pair in chosen if pair is not best]
            rest.insert(int(rng.integers(_NUM_CANDIDATES)), best)
            return rest
    return []


def observe_rel_distance(scene: Scene, question: Question, objects: Sequence[SceneObject], distance: str) -> str:
    """Name the distance of each candidate."""
    found = object_distances([objects[0]], objects[1:], distance)[0]
    listed = ", ".join(f"{o.category} {one_decimal(float(d))} m" for o, d in zip(objects[1:], found, strict=True))
    return f"From the {objects[0].category}: {listed}."


def resolve_rel_distance(scene: Scene, question: str, options: Sequence[str]) -> str | None:
    """Return the letter of the category whose nearest instance is nearest."""
    target = only_object(scene, fields_of(_REL_DISTANCE, question)["category"])
    candidates = [objects_called(scene, option_word(option)) for option in options]
    if target is None or not candidates or not all(candidates):
        return None
    nearest = [object_distances([target], items, "closest_point").min() for items in candidates]
    return options[int(np.argmin(nearest))][0]
