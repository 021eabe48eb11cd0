"""Questions about what is not there: counts of 0, drawn so that the words of a question do not tell them.

Source of the question: ReVSI. How the categories are drawn is ours. Drawn uniformly over the categories, the category
alone tells whether the answer is 0; with exactly one to three within every category, the mirror image can be learned
from the other rooms (each zero that is held out leaves fewer of them). So each category gets as many zeros as come
before its n-th other count where every question is a zero with probability `SHARE`: a negative binomial draw, under
which the answer is independent of the category, in other rooms too. A binomial draw of n has half that variance, and
leaves some of the mirror image (area under the curve .45 instead of .5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from statistics import median
from typing import Any, Self

import numpy as np

from vsgrpo.data.frame_true import JUDGED_AT, TRUE_AT
from vsgrpo.data.row import Row, check_row
from vsgrpo.data.rows import row_id
from vsgrpo.spatial.question import QuestionType, names_overlap, question_rng
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Scene
from vsgrpo.tables import category_aliases

SHARE = 1 / 4
"""Zeros among the counts of a category, on average: one to three."""
MIN_SIZE_M = 0.3
"""Metres: categories of a smaller median size are not asked about, a video may miss them."""


@dataclass(frozen=True)
class Inventory:
    """What is in a scan, whether it is asked about or not.

    Attributes:
        names: every name of every annotated label, ignored ones included; empty: not known.
        sizes: category -> longest edges of its objects, metres.
        judged_at: budgets of frames at which answers were judged (`frame_true`).
    """

    names: tuple[str, ...] = ()
    sizes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    judged_at: tuple[int, ...] = ()

    @classmethod
    def of(cls, scene: Scene) -> Self:
        """Return the inventory of a scene, whose source names all labels in `extra["names"]`."""
        sizes: dict[str, list[float]] = {}
        for item in scene.objects:
            sizes.setdefault(item.category, []).append(round(float(np.max(item.size_box.axes_lengths)), 3))
        budgets = () if scene.footage is None else tuple(sorted(scene.footage.budgets))
        return cls(tuple(scene.extra.get("names", ())), sizes, budgets)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `vars` of an inventory was stored as."""
        return cls(tuple(data["names"]), data["sizes"], tuple(data["judged_at"]))


def is_absent(category: str, names: Iterable[str]) -> bool:
    """Return whether no name is the category, an alias of it, or holds it or is held by it ("bed", "bed frame")."""
    wanted = {category, _canonical(category)}
    return not any(names_overlap(one, word) for name in names for one in (name, _canonical(name)) for word in wanted)


def _canonical(name: str) -> str:
    return category_aliases().get(name, name)


def draw_zero_counts(
    rows: Sequence[Row], inventories: Mapping[str, Inventory], complete: Iterable[str] | None, seed: int
) -> list[Row]:
    """Return rows that ask how many there are of a category that is not in the room; their answer is 0.

    Of each category with n other counts among `rows`: a negative binomial number of zeros, n / 3 on average, in rooms
    without it, those first whose objects go best with it. Left out are categories smaller than `MIN_SIZE_M`, those that
    `complete` does not name, and those that too few rooms lack (fewer than n / 2): their zeros would be too rare.

    Args:
        rows: of one split, balanced: the numbers of zeros follow them. Video, split and maker are those of any row of
            the same room.
        inventories: scene name -> what is in it.
        complete: categories of which a scan has every instance annotated; None: all.
    """
    room_row = {row.scene_name: row for row in reversed(rows)}
    known = {name: item for name, item in inventories.items() if item.names and name in room_row}
    allowed = None if complete is None else {_canonical(name) for name in complete}
    found: list[Row] = []
    for kind in QUESTION_TYPES.values():
        if kind.absent is None:
            continue
        counted: dict[str, list[str]] = {}
        for row in rows:
            if row.question_type == kind.name and row.objects:
                counted.setdefault(row.objects[0]["category"], []).append(row.scene_name)
        for category, having in sorted(counted.items()):
            sizes = [size for item in inventories.values() for size in item.sizes.get(category, ())]
            is_complete = allowed is None or _canonical(category) in allowed
            rooms = [name for name, item in known.items() if is_absent(category, item.names)]
            if not is_complete or not sizes or median(sizes) < MIN_SIZE_M or 2 * len(rooms) < len(having):
                continue
            rng = question_rng(seed, rows[0].split, f"{kind.name} zero {category}")
            ranked = _plausible_first(category, rooms, known, having, seed)
            drawn = ranked[: int(rng.negative_binomial(len(having), 1 - SHARE))]
            found += [_zero_row(kind, room_row[name], category, known[name]) for name in drawn]
    return found


def _plausible_first(
    category: str, rooms: Sequence[str], known: Mapping[str, Inventory], having: Iterable[str], seed: int
) -> list[str]:
    """Return the rooms, those first whose categories occur most often in rooms that have the category."""
    beside = Counter(name for room in having if room in known for name in known[room].sizes if name != category)
    total = max(beside.total(), 1)

    def rank(room: str) -> tuple[float, bytes]:
        names = known[room].sizes
        fit = sum(beside[name] for name in names) / total / max(len(names), 1) ** 0.5
        return -fit, blake2b(f"{seed}\0{category}\0{room}".encode(), digest_size=8).digest()

    return sorted(rooms, key=rank)


def _zero_row(kind: QuestionType, like: Row, category: str, inventory: Inventory) -> Row:
    """Return the question about a category that is not in the room of `like`; it is true at every budget."""
    assert kind.absent is not None
    question = kind.absent(like.generator.get("mode", ""), category)
    judged = {JUDGED_AT: list(inventory.judged_at), TRUE_AT: list(inventory.judged_at)} if inventory.judged_at else {}
    row = replace(
        like,
        id=row_id(like.dataset, like.scene_name, kind.name, question),
        question_type=kind.name,
        question=question,
        options=None,
        ground_truth="0",
        answer="0",
        answer_kind=kind.answer_kind,
        unit=kind.unit,
        rejected="1",
        reasoning=None if like.reasoning is None else f"I see no {category}.",
        objects=(),
        extra={**judged, "absent": category},
    )
    check_row(row, f"{row.dataset}/{row.scene_name}")
    return row
