"""How much of a set of questions can be answered from the text of the questions alone, type by type.

Predictors learn on four fifths of the scenes and answer the rest (`numbers`, `choices`); per fold the one that is best
on the other folds is taken. Nothing but the question's text goes in. Method and thresholds: docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vsgrpo.audit.choices import ChoiceTexts
from vsgrpo.audit.folds import NUM_FOLDS, Interval, scene_folds, scene_interval
from vsgrpo.audit.numbers import NumberTexts
from vsgrpo.audit.rows import AuditRow
from vsgrpo.terminal import counted

MIN_ROWS = 30
MIN_SCENES = 5
NUM_SEEDS = 3
NUM_PERMUTED = 8
NEAR_FIXED = 0.75
"""A category whose best constant scores this is answered by its name."""
_MIN_FIXED_ROWS = 5
_NUM_LISTED = 10

Array = NDArray[np.float64]
Texts = NumberTexts | ChoiceTexts


@dataclass(frozen=True)
class TypeAudit:
    """One question type; scores are shares of 1.

    Attributes:
        n, scenes: rows, and scenes they are of.
        chance: an option at random; of numbers, another row's answer.
        constant: one answer to all, learned from the other folds.
        category: the words of the question, learned from the other folds.
        text: the better of the two, as the other folds see it; `interval`: 95 % of it by scene.
        prior_share: (best constant - chance) / (1 - chance), what the distribution of answers gives away.
        text_share: (text - floor) / (1 - floor) with floor = max(constant, chance): what the words give away.
        null, null_sd: mean and deviation of `text` where the answers are permuted.
    """

    n: int
    scenes: int
    chance: float
    constant: float
    category: float
    text: float
    interval: Interval
    prior_share: float
    text_share: float
    null: float | None
    null_sd: float | None

    @property
    def floor(self) -> float:
        """What an answer gets that reads no word."""
        return max(self.constant, self.chance)


@dataclass(frozen=True)
class Exploitable:
    """A row that text alone answers, and its score over the fold seeds."""

    id: str
    question_type: str
    scene: str
    question: str
    answer: str
    score: float


@dataclass(frozen=True)
class NearFixed:
    """A category whose question is answered by one number, and the share of the score that this number gets."""

    question_type: str
    category: str
    count: int
    answer: float
    score: float


@dataclass(frozen=True)
class Audit:
    """What text alone scores on a set of rows.

    Attributes:
        types: question type -> its audit, sorted by name.
        not_scored: question type -> why it was not audited.
        row_scores: row id -> score of text alone, for every row that was scored; within a type the most exploitable
            come first.
        exploitable: the first of these of each type.
        near_fixed: categories that one answer fits, the closest first.
        interval: 95 % of `micro` by scene, None where nothing was scored.
    """

    types: dict[str, TypeAudit]
    not_scored: dict[str, str]
    row_scores: dict[str, float] = field(repr=False)
    exploitable: tuple[Exploitable, ...]
    near_fixed: tuple[NearFixed, ...]
    interval: Interval | None

    def mean(self, name: str) -> float:
        """Return the mean of a field of `TypeAudit` over rows (each question once); 0 where nothing was scored."""
        total = sum(item.n for item in self.types.values())
        return sum(getattr(item, name) * item.n for item in self.types.values()) / max(total, 1)

    def macro(self, name: str, tasks: Mapping[str, Iterable[str]]) -> float:
        """Return the mean over tasks of the mean over their types; 0 where nothing was scored."""
        of_task = [[getattr(self.types[t], name) for t in own if t in self.types] for own in _covering(self, tasks)]
        return float(np.mean([np.mean(values) for values in of_task if values] or [0.0]))


def _covering(audit: Audit, tasks: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the types by task; one that no task names is a task of its own."""
    named = [list(types) for types in tasks.values()]
    known = {name for types in named for name in types}
    return named + [[name] for name in audit.types if name not in known]


def group_types(rows: Iterable[AuditRow]) -> dict[str, list[AuditRow]]:
    """Return type -> its rows, types sorted by name, without rows that their type's kind of answer does not fit."""
    groups: dict[str, list[AuditRow]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    return dict(sorted(groups.items()))


def too_few(rows: Sequence[AuditRow]) -> str | None:
    """Return why the rows of a type cannot be audited, None where they can."""
    scenes = len({row.scene for row in rows})
    if len({row.right is None for row in rows}) > 1:
        return "both numbers and choices"
    if len(rows) < MIN_ROWS:
        return f"{counted(len(rows), 'row')}, {MIN_ROWS} are needed"
    if scenes < MIN_SCENES:
        return f"{counted(scenes, 'scene')}, {MIN_SCENES} are needed"
    return None


def read_texts(rows: Sequence[AuditRow]) -> Texts:
    """Return the predictor of the rows of one type."""
    return NumberTexts(rows) if rows[0].right is None else ChoiceTexts(rows)


def audit_rows(rows: Iterable[AuditRow], *, null: bool = True) -> Audit:
    """Audit rows of any types; a type with too few rows or scenes is named and not scored.

    Args:
        null: permute the answers too (takes most of the time).
    """
    types: dict[str, TypeAudit] = {}
    not_scored: dict[str, str] = {}
    row_scores: dict[str, float] = {}
    listed: list[Exploitable] = []
    fixed: list[NearFixed] = []
    scored: list[tuple[Array, list[str]]] = []
    for name, own in group_types(rows).items():
        if reason := too_few(own):
            not_scored[name] = reason
            continue
        texts, scenes = read_texts(own), [row.scene for row in own]
        types[name], text = _audit_type(texts, scenes, null)
        scored.append((text, scenes))
        ranked = _ranked(own, text, texts)
        row_scores |= {own[k].id: float(text[k]) for k in ranked}
        listed += [_exploitable(own[k], float(text[k])) for k in ranked[:_NUM_LISTED]]
        fixed += _near_fixed(name, texts) if isinstance(texts, NumberTexts) else []
    interval = None
    if scored:
        all_scenes = [scene for _, scenes in scored for scene in scenes]
        interval = scene_interval(np.concatenate([text for text, _ in scored]), all_scenes)
    fixed.sort(key=lambda item: (-item.score, -item.count, item.question_type, item.category))
    return Audit(types, not_scored, row_scores, tuple(listed), tuple(fixed), interval)


def _audit_type(texts: Texts, scenes: Sequence[str], null: bool) -> tuple[TypeAudit, Array]:
    """Return the audit of one type, and the score of text alone of each row, the mean over fold seeds."""
    runs = [cross_validate(texts, texts.truth, scene_folds(scenes, seed)) for seed in range(NUM_SEEDS)]
    scores = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    chance, text = texts.chance(texts.truth), scores["text"]
    constant, mean = float(scores["constant"].mean()), float(text.mean())
    floor = max(constant, chance)
    permuted = []
    for number in range(NUM_PERMUTED if null else 0):
        truth = texts.permuted(np.random.default_rng([1, number]))
        permuted.append(float(cross_validate(texts, truth, scene_folds(scenes, number))["text"].mean()))
    audit = TypeAudit(
        n=len(text),
        scenes=len(set(scenes)),
        chance=chance,
        constant=constant,
        category=float(scores["category"].mean()),
        text=mean,
        interval=scene_interval(text, scenes),
        prior_share=share_of(floor, chance),
        text_share=share_of(mean, floor),
        null=float(np.mean(permuted)) if permuted else None,
        null_sd=float(np.std(permuted)) if permuted else None,
    )
    return audit, text


def share_of(score: float, floor: float) -> float:
    """Return how much of what is left above `floor` a score gains: (score - floor) / (1 - floor)."""
    return (score - floor) / (1 - floor) if floor < 1 else 0.0


def cross_validate(texts: Texts, truth: NDArray, folds: NDArray[np.int64]) -> dict[str, Array]:
    """Return model -> score of each row learned from the other folds; "text" is the best of the models per fold.

    Best is the one with the highest score on the other folds, the constant among equals.
    """
    scores: dict[str, Array] = {}
    for k in range(NUM_FOLDS):
        fit, use = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        for name, values in texts.predict(truth, fit, use).items() if len(use) else ():
            scores.setdefault(name, np.zeros(len(folds)))[use] = values
    chosen = np.zeros(len(folds))
    for k in range(NUM_FOLDS):
        use = folds == k
        best = max(scores, key=lambda name: (scores[name][~use].mean(), -list(scores).index(name)))
        chosen[use] = scores[best][use]
    return {**scores, "text": chosen}


def _ranked(rows: Sequence[AuditRow], text: Array, texts: Texts) -> list[int]:
    """Return the places of the rows of a type: highest score first, of equals the one whose words say it clearest."""
    clear = np.zeros(len(rows))
    if isinstance(texts, ChoiceTexts):
        folds = scene_folds([row.scene for row in rows], 0)
        for k in range(NUM_FOLDS):
            use = np.flatnonzero(folds == k)
            for i, belief in zip(use, texts.beliefs(texts.truth, np.flatnonzero(folds != k), use), strict=True):
                clear[i] = belief[texts.truth[i]]
    return sorted(range(len(rows)), key=lambda k: (-round(float(text[k]), 6), -round(float(clear[k]), 6), rows[k].id))


def _exploitable(row: AuditRow, score: float) -> Exploitable:
    return Exploitable(row.id, row.question_type, row.scene, row.question, row.answer, score)


def _near_fixed(question_type: str, texts: NumberTexts) -> list[NearFixed]:
    """Return the categories of questions about one category that a constant answers."""
    found = []
    for k, key in enumerate(texts.keys):
        own = np.flatnonzero(texts.key_of == k)
        if len(key) == 1 and len(own) >= _MIN_FIXED_ROWS:
            answer, score = texts.best_constant(own)
            if score >= NEAR_FIXED:
                found.append(NearFixed(question_type, key[0], len(own), answer, score))
    return found
