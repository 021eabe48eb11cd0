"""What the text of a training set teaches about a benchmark: learn from the one, answer the other, no scene in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vsgrpo.audit.folds import Interval, scene_folds, scene_interval
from vsgrpo.audit.measure import NUM_SEEDS, cross_validate, group_types, read_texts, too_few
from vsgrpo.audit.rows import AuditRow

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TypeTransfer:
    """One question type of the benchmark, answered from the training set's text.

    Attributes:
        n, train_n: rows of the benchmark and of the training set.
        chance: as in the audit of the benchmark.
        constant: the benchmark's own best constant, learned from its other folds.
        taught_constant: the training set's best constant.
        text: the model that is best inside the training set; `interval`: 95 % of it by scene of the benchmark.
        above: text - max(constant, chance); `above_interval`: 95 % of it, paired by row.
    """

    n: int
    train_n: int
    chance: float
    constant: float
    taught_constant: float
    text: float
    interval: Interval
    above: float
    above_interval: Interval

    @property
    def floor(self) -> float:
        """What an answer gets that reads no word."""
        return max(self.constant, self.chance)


@dataclass(frozen=True)
class Transfer:
    """A training set's text against a benchmark.

    Attributes:
        types: of both sets, sorted by name.
        not_scored: type -> why it was left out.
        shared_scenes: scenes in both sets; their `left_out` training rows were not learned from.
        micro: all rows together, None where no type was scored.
        above_by_row: row id -> text - floor.
    """

    types: dict[str, TypeTransfer]
    not_scored: dict[str, str]
    shared_scenes: int
    left_out: int
    micro: TypeTransfer | None
    above_by_row: dict[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Scores:
    """Of each row of a type: id, scene, what text gets, and what no word gets (chance, own and taught constant)."""

    ids: list[str]
    scenes: list[str]
    text: Array
    constant: Array
    taught: Array
    chance: Array
    train_n: int

    def summary(self, floor: Array) -> TypeTransfer:
        above = self.text - floor
        return TypeTransfer(
            n=len(self.text),
            train_n=self.train_n,
            chance=float(self.chance.mean()),
            constant=float(self.constant.mean()),
            taught_constant=float(self.taught.mean()),
            text=float(self.text.mean()),
            interval=scene_interval(self.text, self.scenes),
            above=float(above.mean()),
            above_interval=scene_interval(above, self.scenes),
        )

    def floor(self) -> Array:
        """Return of each row what no word gets: the type's best constant or, where that is higher, its chance."""
        return self.constant if self.constant.mean() >= self.chance.mean() else self.chance


def transfer_text(train: Sequence[AuditRow], rows: Sequence[AuditRow]) -> Transfer:
    """Learn from the text of `train`, answer `rows`; training rows of a scene that is in both are left out."""
    scenes, taught_scenes = {row.scene for row in rows}, {row.scene for row in train}
    kept = [row for row in train if row.scene not in scenes]
    taught, asked = group_types(kept), group_types(rows)
    types: dict[str, TypeTransfer] = {}
    not_scored: dict[str, str] = {}
    found: list[_Scores] = []
    for name, own in asked.items():
        reason = too_few(own)
        if name not in taught:
            reason = "the training set does not ask it"
        elif reason is None and (lack := too_few([*taught[name]])):
            reason = f"training set: {lack}"
        elif reason is None and (taught[name][0].right is None) != (own[0].right is None):
            reason = "numbers in one set, choices in the other"
        if reason is not None:
            not_scored[name] = reason
            continue
        scores = _answer(taught[name], own)
        found.append(scores)
        types[name] = scores.summary(scores.floor())
    micro, by_row = None, {}
    if found:
        whole = _Scores(
            ids=[name for item in found for name in item.ids],
            scenes=[scene for item in found for scene in item.scenes],
            train_n=sum(item.train_n for item in found),
            **{n: np.concatenate([getattr(i, n) for i in found]) for n in ("text", "constant", "taught", "chance")},
        )
        floor = np.concatenate([item.floor() for item in found])
        micro = whole.summary(floor)
        by_row = {name: float(value) for name, value in zip(whole.ids, whole.text - floor, strict=True)}
    return Transfer(types, not_scored, len(scenes & taught_scenes), len(train) - len(kept), micro, by_row)


def _answer(train: Sequence[AuditRow], rows: Sequence[AuditRow]) -> _Scores:
    inside, own, both = read_texts(train), read_texts(rows), read_texts([*train, *rows])
    taught_scenes, scenes = [row.scene for row in train], [row.scene for row in rows]
    runs = [cross_validate(inside, inside.truth, scene_folds(taught_scenes, seed)) for seed in range(NUM_SEEDS)]
    names = [name for name in runs[0] if name != "text"]
    best = max(names, key=lambda name: (sum(run[name].mean() for run in runs), -names.index(name)))
    answered = both.predict(both.truth, np.arange(len(train)), np.arange(len(train), len(train) + len(rows)))
    constants = [cross_validate(own, own.truth, scene_folds(scenes, seed))["constant"] for seed in range(NUM_SEEDS)]
    return _Scores(
        ids=[row.id for row in rows],
        scenes=scenes,
        text=answered[best],
        constant=np.mean(constants, axis=0),
        taught=answered["constant"],
        chance=np.full(len(rows), own.chance(own.truth)),
        train_n=len(train),
    )
