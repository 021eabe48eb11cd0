"""MathVista testmini: extract answers by rule, normalise and score as the official code does.

The official harness asks GPT-4 to extract each answer; here rules do it, or any endpoint (`mathvista_extract`), so a
score says which extraction it is of.

Source: lupantech/MathVista evaluation/calculate_score.py and extract_answer.py (normalisation, equality, groups).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vsgrpo.data.prompts import TRAIN_SENTENCES
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Accuracy, accuracy_cells
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions, question_row
from vsgrpo.evaluation.predictions import Media
from vsgrpo.vision_r1.mathvista_extract import extract, extract_answers
from vsgrpo.vision_r1.mathvista_rows import GROUPS, Problem, find_file, read_images, read_problems, read_responses

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

NUM_ROWS = 1000
"""Questions of the whole testmini; fewer are never called MathVista."""
# The columns of Vision-R1's table: a group and its value.
COLUMNS = {
    "GEO": ("skills", "geometry reasoning"),
    "ARI": ("skills", "arithmetic reasoning"),
    "ALG": ("skills", "algebraic reasoning"),
    "GPS": ("task", "geometry problem solving"),
    "MWP": ("task", "math word problem"),
}


@dataclass(frozen=True)
class MathVistaAccuracy(Accuracy):
    """Accuracy on MathVista; `by_type` is by task.

    Attributes:
        unreadable: pids whose answer could not be read (wrong).
        groups: group -> value -> (right, all) over answered questions.
        extraction: "rule", or "model NAME".
    """

    unreadable: tuple[str, ...]
    groups: Mapping[str, Mapping[str, tuple[int, int]]]
    extraction: str = "rule"

    def scorer(self) -> str:
        """Name the scorer."""
        return f"MathVista ({self.extraction})"

    def title(self) -> str:
        """Name what was scored: "MathVista testmini" only where every question of it was answered."""
        whole = len(self.correct) == self.num_rows == NUM_ROWS
        what = (
            "MathVista testmini" if whole else f"{len(self.correct)} of {self.num_rows} questions of MathVista's form"
        )
        return f"{what} | extraction by {self.extraction} (the official one is by GPT-4)"

    def to_json(self) -> dict[str, Any]:
        """Return accuracies 0..1, overall and by group."""
        return {
            "title": self.title(),
            "extraction": self.extraction,
            "overall": self.overall,
            "n": len(self.correct),
            "num_rows": self.num_rows,
            "unreadable": list(self.unreadable),
            "groups": {group: accuracy_cells(found) for group, found in self.groups.items()},
            "correct": dict(self.correct),
        }

    def table(self) -> str:
        """Return the columns of Vision-R1's table, then accuracy by task and by skill."""
        cells = {"ALL": (sum(self.correct.values()), len(self.correct))}
        cells |= {name: self.groups[group].get(value, (0, 0)) for name, (group, value) in COLUMNS.items()}
        width = max(len(self.name), 1)
        lines = [self.title(), " " * width + "".join(f"{name:>8}" for name in cells)]
        lines.append(f"{self.name:<{width}}" + "".join(f"{_percent(*cell):>8}" for cell in cells.values()))
        lines.append(f"{'n':<{width}}" + "".join(f"{n:>8}" for _, n in cells.values()))
        for group in ("task", "skills"):
            lines.append(f"by {group}:")
            lines += [f"  {value:<32}{_percent(*cell):>8}{cell[1]:>6}" for value, cell in self.groups[group].items()]
        if self.unreadable:
            lines.append(
                f"note: {len(self.unreadable)} answers could not be read (wrong), such as {self.unreadable[0]}"
            )
        missing = self.num_rows - len(self.correct)
        if missing:
            lines.append(f"note: {missing} questions have no prediction and are left out of the scores")
        return "\n".join(lines)


@dataclass(frozen=True)
class MathVista(Benchmark):
    """MathVista's testmini as downloaded: the parquet with its pictures, or json beside an images folder.

    Attributes:
        problems: pid -> question, those of the tasks asked for.
        unpacked: pid -> the picture that came out of the parquet.
    """

    problems: Mapping[str, Problem] = field(default_factory=dict)
    unpacked: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str, options: ReadOptions = ReadOptions()) -> Self:
        """Read the questions; `tasks` are those of metadata.task. Pictures of the parquet go to RUN_DIR/images.

        Raises:
            DataError: as `read_problems`; a picture that is no image.
            ConfigError: no question of these tasks.
        """
        file, tasks, run_dir = find_file(Path(path)), options.tasks, options.run_dir
        problems = read_problems(file)
        kept = [problem for problem in problems if tasks is None or set(tasks) & set(problem.groups["task"])]
        if not kept:
            known = ", ".join(sorted({task for problem in problems for task in problem.groups["task"]}))
            raise ConfigError(f"benchmark.tasks={list(tasks or [])}: no such task", hint=f"there are: {known}")
        by_pid = {problem.pid: problem for problem in kept}
        read = cls.of_rows(file, [_row(problem) for problem in kept], len(problems), options, problems=by_pid)
        unpacked = read_images(file, {row.id for row in read.rows}, run_dir / "images") if run_dir else {}
        return replace(read, unpacked=unpacked)

    def media(self, row: Row) -> Media:
        """Return the picture of a row: unpacked, or below the folder that holds `images`."""
        if row.id in self.unpacked:
            return (("image", self.unpacked[row.id]),)
        folders = (self.file.parent, self.file.parent.parent)
        return row.media_paths(next((folder for folder in folders if (folder / "images").is_dir()), folders[0]))

    def text(self, row: Row) -> str:
        """Return the official query (hint, question, choices); in tagged modes followed by the training sentence."""
        if self.prompt.mode == "vanilla":
            return row.question
        return f"{row.question}\n{TRAIN_SENTENCES[self.prompt.mode].replace('the video', 'the image')}"

    @classmethod
    def read_predictions(cls, file: Path) -> dict[str, str]:
        """Return pid -> answer, see `read_responses`."""
        return read_responses(file)

    def accuracy(self, answers: Mapping[str, str], name: str, config: EvalConfig | None = None) -> Accuracy:
        """Score answers by extraction (by rule, or by the model of `extract.model`) and the official comparison.

        Raises:
            RunError: the endpoint that should extract answers can serve nothing; predictions are kept.
        """
        extractions, by = None, "rule"
        if config is not None:
            name = name or config.model.adapter or config.model.path
        if config is not None and config.extract.model is not None:
            folder = Path(config.run.dir) / ".extract"
            extractions = extract_answers(self.problems, answers, config.extract, config.run.seed, folder)
            by = f"model {config.extract.model}"
        return score_responses(self.problems.values(), answers, name, extractions, by, self.num_rows)


def _row(problem: Problem) -> Row:
    # A test row never meets a trainer, so its path may lie anywhere below the file.
    image = os.path.normpath(problem.image or f"{problem.pid}.jpg")
    return question_row(problem.pid, problem.query, problem.answer, [("image", image)], dataset="mathvista")


def _percent(right: float, number: int) -> str:
    return f"{100 * right / number:.1f}" if number else "-"


def normalize(extraction: str, problem: Problem) -> str | None:
    """Return the extraction in the form of the ground truth, None where it cannot be brought into it.

    multi_choice: "(A)" and "A" become their choice, anything else the choice of least edit distance; integer:
    cut to a whole number; float: rounded to `precision`; text and list: as they are. Deviation: an empty extraction is
    None; the official code gives it the choice that is nearest to nothing.
    """
    if not extraction.strip():
        return None
    if problem.question_type == "multi_choice":
        text = extraction.strip()
        bracketed = re.findall(r"\(([a-zA-Z])\)", text)
        text = bracketed[0].upper() if bracketed else text
        letters = [chr(ord("A") + i) for i in range(len(problem.choices))]
        if text in letters:
            return problem.choices[letters.index(text)]
        return min(problem.choices, key=lambda choice: edit_distance(text, choice))
    if problem.answer_type in ("integer", "float"):
        try:
            value = float(extraction)
            return str(int(value)) if problem.answer_type == "integer" else str(round(value, problem.precision))
        except (ValueError, OverflowError):
            return None
    return extraction


def edit_distance(left: str, right: str) -> int:
    """Return Levenshtein's distance; beyond 1,000 characters of `left` only its first 1,000 count."""
    left = left[:1000]
    before = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]


def score_responses(
    problems: Iterable[Problem],
    responses: Mapping[str, str],
    name: str,
    extractions: Mapping[str, str] | None = None,
    extraction: str = "rule",
    num_rows: int | None = None,
) -> MathVistaAccuracy:
    """Score responses (pid -> text): equality of normalised strings.

    Args:
        extractions: pid -> what `extraction` took out of the response; None: by rule.
        num_rows: questions of the file where `problems` are a part of it.

    Raises:
        DataError: no question has a response, or a response belongs to none.
    """
    problems = list(problems)
    unknown = sorted(set(responses) - {problem.pid for problem in problems})
    if unknown:
        hint = "these are predictions of other questions"
        raise DataError(f"{name}: pid={unknown[0]}: not in the benchmark ({len(unknown)} such)", hint)
    correct: dict[str, bool] = {}
    unreadable: list[str] = []
    table: dict[str, dict[str, list[int]]] = {group: {} for group in GROUPS}
    for problem in problems:
        if problem.pid not in responses:
            continue
        taken = extract(responses[problem.pid], problem) if extractions is None else extractions[problem.pid]
        prediction = normalize(taken, problem)
        if prediction is None:
            unreadable.append(problem.pid)
        right = prediction is not None and prediction == problem.answer
        correct[problem.pid] = right
        for group, values in problem.groups.items():
            for value in values:
                cell = table[group].setdefault(value, [0, 0])
                cell[0] += right
                cell[1] += 1
    if not correct:
        raise DataError(f"{name}: no prediction for any of {len(problems)} questions", "lines are {pid, prediction}")
    counts = {group: {v: (c[0], c[1]) for v, c in sorted(found.items())} for group, found in table.items()}
    total = num_rows or len(problems)
    return MathVistaAccuracy(name, total, correct, counts["task"], tuple(unreadable), counts, extraction)
