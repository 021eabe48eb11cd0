"""The scores of one file of answers to VSI-Bench or a dataset of ours, by every scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.leak_guard import name_some
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation import foreign
from vsgrpo.evaluation.asked_as import harness_of, recorded_prompt
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmark_table import PLAIN, PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import SUFFIXES, VsiBench, iter_benchmark, scorers_of
from vsgrpo.evaluation.map_scores import map_lines
from vsgrpo.evaluation.results import RESULTS_NAME
from vsgrpo.evaluation.row_files import row_file
from vsgrpo.evaluation.score_tables import Line, group_lines, interval_note, micro_line, score_table
from vsgrpo.evaluation.scores import Item, Scores, score_items
from vsgrpo.records import read_json
from vsgrpo.rules import one_of
from vsgrpo.terminal import counted


@dataclass(frozen=True)
class ScoreReport:
    """Scores of one predictions file."""

    name: str
    scores: Scores
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    prompt: PromptSettings = PLAIN
    """How the questions were asked, as far as that decides how answers are read."""

    @property
    def num_rows(self) -> int:
        """Rows asked about."""
        return len(self.items)

    def to_json(self) -> dict[str, Any]:
        """Return {scorer: {task: 0..1, "overall"}, "n", "unanswered": how many, "intervals", ...}."""
        scores = self.scores
        return {
            **scores.tables,
            "n": scores.num_answered,
            "unanswered": len(scores.unanswered),
            "micro": scores.micro,
            "micro_intervals": scores.micro_intervals,
            "intervals": scores.intervals,
            "groups": scores.groups(),
            **({"sampling": scores.sampling} if scores.sampling else {}),
            **({"sampling_intervals": scores.sampling_intervals} if scores.sampling else {}),
            **({"maps": scores.maps} if any(scores.maps.values()) else {}),
            "n_by_task": scores.num_by_task,
            "num_rows": self.num_rows,
            "num_scenes": scores.num_scenes,
            "unanswered_ids": list(scores.unanswered),
            "unread": scores.num_unread,
            "unmapped": scores.num_unmapped,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the table of all scorers; says so where rows are unanswered."""
        scores = self.scores
        title = f"{self.name}: {scores.num_answered} of {counted(self.num_rows, 'row')} answered"
        lines: list[Line] = []
        for scorer in scores.tables:
            lines.append((scorer, scores.tables[scorer], scores.intervals[scorer]))
            for how, table in scores.sampling.get(scorer, {}).items():
                lines.append((f"{scorer} {how}", table, scores.sampling_intervals[scorer][how]))
        text = [
            score_table(lines, scores.num_by_task, title),
            *group_lines(scores),
            micro_line(scores),
            *map_lines(scores.maps),
        ]
        text += [f"note: {note}" for note in (interval_note(scores.num_scenes), *self.notes)]
        return "\n".join(text)


def score_file(
    path: Path | str,
    rows_path: Path | str | None = None,
    prompt: PromptSettings | None = None,
    split: str = "test",
    field: str | None = None,
    types: frozenset[str] | None = None,
    subset: str = "full",
    harness: str | None = None,
) -> ScoreReport:
    """Score a predictions file with every scorer.

    Args:
        path: see `evaluation.foreign` for the forms.
        rows_path: benchmark file or folder to join with; needed where a line lacks question type or ground truth. None:
            the rows that results.json beside the file names, if they are still there.
        prompt: how the questions were asked; where None, as the settings.json beside the file says (predictions of
            `vsgrpo eval`), else the official form.
        split: which row file of a folder.
        field: where the answers are in each line; None: see `evaluation.foreign`.
        types: score questions of these types only; None: all.
        subset: full, or the part of VSI-Bench that is scored (debiased, pruned); the answers may be to all of it.
        harness: one of `VsiBench.harnesses`, whose reader is used beside ours; None: as the settings.json says.

    Raises:
        DataError: a broken or incomplete line (file:line), an id that the rows lack, an id used twice.
    """
    path = Path(path)
    lines, notes = foreign.read_lines(path, field)
    if prompt is None:
        prompt = recorded_prompt(path)
        if prompt is None and foreign.thinks(lines):
            prompt = PromptSettings("think", "train")
            notes.append("the answers begin with <think>: official and lmms read inside <answer> tags")
    reads_tags = prompt is not None and prompt.answer_mode != "vanilla"
    if not reads_tags and (tagged := foreign.num_tagged(lines)):
        notes.append(
            f"{tagged} of {counted(len(lines), 'answer')} with <answer> tags, which official and lmms take for text "
            "(a bare tag scores 0): prompt.mode=think prompt.wording=train reads inside them"
        )
    if rows_path is None and any(line.question_type is None or line.ground_truth is None for line in lines):
        rows_path = recorded_rows(path)
    if rows_path is None:
        items = foreign.carried_questions(lines)
        if any(line.scene is None for line in lines):
            notes.append("no scene names in the file: single questions were resampled, the intervals are too narrow")
    else:
        file = row_file(Path(rows_path), split, SUFFIXES)
        items = foreign.join_rows(lines, (row for row, _ in iter_benchmark(file)), rows_path)
    if subset != "full":
        items, note = _part_of(items, rows_path, split, subset)
        notes += note
    items = [item for item in items if types is None or item.question_type in types]
    asked = prompt or PLAIN
    scores = score_items(items, asked, scorers_of(harness or harness_of({}, path)))
    return ScoreReport(path.name, scores, tuple(items), (*notes, *_notes_of(scores)), asked)


def _notes_of(scores: Scores) -> Iterator[str]:
    if scores.unanswered:
        unanswered = counted(len(scores.unanswered), "row is", "rows are")
        yield f"{unanswered} unanswered and left out: {name_some(scores.unanswered)}"
    if scores.num_unmapped:
        unmapped = counted(scores.num_unmapped, "answer matches", "answers match")
        yield f"{unmapped} no option of the question (scored 0)"


def _part_of(
    items: Sequence[Item], rows_path: Path | str | None, split: str, subset: str
) -> tuple[list[Item], list[str]]:
    """Return the items of a part of VSI-Bench, and a note where that is not the published one."""
    one_of("benchmark.subset", subset, ("full", "debiased", "pruned"))
    if rows_path is None:
        problem = f"benchmark.subset={subset}: the rows that say what belongs to it are needed"
        raise ConfigError(problem, hint="add benchmark.path=ROWS")
    part = VsiBench.read(rows_path, ReadOptions(split, subset=subset))
    ids = {row.id for row in part.rows}
    return [item for item in items if item.id in ids], [part.other_part] if part.other_part else []


def recorded_rows(path: Path) -> Path | None:
    """Return the row file that the results.json beside a predictions file names, if both are there."""
    results = path.with_name(RESULTS_NAME)
    try:
        file = Path(read_json(results)["benchmark"]["file"]) if results.is_file() else Path()
    except (KeyError, TypeError):
        return None
    return file if file.is_file() else None
