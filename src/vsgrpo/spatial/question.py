"""What a question is, and what a type of question is.

The settings are in `question_settings.py`, the types in `question_types.py` and its neighbours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vsgrpo.spatial.question_settings import DISTANCES, QuestionSettings, require
from vsgrpo.spatial.scene import Scene, SceneObject

UNITS = {"m": "m", "m2": "m\u00b2", "cm": "cm", "m3": "m\u00b3", "degrees": "degrees", "s": "s"}
"""Unit of a row -> how people write it."""
ANSWER_KINDS = ("number", "choice", "map")
"""How answers of a type are read and scored; rows of other projects are of kind "text" besides."""
LETTERS = "ABCDEF"
"""Letters of the options of a choice, in shown order: 2 to 6 options."""
_FEWEST_LETTERS = 4


@dataclass(frozen=True)
class ObjectRef:
    """The instance a question speaks of."""

    category: str
    instance_id: int


def read_letters(options: Sequence[str] | None) -> str:
    """Return the letters that count as an answer: A to D as in VSI-Bench, of more options theirs."""
    return LETTERS[: max(_FEWEST_LETTERS, len(options or ()))]


@dataclass(frozen=True)
class Question:
    """One question with its answer.

    Attributes:
        type: the record of its type, with the kind and the unit of the answer.
        question: the sentence, without options and without a prompt mode's appendix.
        options: the 2-6 candidate words of choice types in the order of the letters, no "A. "; None for numbers.
        ground_truth: the right letter (choice) or number text.
        answer: what a model is trained to say: word or number text.
        objects: instances the question is about: choice types first the fixed ones, then one per option.
        extra: {"seen": bool} where the scene knows what the video shows; {"synthetic_route": True} of made-up routes.
    """

    type: QuestionType
    question: str
    options: tuple[str, ...] | None
    ground_truth: str
    answer: str
    objects: tuple[ObjectRef, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def question_type(self) -> str:
        """Name of its type, as rows have it."""
        return self.type.name


Maker = Callable[["Asking"], list[Question]]
Observer = Callable[[Scene, Question, Sequence[SceneObject], str], str | None]
Resolver = Callable[[Scene, str, Sequence[str]], str | None]


@dataclass(frozen=True)
class Shown:
    """What a model sees at one budget of frames.

    Attributes:
        frames: positions of the K frames shown among those looked at (`Footage.times`).
        pixels: instance id -> its pixels in each of the K frames shown, in their order.
        frame_pixels: pixels of a whole frame.
        least: pixels in one frame from which an object is visible.
        area: share of the room's floor that these frames span; None: not measured.
        settings: that the question was made with.
    """

    frames: tuple[int, ...]
    pixels: Mapping[int, tuple[int, ...]]
    frame_pixels: int
    least: int
    area: float | None
    settings: QuestionSettings

    def most(self, instance_id: int) -> int:
        """Return the most pixels of an instance in one frame."""
        return max(self.pixels.get(instance_id, ()), default=0)

    def shows(self, instance_id: int) -> bool:
        """Say whether an instance is visible."""
        return self.most(instance_id) >= self.least


Judge = Callable[[Scene, Question, Shown], str | None]


@dataclass(frozen=True)
class Reading:
    """What a sentence of a type names, in anybody's wording, and its answer from boxes (`released.py`).

    Attributes:
        pattern: found in the sentence; its groups are the parts that it names.
        answer: (scene, part -> name in small letters, distance) -> a number in the type's unit, not rounded, or a word;
            None where an object is not there or its name not unique.
        geometry: settings `spatial.*` that answers depend on.
        key: part -> name to what two sentences that ask the same have in common; None: the names in their order.
    """

    pattern: re.Pattern[str]
    answer: Callable[[Scene, Mapping[str, str], str], float | str | None]
    geometry: tuple[str, ...] = ()
    key: Callable[[Mapping[str, str]], tuple[str, ...]] | None = None

    def names_in(self, question: str) -> dict[str, str] | None:
        """Return part -> name of a sentence, None for another sentence."""
        found = self.pattern.search(" ".join(question.split()))
        return None if found is None else {part: text.strip().casefold() for part, text in found.groupdict().items()}


@dataclass(frozen=True)
class QuestionType:
    """One type of question: everything by which it differs from the others.

    Attributes:
        name: the type's name in rows, settings and score tables; VSI-Bench's where the benchmark has the type.
        answer_kind: "number", "choice" or "map"; decides how an answer is read and scored.
        make: `Asking` -> its questions; see `questions.py`.
        unit: unit of the answer, a key of `UNITS`; None for choices, and for numbers that count things.
        family: group of types that data.types and benchmark.tasks take for all of them, "" for none.
        task: task of the score table that the type belongs to, the type's own name by default. Types of one task are
            averaged first.
        column: heading of the task in tables.
        modes: modes that ask this type where data.types does not list any; none: only where it is listed.
        caps: mode -> most questions of a scene; a mode without an entry has no limit.
        pools: mode -> questions of a scene to choose from where rows are balanced by their text.
        max_share: largest share of one answer where balance.mode=paper, unless balance.max_share says another.
        balance: how rows are thinned where balance.mode=text: "text" by the chance of their answer by its words,
            "category" by how near their category is to one number, "" not at all.
        held_out: kept for evaluation: never asked in mode vsi100k, and averaged apart from the trained tasks.
        needs: parts of the scene beside the boxes that answers come from: "floor" (`scene.floor`, which is mapped only
            where such a type is asked), "footage" (`scene.footage`, with frames between those shown) or "poses"
            (`scene.footage.poses`).
        tolerance: largest error of a number that is right, in its unit; others are wrong. None: numbers are scored by
            their relative error.
        words: the options of every question, for choices between fixed words.
        observe: (scene, question, its objects, distance) -> one sentence of templated thought, or None.
        resolve: (scene, question without options, options such as "A. chair") -> letter or number text by our formulas,
            None where an object is not there; ValueError for other wordings. None: boxes do not answer the type.
        aliases: names that other projects use.
        sentence: pattern found in the question of rows that do not name their type.
        listed: pattern whose first group holds the options, separated by commas, where the question names them.
        picture: what the report draws to explain the answer: "floor", "segment", "nearest", "turn" or nothing.
        reading: what its questions name in anybody's wording, and their answers from boxes; None: not known.
        untrue: why frames make an answer of this type untrue, for the trust report.
        judge: (scene, question, what a budget of frames shows) -> the answer that these frames make true, "" where they
            make none true, None where that is not known; see `frame_true`. None: all objects named are visible.
        absent: (mode, category) -> the question about a category that is not in the room, whose answer is 0; None: the
            type has none.
    """

    name: str
    answer_kind: str
    make: Maker
    unit: str | None = None
    family: str = ""
    task: str = ""
    column: str = ""
    modes: tuple[str, ...] = ()
    caps: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, int] = field(default_factory=dict)
    max_share: float | None = None
    balance: str = "text"
    held_out: bool = False
    needs: tuple[str, ...] = ()
    tolerance: float | None = None
    words: tuple[str, ...] | None = None
    observe: Observer | None = None
    resolve: Resolver | None = None
    aliases: tuple[str, ...] = ()
    sentence: re.Pattern[str] | None = None
    listed: re.Pattern[str] | None = None
    picture: str = ""
    judge: Judge | None = None
    absent: Callable[[str, str], str] | None = None
    untrue: str = "an object it names is not visible"
    reading: Reading | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.name):
            raise ValueError(f"name={self.name!r}: letters, digits and _")
        if not re.fullmatch(r"\w*", self.family):
            raise ValueError(f"family={self.family!r}: letters, digits and _")
        require("answer_kind", self.answer_kind, ANSWER_KINDS)
        require("unit", self.unit, (None, *UNITS))
        require("balance", self.balance, ("text", "category", ""))
        for mode in (*self.modes, *self.caps, *self.pools):
            require("modes", mode, tuple(DISTANCES))
        object.__setattr__(self, "task", self.task or self.name)
        object.__setattr__(self, "column", self.column or self.name)

    def share(self, balance: str) -> float | None:
        """Return the largest share of one answer in a mode of balancing: even words in "text"; None: any."""
        return 1 / len(self.words) if balance == "text" and self.words else self.max_share

    def cap(self, mode: str, given: Mapping[str, int | None]) -> int | None:
        """Return the most questions of a scene that are kept: as `given` for the type, else the mode's; None: all."""
        own = given.get(self.name)
        return self.caps.get(mode) if own is None else own


@dataclass(frozen=True)
class Asking:
    """One type asked about one scene: what a maker gets, and how it writes its questions.

    Attributes:
        rng: depends on seed, scene and type alone.
    """

    kind: QuestionType
    scene: Scene
    settings: QuestionSettings
    rng: np.random.Generator

    @property
    def form(self) -> str:
        """The mode whose wordings are taken: the paper's, or the benchmark's."""
        return "vsi100k" if self.settings.mode == "vsi100k" else "vsibench"

    @property
    def cap(self) -> int | None:
        """The most questions that are made, None for no limit."""
        cap = self.kind.cap(self.settings.mode, self.settings.caps)
        pool = self.kind.pools.get(self.settings.mode, 0) if self.settings.pooled else 0
        return None if cap is None else max(cap, pool)

    def usable_ids(self) -> set[int]:
        """Return the instances that may be named: all, or with `unseen="drop"` those the video shows."""
        drop = self.scene.pixels is not None and self.settings.unseen == "drop"
        return {o.instance_id for o in self.scene.objects if not drop or self._is_seen(o.instance_id)}

    def nameable_objects(self) -> list[SceneObject]:
        """Return the usable objects that a name alone identifies: the only ones of their category, with sound boxes."""
        usable = self.usable_ids()
        return [o for o in self.scene.unique_objects() if o.instance_id in usable and o.is_sound]

    def capped(self, questions: list[Question]) -> list[Question]:
        """Return the questions, or a random choice of them, in order, where they are more than the cap.

        Of a pool in random order.
        """
        if self.settings.pooled:  # the cut comes later, and takes the first
            return [questions[k] for k in self.rng.permutation(len(questions))[: self.cap]]
        if self.cap is None or len(questions) <= self.cap:
            return questions
        return [questions[k] for k in sorted(self.rng.choice(len(questions), self.cap, replace=False))]

    def number(self, text: str, answer: str, objects: Sequence[SceneObject]) -> Question:
        """Return a question answered by a number above 0, as plain digits in the unit of the type."""
        return self._question(text, None, answer, answer, objects)

    def choice(self, text: str, words: tuple[str, ...], right: int, objects: Sequence[SceneObject]) -> Question:
        """Return a question answered by one of 2 to 6 different options, the one at `right`."""
        return self._question(text, words, LETTERS[right], words[right], objects)

    def map(self, text: str, answer: str, objects: Sequence[SceneObject]) -> Question:
        """Return a question answered by a map (`maps.map_text`)."""
        return self._question(text, None, answer, answer, objects)

    def _question(
        self, text: str, words: tuple[str, ...] | None, truth: str, answer: str, objects: Sequence[SceneObject]
    ) -> Question:
        refs = tuple(ObjectRef(o.category, o.instance_id) for o in objects)
        seen = {} if self.scene.pixels is None else {"seen": all(self._is_seen(o.instance_id) for o in objects)}
        return Question(self.kind, text, words, truth, answer, refs, seen)

    def _is_seen(self, instance_id: int) -> bool:
        pixels = (self.scene.pixels or {}).get(instance_id, ())
        return sum(count >= self.settings.min_pixels for count in pixels) >= self.settings.min_frames


def question_rng(seed: int, scene_name: str, question_type: str) -> np.random.Generator:
    """Return the generator of one scene and type: independent of any order in which scenes or types are worked on."""
    key = f"{seed}\0{scene_name}\0{question_type}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "little"))


def drawn_options(
    right: str, items: Sequence[str], draw: Callable[[], Iterable[int]], num_wrong: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], int]:
    """Return `num_wrong` different wrong sequences of `items`, by places from `draw`, with the right one; its place."""
    words: list[str] = []
    while len(words) < num_wrong:
        other = ", ".join(items[k] for k in draw())
        if other != right and other not in words:
            words.append(other)
    place = int(rng.integers(num_wrong + 1))
    words.insert(place, right)
    return tuple(words), place


def one_decimal(value: float) -> str:
    """Return metres or square metres as answers write them: "2.5", "11.0"."""
    return f"{round(value, 1):.1f}"


def wording(text: str) -> re.Pattern[str]:
    """Return the pattern by which sentences of a type are known: any case, over line ends."""
    return re.compile(text, re.IGNORECASE | re.DOTALL)


def names_overlap(a: str, b: str) -> bool:
    """Say whether one name holds the other ("table", "coffee table"): such pairs cannot be told apart by a word."""
    return a in b or b in a
