"""Rows whose answer is true for the frames that a model is shown, and the others: counted, and left out of a run.

build-data writes into `extra` (`spatial.frame_true`): `judged_at`, the budgets of frames that were judged; `true_at`,
those at which the answer is true; `answer_at`, budget -> another answer that is true there. A row without `true_at` (or
null), or judged at other budgets alone, is unknown and kept. A row that names frames ("frame 3 of 16") says for how
many frames shown (`frames_shown`): where others are shown it is left out whatever data.frame_true says, for it means
another frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vsgrpo.config.train import TrainConfig
from vsgrpo.data.row import Row, RowError, number_of
from vsgrpo.errors import DataError
from vsgrpo.families import budget_of
from vsgrpo.spatial.maps import cells_of, map_text
from vsgrpo.spatial.moments import FRAMES_SHOWN, MOMENT
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.spatial.wrong_answers import rejected_answer
from vsgrpo.terminal import counted

TRUE_AT, JUDGED_AT, ANSWER_AT = "true_at", "judged_at", "answer_at"
MAP, MAP_JUDGED_AT, MAP_TRUE_AT = "map", "map_judged_at", "map_true_at"
_HINT = "as build-data writes them, see data/README.md"


def check_fields(row: Row, where: str) -> None:
    """Check what a row says about the frames that make it true.

    Raises:
        RowError: the first field that is not as build-data writes it.
    """
    for name in (TRUE_AT, JUDGED_AT, MAP_TRUE_AT, MAP_JUDGED_AT):
        if row.extra.get(name) is not None and not _is_budgets(row.extra[name]):
            rule = "must be a list of numbers of frames"
            raise RowError(where, f"extra.{name}", rule, _HINT, value=row.extra[name])
    if FRAMES_SHOWN in row.extra and not _is_budgets([row.extra[FRAMES_SHOWN]]):
        raise RowError(
            where, f"extra.{FRAMES_SHOWN}", "must be a number of frames", _HINT, value=row.extra[FRAMES_SHOWN]
        )
    if FRAMES_SHOWN in row.extra and MOMENT in row.extra and not _are_moments(row.extra[MOMENT]):
        rule = 'must be a list of {"frame": number from 1, "time_s": seconds}'
        raise RowError(where, f"extra.{MOMENT}", rule, _HINT, value=row.extra[MOMENT])
    other = row.extra.get(ANSWER_AT, {})
    if not isinstance(other, dict) or not all(_is_answer(*item, row.question_type) for item in other.items()):
        raise RowError(where, f"extra.{ANSWER_AT}", 'must be {"frames": "number"}', _HINT, value=other)
    if other and row.answer_kind != "number":
        raise RowError(where, f"extra.{ANSWER_AT}", "is for numbers", _HINT, value=other)


def _is_answer(frames: str, text: Any, question_type: str) -> bool:
    return frames.isdecimal() and isinstance(text, str) and number_of(text, question_type) is not None


def _is_budgets(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item > 0 for item in value)


def _are_moments(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return False
    return all(_is_budgets([item.get("frame")]) and type(item.get("time_s")) in (int, float) for item in value)


def named_frames(row: Row) -> tuple[int, ...]:
    """Return the numbers of the frames that a row names, from 1; none where it names none in our form."""
    shown: Any = row.extra.get(FRAMES_SHOWN)
    moments: Any = row.extra.get(MOMENT)
    if not _is_budgets([shown]) or not _are_moments(moments):
        return ()
    numbers = tuple(item["frame"] for item in moments)
    return numbers if max(numbers, default=0) <= shown else ()


def is_true_at(row: Row, frames: int) -> bool | None:
    """Return whether the row's own answer is true for so many frames shown, None where that is not known."""
    true_at, judged_at = row.extra.get(TRUE_AT), row.extra.get(JUDGED_AT)
    if true_at is not None and (judged_at is None or frames in judged_at):
        return frames in true_at
    named = row.extra.get(FRAMES_SHOWN)
    return None if named is None else frames == named


def is_partly_true(row: Row) -> bool:
    """Return whether the row's own answer was judged false at some budget of frames."""
    true_at, judged_at = row.extra.get(TRUE_AT), row.extra.get(JUDGED_AT)
    return true_at is not None and (judged_at is None or not {*judged_at} <= {*true_at})


def row_at(row: Row, frames: int) -> Row | None:
    """Return the row as it is true for so many frames: with the answer it has there; None where it has none."""
    if is_true_at(row, frames) is not False:
        return row
    answer = row.extra.get(ANSWER_AT, {}).get(str(frames))
    if answer is None:
        return None
    wrong = row.rejected
    if wrong is not None and number_of(wrong, row.question_type) == number_of(answer, row.question_type):
        wrong = rejected_answer(answer, "number", None, seed=0, key=row.key, tolerance=tolerance_of(row.question_type))
    return replace(row, answer=answer, ground_truth=answer, rejected=wrong, reasoning=None)


def without_untrue_map(row: Row, frames: int) -> Row:
    """Return the row without the map that it carries besides its answer, where so many frames do not make that true.

    Its thought, where one was made with the map, loses it too.
    """
    cells = row.extra.get(MAP)
    judged_at, true_at = (row.extra.get(name) or () for name in (MAP_JUDGED_AT, MAP_TRUE_AT))
    if cells is None or frames not in judged_at or frames in true_at:
        return row
    extra = {name: value for name, value in row.extra.items() if name not in (MAP, MAP_JUDGED_AT, MAP_TRUE_AT)}
    known, thought = cells_of(cells), row.reasoning
    if thought is not None and known:
        thought = thought.removeprefix(map_text(cells)).lstrip()
    return replace(row, extra=extra, reasoning=thought)


@dataclass
class TruthTally:
    """Rows true at each budget, per question type.

    Attributes:
        rows: type -> rows; `unknown` those of them that say nothing.
        judged, true, answered: type -> budget -> rows judged there, true there, and true there with another answer.
        bare: type -> rows that name no `judged_at`: they count as judged at every budget.
        named: type -> (frames shown, `judged_at`) -> rows that name frames.
    """

    rows: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    bare: Counter[str] = field(default_factory=Counter)
    judged: dict[str, Counter[int]] = field(default_factory=dict)
    true: dict[str, Counter[int]] = field(default_factory=dict)
    answered: dict[str, Counter[int]] = field(default_factory=dict)
    named: dict[str, Counter[tuple[int, tuple[int, ...]]]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a row, whose fields `check_fields` has accepted."""
        kind, true_at, judged_at = row.question_type, row.extra.get(TRUE_AT), row.extra.get(JUDGED_AT)
        self.rows[kind] += 1
        if (named := row.extra.get(FRAMES_SHOWN)) is not None:
            self.named.setdefault(kind, Counter())[named, tuple(judged_at or ())] += 1
        if true_at is None:
            self.unknown[kind] += 1
            return
        self.bare[kind] += judged_at is None
        self.judged.setdefault(kind, Counter()).update(judged_at or ())
        self.true.setdefault(kind, Counter()).update(true_at)
        self.answered.setdefault(kind, Counter()).update(int(key) for key in row.extra.get(ANSWER_AT, {}))

    def join(self, other: TruthTally) -> None:
        """Count the rows of another tally too."""
        for name in ("rows", "unknown", "bare"):
            getattr(self, name).update(getattr(other, name))
        for name in ("judged", "true", "answered", "named"):
            for kind, counts in getattr(other, name).items():
                getattr(self, name).setdefault(kind, Counter()).update(counts)

    def table(self) -> dict[str, dict[str, Any]]:
        """Return type -> {"n", "unknown", "true_at": {budget: {"true", "judged", "share"}}}, sorted by name."""
        return {
            kind: {"n": self.rows[kind], "unknown": self.unknown[kind], "true_at": self._shares(kind)}
            for kind in sorted(self.rows)
        }

    def _shares(self, kind: str) -> dict[str, dict[str, Any]]:
        budgets = sorted(self.judged.get(kind, Counter()).keys() | self.true.get(kind, Counter()).keys())
        out = {}
        for budget in budgets:
            true, judged = self.true[kind][budget], self.judged[kind][budget] + self.bare[kind]
            out[str(budget)] = {"true": true, "judged": judged, "share": round(true / max(judged, 1), 4)}
        return out

    def lost_at(self, frames: int) -> dict[str, int]:
        """Return type -> rows that a run with so many frames leaves out."""
        lost, none = {}, Counter[Any]()
        for kind in sorted(self.judged.keys() | self.named.keys()):
            judged = self.judged.get(kind, none)[frames] + self.bare[kind]
            lost[kind] = judged - self.true.get(kind, none)[frames] - self.answered.get(kind, none)[frames]
            for (named, judged_at), number in self.named.get(kind, none).items():
                lost[kind] += number if frames != named and frames not in judged_at else 0
        return {kind: number for kind, number in lost.items() if number > 0}


def truth_of(rows: Iterable[Row]) -> TruthTally:
    """Return the tally of some rows."""
    tally = TruthTally()
    for row in rows:
        tally.add(row)
    return tally


def truth_lines(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the printed table of `TruthTally.table`: share of the rows true at each budget; empty if none is known."""
    budgets = sorted({int(key) for entry in table.values() for key in entry["true_at"]})
    if not budgets:
        return []
    width = max([len(kind) for kind in table] + [16])
    lines = [f"{'true at (frames)':<{width}}  {'rows':>7}" + "".join(f"  {budget:>6}" for budget in budgets)]
    for kind, entry in table.items():
        cells = (entry["true_at"].get(str(budget)) for budget in budgets)
        shares = ["-" if cell is None else f"{100 * cell['share']:.0f} %" for cell in cells]
        lines.append(f"{kind:<{width}}  {entry['n']:>7}" + "".join(f"  {share:>6}" for share in shares))
    return lines


def _shows_video(row: Row) -> bool:
    return any(item["kind"] == "video" for item in row.media)


@dataclass(frozen=True)
class TrueRows:
    """The rows of a run that are true for the frames it shows.

    Attributes:
        rows: those kept, with the answers that they have at this budget.
        frames: shown.
        dropped: question type -> rows left out.
        answered: rows kept with another answer than their own.
        unknown: rows with a video, kept, that do not say.
        named: frames shown -> rows left out that name frames of so many.
        maps: rows kept without the map that they carry besides.
    """

    rows: list[Row]
    frames: int
    dropped: dict[str, int]
    answered: int
    unknown: int
    named: dict[int, int] = field(default_factory=dict)
    maps: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the numbers."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("rows", "named", "maps")}
        more = {name: value for name, value in (("named", self.named), ("maps", self.maps)) if value}
        return {**numbers, **more}

    def sentences(self) -> list[str]:
        """Return what was done, for the user; empty where all rows are known to be true."""
        out = []
        if self.dropped:
            by_type = ", ".join(f"{kind} {number}" for kind, number in self.dropped.items())
            number = sum(self.dropped.values())
            what = (
                f"{number} of {counted(number + len(self.rows), 'row')} left out: not true for the "
                f"{counted(self.frames, 'frame shown', 'frames shown')}"
            )
            out.append(f"frame-true: {what} ({by_type}); {self._ways(number)}")
        if self.answered:
            out.append(
                f"frame-true: {counted(self.answered, 'row has', 'rows have')} another answer for the "
                f"{counted(self.frames, 'frame shown', 'frames shown')}"
            )
        if self.maps:
            out.append(
                f"frame-true: {counted(self.maps, 'row loses', 'rows lose')} extra.map: not true for the "
                f"{counted(self.frames, 'frame shown', 'frames shown')}"
            )
        if self.unknown:
            what = (
                f"{self.unknown} of {counted(len(self.rows), 'row does', 'rows do')} not say whether "
                f"{counted(self.frames, 'frame shows', 'frames show')} their answer"
            )
            out.append(f"frame-true: {what}: kept")
        return out

    def _ways(self, number: int) -> str:
        """Return how to keep the rows left out."""
        others = number - sum(self.named.values())
        ways = [f"data.frame_true=off keeps {others if self.named else 'them'}"] if others else []
        ways += [
            f"video.num_frames={frames} keeps {k} that name frames of {frames}" for frames, k in self.named.items()
        ]
        return ", ".join(ways)


def true_rows(rows: Sequence[Row], frames: int, mode: str, where: str) -> TrueRows:
    """Return the rows that are true for `frames` frames; with `mode` "off" all but those that name frames of others.

    Raises:
        RowError: a field that is not as build-data writes it.
        DataError: no row is left.
    """
    is_off = mode == "off"
    for row in rows:
        if row.extra and (not is_off or FRAMES_SHOWN in row.extra):
            check_fields(row, f"{where}: row {row.key}")
    kept: list[Row] = []
    dropped: Counter[str] = Counter()
    named: Counter[int] = Counter()
    answered = maps = 0
    for row in rows:
        found = row if is_off and FRAMES_SHOWN not in row.extra else row_at(row, frames)
        if found is None:
            dropped[row.question_type] += 1
            named.update([row.extra[FRAMES_SHOWN]] if FRAMES_SHOWN in row.extra else [])
            continue
        answered += found is not row
        kept.append(found if is_off else without_untrue_map(found, frames))
        maps += kept[-1] is not found
    if rows and not kept:
        hint = "show as many frames as the dataset was judged for (video.num_frames), or data.frame_true=off"
        hint = f"set video.num_frames={max(named, key=lambda k: named[k])}" if named else hint
        raise DataError(
            f"{where}: none of {counted(len(rows), 'row')} is true for the "
            f"{counted(frames, 'frame shown', 'frames shown')}",
            hint,
        )
    unknown = 0 if is_off else sum(is_true_at(row, frames) is None for row in rows if _shows_video(row))
    return TrueRows(kept, frames, dict(sorted(dropped.items())), answered, unknown, dict(sorted(named.items())), maps)


def rows_of_run(
    config: TrainConfig, rows: Sequence[Row], file: Path, say: Callable[[str], None] | None = None
) -> list[Row]:
    """Return the rows of a file that are true for the frames of a run; `say` is told of the others.

    Raises:
        DataError: none is, or a row says it in a wrong form.
    """
    frames = budget_of(config.model.path, config.vision()).sampled_frames
    found = true_rows(rows, frames, config.data.frame_true, str(file))
    if say is not None:
        for sentence in found.sentences():
            say(f"{file.name}: {sentence}")
    return found.rows
