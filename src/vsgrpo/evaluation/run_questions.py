"""`vsgrpo eval benchmark=mathvista|folder`: image (or video) questions in, predictions and a score out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.answering import answer_rows, predictions_name
from vsgrpo.evaluation.baselines import derangement
from vsgrpo.evaluation.folder import evaluation_folder
from vsgrpo.evaluation.leak import Leak, check_lineage, compare_rows
from vsgrpo.evaluation.mathvista import MathVistaReport, score_responses
from vsgrpo.evaluation.outputs import write_results
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME, Media, read_answers, read_errors, read_lines
from vsgrpo.evaluation.question_sets import QuestionSet, read_folder, read_mathvista
from vsgrpo.evaluation.run import VIEWS, check_models, run_eval
from vsgrpo.evaluation.score import PromptSettings
from vsgrpo.rewards import is_right
from vsgrpo.spatial.answers import parse_answer

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig
    from vsgrpo.evaluation.results import EvalReport

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FolderReport:
    """Accuracy on questions of one's own.

    Attributes:
        name: of the row file.
        num_rows: questions in it.
        correct: id -> right or wrong, of answered questions.
        by_type: question type -> (right, all).
    """

    name: str
    num_rows: int
    correct: Mapping[str, bool]
    by_type: Mapping[str, tuple[int, int]]

    @property
    def overall(self) -> float:
        """Accuracy over the answered questions, 0..1."""
        return sum(self.correct.values()) / len(self.correct)

    def scores(self) -> dict[str, float]:
        """Return accuracy 0..1 overall and by question type."""
        return {"overall": self.overall, **{name: right / n for name, (right, n) in self.by_type.items()}}

    def scorer(self) -> str:
        """Name the scorer."""
        return "right or wrong"

    def title(self) -> str:
        """Name what was scored."""
        return f"{len(self.correct)} of {self.num_rows} questions in {self.name} | right or wrong"

    def to_json(self) -> dict[str, Any]:
        """Return accuracies 0..1, overall and by question type."""
        types = {
            name: {"accuracy": right / n, "correct": right, "total": n} for name, (right, n) in self.by_type.items()
        }
        found = {"title": self.title(), "overall": self.overall, "n": len(self.correct), "num_rows": self.num_rows}
        return {**found, "question_types": types, "correct": dict(self.correct)}

    def table(self) -> str:
        """Return accuracy overall and by question type."""
        lines = [self.title(), f"{'overall':<34}{100 * self.overall:>8.1f}{len(self.correct):>6}"]
        lines += [f"  {name:<32}{100 * right / n:>8.1f}{n:>6}" for name, (right, n) in self.by_type.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class QuestionReport:
    """One evaluation: the score, those of controls, and what decided them."""

    main: MathVistaReport | FolderReport
    controls: Mapping[str, MathVistaReport | FolderReport]
    leak: Leak
    settings: Mapping[str, Any]
    errors: Mapping[str, str]
    """id -> why it is unanswered."""
    num_cut_off: int
    """Answers that have all tokens they may have: most of them were not finished."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json; `scores` and what follows it are there for reports and model cards."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.main.to_json(),
            "scores": self.main.scores(),
            "scorer": self.main.scorer(),
            "controls": {name: {"overall": report.overall} for name, report in self.controls.items()},
            "leak": self.leak.to_json(),
            "cut_off": self.num_cut_off,
            "unanswered": [{"id": name, "reason": reason} for name, reason in self.errors.items()],
            **{name: value for name, value in self.settings.items() if name != "schema_version"},
        }

    def table(self) -> str:
        """Return the tables, controls below."""
        lines = [self.main.table()]
        lines += [f"control {name:<12} {100 * report.overall:.1f}" for name, report in self.controls.items()]
        lines += [f"note: {note}" for note in self.leak.notes()]
        if self.num_cut_off:
            limit = self.settings["decoding"]["max_new_tokens"]
            lines.append(f"note: {self.num_cut_off} answers were cut off at decoding.max_new_tokens={limit}")
        if self.errors:
            lines.append(f"note: {len(self.errors)} questions are unanswered and left out of the scores:")
            lines += [f"  {reason}" for reason in sorted(set(self.errors.values()))[:5]]
        return "\n".join(lines)


def run_benchmark(
    config: EvalConfig,
    *,
    skip_missing: bool = False,
    allow_leak: bool = False,
    overwrite: bool = False,
    wandb: bool = False,
    allow_changed: bool = False,
) -> EvalReport | QuestionReport | None:
    """Evaluate a model on whichever benchmark `benchmark.name` says: `run_eval` or `run_questions`, in a locked folder.

    Raises:
        ConfigError: an option that only VSI-Bench knows.
    """
    shared = {"skip_missing": skip_missing, "overwrite": overwrite, "allow_changed": allow_changed}
    if config.benchmark.name == "vsibench":
        with evaluation_folder(config, overwrite):
            return run_eval(config, allow_leak=allow_leak, wandb=wandb, **shared)
    if wandb:
        raise ConfigError("--wandb: for benchmark=vsibench only", hint="leave --wandb out")
    with evaluation_folder(config, overwrite):
        return run_questions(config, allow_leak=allow_leak, **shared)


def run_questions(
    config: EvalConfig,
    *,
    skip_missing: bool = False,
    allow_leak: bool = False,
    overwrite: bool = False,
    allow_changed: bool = False,
) -> QuestionReport | None:
    """Evaluate a model on image questions; an interrupted evaluation goes on where it stopped.

    Under a launcher every process answers its share; all but the first return None.

    Raises:
        ConfigError, DataError: wrong keys, rows, images or model; a benchmark room in the model's lineage without
            `allow_leak`; predictions made under other settings.
        RunError: an endpoint that should extract answers can serve nothing; predictions are kept.
    """
    check_models(config)
    manifests = check_lineage(config.model.path, config.model.adapter, allow_leak=allow_leak)
    if config.decoding.num_samples > 1:
        raise ConfigError(
            f"decoding.num_samples={config.decoding.num_samples}: benchmark={config.benchmark.name} scores one answer",
            hint="set decoding.num_samples=1",
        )
    questions = read_questions(config).with_media(skip_missing)
    media = {row.key: questions.media(row) for row in questions.rows}
    leak = compare_rows(manifests, questions.rows, media, allow_leak=allow_leak, name=config.model.path)
    shown: dict[str, tuple[str, Callable[[Row], Media]]] = {"": ("own", questions.media)}
    for name in config.controls:
        shown[name] = (VIEWS[name], _shuffled(questions) if name == "shuffled" else questions.media)
    if config.video.shuffle:
        shown[""] = ("own", _shuffled(questions))
    began = time.time()
    identity = {"name": questions.name, "file": str(questions.file), "sha256": questions.sha256}
    settings = answer_rows(
        config, questions.rows, identity, shown, overwrite, questions.text_of, allow_changed=allow_changed
    )
    if settings is None:
        return None
    folder = Path(config.run.dir)
    reports = {name: _score(config, questions, folder / predictions_name(name), name) for name in shown}
    limit = config.decoding.max_new_tokens
    cut_off = sum(data.get("num_tokens", 0) >= limit for data in read_lines(folder / PREDICTIONS_NAME))
    errors = read_errors(folder / PREDICTIONS_NAME)
    report = QuestionReport(reports.pop(""), reports, leak, settings, errors, cut_off)
    write_results(config, report.to_json(), time.time() - began)
    return report


def read_questions(config: EvalConfig) -> QuestionSet:
    """Read the questions that `benchmark.*` names; pictures inside their file are written to RUN_DIR/images."""
    asked = config.benchmark
    prompt = PromptSettings(config.prompt.mode, config.prompt.wording, config.prompt.show_options)
    if asked.name == "mathvista":
        return read_mathvista(asked.path, prompt, asked.tasks, asked.limit, Path(config.run.dir) / "images")
    return read_folder(asked.path, asked.split, prompt, asked.tasks, asked.limit)


def _shuffled(questions: QuestionSet) -> Callable[[Row], Media]:
    """Return which media a row is shown under the control `shuffled`: those of another row."""
    keys = {row.id: "\n".join(str(path) for _, path in questions.media(row)) for row in questions.rows}
    media = {keys[row.id]: questions.media(row) for row in questions.rows}
    try:
        partner = derangement([keys[row.id] for row in questions.rows])
    except ValueError as error:
        raise ConfigError(f"shuffled: {error}", hint="evaluate rows with two images at least") from None
    return lambda row: media[partner[keys[row.id]]]


def _score(config: EvalConfig, questions: QuestionSet, file: Path, control: str) -> MathVistaReport | FolderReport:
    answers = {name: texts[0] for name, texts in read_answers(file).items()}
    answered = {name: text for name, text in answers.items() if text is not None}
    if not answered:
        raise DataError(f"{file}: no question is answered", "the reasons stand in the file")
    if questions.name == "folder":
        return score_folder(questions, answered, config)
    extractions, by = None, "rule"
    if config.extract.model is not None:
        from vsgrpo.evaluation.mathvista_extract import extract_answers

        folder = Path(config.run.dir) / ".extract"
        extractions = extract_answers(questions.problems, answered, config.extract, config.run.seed, folder)
        by = f"model {config.extract.model}"
    name = control or config.model.adapter or config.model.path
    return score_responses(questions.problems.values(), answered, name, extractions, by, questions.num_rows)


def score_folder(questions: QuestionSet, answered: Mapping[str, str], config: EvalConfig) -> FolderReport:
    """Score answers right or wrong: words, option letters, maths by value, numbers within 5 % (`rewards.is_right`)."""
    prompt = config.prompt
    mode = prompt.mode if prompt.wording == "train" else "vanilla"
    correct: dict[str, bool] = {}
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row in questions.rows:
        if row.id not in answered:
            continue
        letter = row.ground_truth if row.answer_kind == "choice" and prompt.show_options else None
        correct[row.id] = is_right(parse_answer(answered[row.id], mode), row.answer, row.answer_kind, letter)
        right[row.question_type] += correct[row.id]
        total[row.question_type] += 1
    by_type = {name: (right[name], total[name]) for name in sorted(total)}
    return FolderReport(questions.file.name, questions.num_rows, correct, by_type)
