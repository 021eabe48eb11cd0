"""diff-data --settings: which box, distance and alpha gives the answers of a released dataset; a table of agreement.

Every question is answered from the user's own scans, once under each choice of geometry; nothing is sampled, so that
rows need not be ones that build-data would ask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.config.compose import NOT_GIVEN
from vsgrpo.data.compare.answers import Answers, Said, decimals_of, is_equal_number, read_answers, relative_difference
from vsgrpo.data.leak_guard import name_some
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.scans.source import SceneSettings, find_source
from vsgrpo.spatial.answers import normalize_word
from vsgrpo.spatial.question import Reading
from vsgrpo.spatial.question_types import QUESTION_TYPES, reading_of
from vsgrpo.terminal import Progress, counted

BOXES, SIZE_BOXES, DISTANCES = ("upright_min", "aabb", "min_obb"), ("obb", "aabb"), ("centroid", "closest_point")
ALPHA_POINTS, ALPHAS, ALPHA_HOLES = ("random10k", "voxel5cm"), (2.0, 5.0, 10.0), ("fill", "keep")
Choice = tuple[tuple[str, Any], ...]
"""Settings of geometry: (name behind `spatial.`, value), ..."""


@dataclass(frozen=True)
class SettingsLine:
    """The agreement of one type under one choice.

    Attributes:
        settings: name behind `spatial.` -> value; empty for a type that no geometry decides.
        answered: rows that our boxes answer.
        equal: those that agree.
        median, p90: of the relative difference of the others; None of words.
    """

    question_type: str
    settings: dict[str, Any]
    answered: int
    equal: int
    median: float | None
    p90: float | None


@dataclass(frozen=True)
class SettingsReport:
    """Agreement of a dataset with every choice of geometry.

    Attributes:
        scans: scans read.
        lines: by type, the best choice first.
        best: setting -> the values that agree most, over all types that it decides; several cannot be told apart.
        notes: what could not be answered.
    """

    path: str
    scans: int
    lines: list[SettingsLine]
    best: dict[str, list[Any]]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {**vars(self), "lines": [vars(line) for line in self.lines]}

    def table(self) -> str:
        """Return the agreement of each choice, by type, and the settings that agree most."""
        named = [" ".join(f"{name}={value}" for name, value in line.settings.items()) or "-" for line in self.lines]
        width = max(map(len, named))
        lines = []
        for number, (line, name) in enumerate(zip(self.lines, named, strict=True)):
            if not number or self.lines[number - 1].question_type != line.question_type:
                head = f"{line.question_type}, {line.answered} answered"
                lines.append(f"{head:<{width + 2}}  {'equal':>7}       %  {'median':>7}  {'p90':>7}")
            sizes = "".join("  " + ("-" if v is None else f"{100 * v:.1f} %").rjust(7) for v in (line.median, line.p90))
            share = f"{100 * line.equal / line.answered:6.1f}" if line.answered else f"{'-':>6}"
            lines.append(f"  {name:<{width}}  {line.equal:>7}  {share}{sizes}")
        lines.append(
            f"{self.path}: {counted(self.scans, 'scan')} read; median, p90: of |A - B| / max(A, B), where "
            "numbers differ"
        )
        lines += [
            f"most agreement: spatial.{name}={' or '.join(map(str, values))}" for name, values in self.best.items()
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def match_settings(path: Path, config: BuildDataConfig, limit: int | None = None) -> SettingsReport:
    """Answer the rows of a dataset from scans under every choice of geometry.

    Args:
        config: of build-data: the source of scans, the mode of its labels, and an alpha to try besides.
        limit: read only so many scans.

    Raises:
        ConfigError: no source.root.
        DataError: the rows cannot be read, no scan of theirs is there or can be read, or none can be answered.
    """
    if config.source.root in (None, NOT_GIVEN):
        raise ConfigError(
            "source.root: no value given", "scans are needed to answer from: source=scannet source.root=DIR"
        )
    released, root = read_answers(path), Path(config.source.root)
    source = find_source(config.source.name)
    listed = source.list_scans(config.source, root)
    wanted = [scan for scan in listed if scan in released.scenes][:limit]
    if not wanted:
        named = f"rows ask about {name_some(sorted(released.scenes))}; scans are {name_some(sorted(listed))}"
        raise DataError(f"{path} and source.root={root}: no scan in common", named)
    work = _Work(released, config)
    progress = Progress("scans", len(wanted))
    for scan_id in wanted:
        try:
            work.add(source.read(config.source, root, scan_id))
        except DataError as error:
            work.broken.append(error.message)
        progress.advance()
    return work.report(path, wanted)


class _Work:
    """Pairs of (released, ours) by type and choice, as scans come."""

    def __init__(self, released: Answers, config: BuildDataConfig) -> None:
        self.categories = "raw" if config.data.mode == "vsi100k" else "benchmark"
        self.alphas = sorted({*ALPHAS, config.spatial.alpha})
        self.released = released
        self.by_scene: dict[str, list[tuple[Said, Reading, dict[str, str]]]] = {}
        self.unread: Counter[str] = Counter()
        for said in released.said.values():
            reading = reading_of(said.question_type)
            names = None if reading is None else reading.names_in(said.question)
            if reading is None or names is None:
                self.unread[said.question_type] += 1
            else:
                self.by_scene.setdefault(said.scene, []).append((said, reading, names))
        self.found: dict[tuple[str, Choice], list[tuple[Said, float | str]]] = {}
        self.unanswered: Counter[str] = Counter()
        self.broken: list[str] = []

    def add(self, scan: Any) -> None:
        """Answer the rows of a scan under every choice."""
        missing: set[int] = set()
        for settings, choices in self._scenes():
            scene = scan.scene(settings)
            for number, (said, reading, names) in enumerate(self.by_scene.get(scan.scan_id, [])):
                for choice in choices.get(said.question_type, ()):
                    answer = reading.answer(scene, names, dict(choice).get("distance", "centroid"))
                    if answer is None:
                        missing.add(number)
                    else:
                        self.found.setdefault((said.question_type, choice), []).append((said, answer))
        for number in missing:
            self.unanswered[self.by_scene[scan.scan_id][number][0].question_type] += 1

    def _scenes(self) -> Iterator[tuple[SceneSettings, Mapping[str, Sequence[Choice]]]]:
        """Yield the settings to read a scan with, and type -> the choices that this reading decides.

        Boxes and floor do not depend on each other: each reading settles a choice of both.
        """
        boxes, floors = list(product(BOXES, SIZE_BOXES)), list(product(ALPHA_POINTS, self.alphas, ALPHA_HOLES))
        for number in range(max(len(boxes), len(floors))):
            box, size_box = boxes[number % len(boxes)]
            points, alpha, holes = floors[number % len(floors)]
            values: dict[str, Any] = {"box": box, "size_box": size_box}
            values |= {"alpha_points": points, "alpha": alpha, "alpha_holes": holes}
            is_new = {"size_box": number < len(boxes), "alpha": number < len(floors)}
            is_new["box"] = is_new["size_box"] and size_box == SIZE_BOXES[0]
            choices: dict[str, list[Choice]] = {}
            for kind, names in ((k.name, k.reading.geometry) for k in QUESTION_TYPES.values() if k.reading):
                decides = next((name for name in ("size_box", "alpha", "box") if name in names), None)
                if is_new[decides] if decides else not number:
                    fixed = tuple((name, values[name]) for name in names if name != "distance")
                    several = DISTANCES if "distance" in names else (None,)
                    choices[kind] = [fixed if d is None else (*fixed, ("distance", d)) for d in several]
            yield SceneSettings(**values, categories=self.categories), choices

    def report(self, path: Path, wanted: Sequence[str]) -> SettingsReport:
        """Return the table.

        Raises:
            DataError: no row could be answered.
        """
        if not self.found:
            why = f"{counted(len(self.broken), 'scan')} cannot be read, such as {self.broken[0]}" if self.broken else ""
            rows = counted(self.unanswered.total(), "row")
            why = why or f"their objects are not in the scans, or not by these names ({rows})"
            raise DataError(f"{path}: no row of {counted(len(wanted), 'scan')} can be answered: {why}")
        lines = [self._line(kind, choice, pairs) for (kind, choice), pairs in self.found.items()]
        lines.sort(key=lambda line: (line.question_type, -line.equal, line.median or 0.0))
        notes = self.released.notes()
        if lost := self.released.scenes - {*wanted}:
            notes.append(
                f"{counted(len(lost), 'scene of the rows is', 'scenes of the rows are')} not among the "
                f"scans read, such as {min(lost)}"
            )
        if self.unanswered:
            by_type = ", ".join(f"{kind} {number}" for kind, number in sorted(self.unanswered.items()))
            notes.append(f"not answered under every choice, no such object or not the only one: {by_type}")
        if self.unread:
            by_type = ", ".join(f"{kind} {number}" for kind, number in sorted(self.unread.items()))
            notes.append(f"of a type or sentence that boxes do not answer: {by_type}")
        notes += [f"scan not read: {text}" for text in self.broken[:3]]
        return SettingsReport(str(path), len(wanted) - len(self.broken), lines, _best(lines), notes)

    def _line(self, kind: str, choice: Choice, pairs: list[tuple[Said, float | str]]) -> SettingsLine:
        decimals = decimals_of(said for said in self.released.said.values() if said.question_type == kind)
        equal, sizes = 0, []
        for said, answer in pairs:
            if said.number is None or isinstance(answer, str):
                equal += normalize_word(said.answer) == normalize_word(str(answer))
            elif is_equal_number(said.number, answer, decimals):
                equal += 1
            else:
                sizes.append(relative_difference(said.number, answer))
        median, p90 = (float(value) for value in np.quantile(sizes, [0.5, 0.9])) if sizes else (None, None)
        return SettingsLine(kind, dict(choice), len(pairs), equal, median, p90)


def _best(lines: Sequence[SettingsLine]) -> dict[str, list[Any]]:
    """Return setting -> the values with the most equal answers: of each type its best choice with that value counts."""
    best: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for line in lines for name in line.settings):
        sums: Counter[Any] = Counter()
        by_type: dict[tuple[str, Any], int] = {}
        for line in lines:
            if name in line.settings:
                key = line.question_type, line.settings[name]
                by_type[key] = max(by_type.get(key, 0), line.equal)
        for (_, value), equal in by_type.items():
            sums[value] += equal
        best[name] = [value for value, equal in sums.items() if equal == max(sums.values())]
    return best
