"""From a Scene to questions with exact answers: the function that makes each type's questions, all of one signature.

Two modes: `vsi100k` (arXiv 2504.00883 section 3: six types, centroid distance, options not shown) and `vsibench`
(the benchmark's wordings, closest-point distance, options shown). Same scene, settings and generator: same questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vsgrpo.spatial import wording
from vsgrpo.spatial.appearance import clear_orders, first_sights, order_options
from vsgrpo.spatial.directions import WORDS, clear_triples
from vsgrpo.spatial.geometry import box_distance_table
from vsgrpo.spatial.question import Asking, Question, is_sound
from vsgrpo.spatial.routes import plan_routes, route_options
from vsgrpo.spatial.scene import SceneObject

# vsi100k asks one question per target of relative distance (its 8.6 a scan); the benchmark asks several.
_SETS_PER_TARGET = {"vsi100k": 1, "vsibench": 4}
_DRAWS_PER_SET = 5
_NUM_CANDIDATES = 4


def make_counting(ask: Asking) -> list[Question]:
    """Ask how many objects of a category there are."""
    usable = ask.usable_ids()
    questions = []
    for category, count in sorted(ask.scene.object_counts.items()):
        items = ask.scene.of_category(category)
        in_range = ask.settings.min_count <= count <= ask.settings.max_count
        if in_range and items and all(o.instance_id in usable for o in items):
            text = wording.COUNTING[ask.settings.mode].format(category=category)
            questions.append(ask.number(text, str(count), items))
    return ask.capped(questions)


def make_object_size(ask: Asking) -> list[Question]:
    """Ask for the longest edge, in whole centimetres, of each object whose category occurs once."""
    questions = []
    for item in ask.nameable_objects():
        longest = float(np.max(item.size_box.axes_lengths))
        if np.isfinite(longest) and round(100 * longest) >= 1:
            text = wording.SIZE[ask.settings.mode].format(category=item.category)
            questions.append(ask.number(text, str(round(100 * longest)), [item]))
    return ask.capped(questions)


def make_room_size(ask: Asking) -> list[Question]:
    """Ask for the floor area, one decimal; one question or none."""
    low, high = ask.settings.room_range
    if ask.scene.room_size is None or not low <= ask.scene.room_size <= high:
        return []
    text = wording.ROOM[ask.settings.mode]
    return [ask.number(text, one_decimal(ask.scene.room_size), [])]


def make_abs_distance(ask: Asking) -> list[Question]:
    """Ask for the distance of each pair of objects whose categories occur once, one decimal.

    Skipped: below 0.1 m in vsi100k (the reward divides by it), below a rounded 0.4 m in vsibench (its own filter).
    """
    items = ask.nameable_objects()
    distances = object_distances(items, items, str(ask.settings.distance))
    sentence = wording.with_distance(wording.ABS_DISTANCE, str(ask.settings.distance))
    questions = []
    for i, j in zip(*np.triu_indices(len(items), 1), strict=True):
        swap = bool(ask.rng.integers(2))
        distance = float(distances[i, j])
        tested, minimum = (round(distance, 1), 0.4) if ask.settings.mode == "vsibench" else (distance, 0.1)
        if not (np.isfinite(distance) and tested >= minimum):
            continue
        first, second = (items[j], items[i]) if swap else (items[i], items[j])
        text = sentence.format(first=first.category, second=second.category)
        questions.append(ask.number(text, one_decimal(distance), [first, second]))
    return ask.capped(questions)


def make_rel_distance(ask: Asking) -> list[Question]:
    """Ask which of four categories is nearest to an object whose category occurs once; nearest instance counts."""
    targets = ask.nameable_objects()
    others = [o for o in ask.scene.objects if is_sound(o)]
    usable = ask.usable_ids()
    distances = object_distances(targets, others, str(ask.settings.distance))
    is_large = ask.scene.room_size is not None and ask.scene.room_size > ask.settings.large_room_m2
    gap = ask.settings.min_gap_large if is_large else ask.settings.min_gap
    sentence = wording.with_distance(wording.REL_DISTANCE[ask.settings.mode], str(ask.settings.distance))
    nearest = [_nearest_per_category(t, others, row) for t, row in zip(targets, distances, strict=True)]
    order, asked, questions = ask.rng.permutation(len(targets)), set(), []
    for _ in range(_SETS_PER_TARGET[ask.settings.mode]):
        for index in order:
            target = targets[index]
            candidates = [(d, o) for d, o in nearest[index] if d >= ask.settings.min_gap and o.instance_id in usable]
            for _ in range(_DRAWS_PER_SET):
                shown = _draw_candidates(target.category, candidates, gap, ask.rng)
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
) -> list[tuple[float, SceneObject]]:
    best: dict[str, tuple[float, SceneObject]] = {}
    for distance, item in zip(row.tolist(), others, strict=True):
        if item.category != target.category and (item.category not in best or distance < best[item.category][0]):
            best[item.category] = (distance, item)
    return [best[category] for category in sorted(best)]


def _draw_candidates(
    target: str, candidates: Sequence[tuple[float, SceneObject]], gap: float, rng: np.random.Generator
) -> list[tuple[float, SceneObject]]:
    """Return four candidates in shown order, distances more than `gap` apart, no name inside another; or none.

    The right one's place is drawn by itself, so that it is uniform whatever the greedy choice prefers.
    """
    chosen: list[tuple[float, SceneObject]] = []
    for k in rng.permutation(len(candidates)):
        distance, item = candidates[k]
        names = [target, *(o.category for _, o in chosen)]
        if all(abs(distance - d) > gap for d, _ in chosen) and not any(_overlap(item.category, n) for n in names):
            chosen.append(candidates[k])
        if len(chosen) == _NUM_CANDIDATES:
            best = min(chosen, key=lambda pair: pair[0])
            rest = [pair for pair in chosen if pair is not best]
            rest.insert(int(rng.integers(_NUM_CANDIDATES)), best)
            return rest
    return []


def make_rel_direction(ask: Asking) -> list[Question]:
    """Ask where an object lies for one who stands by a second and faces a third; all three categories occur once."""
    difficulty = ask.kind.name.rpartition("_")[2]
    items = ask.nameable_objects()
    distances = object_distances(items, items, "closest_point")
    for i, j in zip(*np.triu_indices(len(items), 1), strict=True):
        if _overlap(items[i].category, items[j].category):
            distances[i, j] = distances[j, i] = np.nan
    triples = clear_triples(
        [o.box for o in items],
        distances,
        difficulty,
        ask.rng,
        margin_degrees=ask.settings.direction_margin_degrees,
        distance_range=ask.settings.direction_range,
        max_corners_elsewhere=ask.settings.max_corners_elsewhere,
    )
    is_paper_form = ask.settings.mode == "vsi100k" and difficulty == "easy"  # the paper has no other
    sentence = wording.DIRECTION_EASY_VSI100K if is_paper_form else wording.DIRECTION[difficulty]
    questions = []
    for standing, facing, target, word in triples[: ask.cap]:
        objects = [items[standing], items[facing], items[target]]
        names = dict(zip(("standing", "facing", "target"), (o.category for o in objects), strict=True))
        words = tuple(str(w) for w in ask.rng.permutation(WORDS[difficulty]))
        questions.append(ask.choice(sentence.format(**names), words, words.index(word), objects))
    return questions


def make_appearance_order(ask: Asking) -> list[Question]:
    """Ask in which order the video first shows four categories; none where nobody looked at the video."""
    if ask.scene.footage is None:
        return []
    members: dict[str, list[SceneObject]] = {}
    for item in ask.scene.objects:
        members.setdefault(item.category, []).append(item)
    ids = {category: [o.instance_id for o in items] for category, items in members.items()}
    sights = first_sights(ask.scene.footage, ids, ask.settings.appearance)
    questions = []
    for order in clear_orders(sights, ask.settings.appearance.min_gap_s, ask.cap, ask.rng):
        listed = [order[k] for k in ask.rng.permutation(len(order))]
        text = wording.ORDER.format(categories=", ".join(listed))
        words, right = order_options(order, ask.rng)
        objects = [members[category][0] for category in listed]
        questions.append(ask.choice(text, words, right, objects))
    return questions


def make_route_planning(ask: Asking) -> list[Question]:
    """Ask for the turns of a made-up route over the free floor, between objects whose categories occur once."""
    if ask.scene.floor is None:
        return []
    items: list[SceneObject] = []
    for item in ask.nameable_objects():
        if not any(_overlap(item.category, other.category) for other in items):
            items.append(item)
    names = [o.category for o in items]
    assert ask.cap is not None  # routes are found by trying: the type has a cap
    routes = plan_routes(ask.scene.floor, [o.box for o in items], ask.cap, ask.rng, ask.settings.route)
    questions = []
    for route in routes:
        places = {"start": route.start, "facing": route.facing, "destination": route.stops[-1]}
        text = wording.ROUTE.format(steps=route.steps(names), **{key: names[k] for key, k in places.items()})
        words, right = route_options(route.answer, ask.rng)
        objects = [items[k] for k in dict.fromkeys((route.start, route.facing, *route.stops))]
        question = ask.choice(text, words, right, objects)
        question.extra["synthetic_route"] = True
        questions.append(question)
    return questions


def object_distances(rows: Sequence[SceneObject], columns: Sequence[SceneObject], distance: str) -> NDArray[np.float64]:
    """Return the distances between two lists of objects in metres, by centre or by closest point."""
    if distance == "closest_point":
        return box_distance_table([o.box for o in rows], [o.box for o in columns])
    centers = [np.array([o.box.centroid for o in items], dtype=np.float64).reshape(-1, 3) for items in (rows, columns)]
    return np.linalg.norm(centers[0][:, None] - centers[1][None], axis=2)


def one_decimal(value: float) -> str:
    """Return metres or square metres as answers write them: "2.5", "11.0"."""
    return f"{round(value, 1):.1f}"


def _overlap(a: str, b: str) -> bool:
    """Say whether one name holds the other ("table", "coffee table"): such pairs cannot be told apart by a word."""
    return a in b or b in a
