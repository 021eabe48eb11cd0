"""Result files that lmms-eval's readers take, and the submission of the EASI leaderboard.

`lmms` writes FOLDER/MODEL/DATE_results.json and DATE_samples_TASK.jsonl as lmms-eval does with --log_samples. `easi`
writes the same under the leaderboard's task names, easi_results.json (what is submitted) and easi_results.zip (the
files beside it). What the leaderboard asks and an evaluation cannot know stays empty and is named.

Source: lmms-eval 75571cf (loggers/evaluation_tracker.py, baselines/loader.py), EASI 0c1a41e (scripts/submissions).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmark import Benchmark, Report, find_benchmark
from vsgrpo.evaluation.export_names import ExportNames, export_names
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME, one_each, read_answers
from vsgrpo.evaluation.results import RESULTS_NAME, SETTINGS_NAME, read_results
from vsgrpo.evaluation.row_files import find_version
from vsgrpo.evaluation.run import read_rows
from vsgrpo.evaluation.score_tables import logged_question
from vsgrpo.files import publish, write_atomic
from vsgrpo.paths import inside, remove
from vsgrpo.records import read_record
from vsgrpo.spatial.answers import EASI
from vsgrpo.terminal import show

Configs = Mapping[str, Mapping[str, EvalConfig]]
"""Model -> benchmark of a suite (\"\" for a single one) -> its evaluation."""
KINDS = ("lmms", "easi")
PAYLOAD_NAME, ARCHIVE_NAME = "easi_results.json", "easi_results.zip"
MODEL_TYPES = ("pretrained", "finetuned", "instruction", "rl")
MAX_ARCHIVE_MB = 4.5
"""Above it the leaderboard takes no submission by script: the two files are sent by hand."""


@dataclass(frozen=True)
class Exported:
    """The answers of one model to one benchmark, and their scores.

    Attributes:
        answers: id -> what the model said.
        scores: id -> 0..1; of VSI-Bench lmms-eval's, or VLMEvalKit's where it asked.
        cells: means 0..1 by name, as `ExportNames` names them.
        settings: settings.json of the evaluation, {} for predictions of another make.
    """

    benchmark: Benchmark
    answers: Mapping[str, str]
    scores: Mapping[str, float]
    cells: Mapping[str, float]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls, benchmark: Benchmark, answers: Mapping[str, str], content: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Exported:
        """Return scored answers; `content` is that of results.json, or of `vsgrpo score --json`."""
        rows = [row for row in benchmark.rows if row.id in answers]
        scores = content.get("correct") or {
            row.id: float(benchmark.score(row, benchmark.spoken(answers[row.id]))) for row in rows
        }
        return cls(benchmark, answers, scores, {**_table_cells(content), **_row_cells(rows, scores)}, settings)

    @property
    def names(self) -> ExportNames:
        """Names of the benchmark, or of its subset, the version of its file or its harness."""
        benchmark = self.benchmark
        version = find_version(benchmark.versions, benchmark.num_rows, benchmark.sha256)
        subset = str(benchmark.identity().get("subset", "full"))
        parts = ("" if subset == "full" else subset, version.name if version else "", benchmark.harness)
        return export_names(benchmark.export_names, benchmark.name, *parts)

    def metrics(self) -> dict[str, float]:
        """Return lmms-eval's metrics 0..1; a cell without questions is left out."""
        cells = {self.names.overall: self.names.mean, **self.names.metrics}
        return {metric: self.cells[cell] for metric, cell in cells.items() if cell in self.cells}


def _table_cells(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the means of a table; of VSI-Bench's several that by VLMEvalKit if it is there, else lmms-eval's."""
    tables = content.get("scorers", content)
    table = tables.get(EASI, tables.get("lmms"))
    if table is not None:
        return {name if name == "overall" else f"tasks/{name}": value for name, value in table.items()}
    cells = {name: content[name] for name in ("overall", "micro", "macro") if name in content}
    groups = {name: content.get(name, {}) for name in ("tasks", "question_types")} | content.get("groups", {})
    cells |= {f"{group}/{name}": cell["accuracy"] for group, own in groups.items() for name, cell in own.items()}
    return cells


def _row_cells(rows: Sequence[Row], scores: Mapping[str, float]) -> dict[str, float]:
    """Return the means over rows, all and by question type."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name in ("rows/overall", f"rows/{row.question_type}"):
            found.setdefault(name, []).append(float(scores[row.id]))
    return {name: sum(values) / len(values) for name, values in found.items()}


def export_folder(kind: str, folder: Path, benchmarks: Iterable[str], overwrite: bool = False) -> Path:
    """Return where an export goes, FOLDER/export_KIND; asked before anything is scored.

    Raises:
        ConfigError: another kind, or a benchmark that the leaderboard does not list.
        DataError: something is there already, without `overwrite`.
    """
    if kind not in KINDS:
        raise ConfigError(f"--export {kind}: unknown", hint=f"choose from: {', '.join(KINDS)}")
    for name in benchmarks if kind == "easi" else ():
        _check_listed(f"benchmark={name}", export_names(find_benchmark(name).export_names, name))
    target = folder / f"export_{kind}"
    if target.exists() and not overwrite:
        raise DataError(f"{target}: is there already", "move it away, or delete it")
    return target


def _check_listed(what: str, names: ExportNames) -> None:
    if not names.easi:
        hint = "--export lmms writes its files for lmms-eval's readers"
        raise ConfigError(f"--export easi: {what} is not on the EASI leaderboard", hint=hint)


def write_export(kind: str, target: Path, exported: Sequence[Exported]) -> list[str]:
    """Write the files of one model's evaluations into a new folder and return what to say of them.

    Raises:
        ConfigError: a part of a benchmark that the leaderboard does not list.
    """
    for item in exported if kind == "easi" else ():
        _check_listed(item.benchmark.version_name(), item.names)
    model = _model_name(exported[0].settings)
    part = target.with_name(f".{target.name}.part")
    remove(part)
    folder = part / (re.sub(r'["<>:/|\\?*\[\]]+', "__", model).lstrip(".") or "model")
    folder.mkdir(parents=True)
    date = time.strftime("%Y%m%d_%H%M%S")
    logs: dict[str, tuple[Exported, list[dict[str, Any]]]] = {}
    for item in exported:
        for task, rows in _tasks(item, kind).items():
            lines = [_sample(item, number, row) for number, row in enumerate(rows) if row.id in item.answers]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomic(inside(folder, f"{date}_samples_{task}.jsonl"), text)  # a task may be named by a row
            logs[task] = (item, lines)
    write_atomic(folder / f"{date}_results.json", json.dumps(_results(logs, model), indent=2, ensure_ascii=False))
    notes = [f"export: {target / folder.name}: {date}_results.json and samples of {', '.join(logs)}"]
    if kind == "easi":
        notes += _write_submission(part, folder, exported, model)
    publish(part, target)
    return notes


def _tasks(item: Exported, kind: str) -> dict[str, list[Row]]:
    """Return lmms-eval's tasks -> their rows."""
    names, found = item.names, {}
    for row in item.benchmark.rows:
        of_video = names.video_task and any(shown["kind"] == "video" for shown in row.media)
        task = names.video_task if of_video else (names.easi_task if kind == "easi" else "") or names.task
        found.setdefault(task.format_map(row.extra), []).append(row)
    return found


def _sample(item: Exported, number: int, row: Row) -> dict[str, Any]:
    """Return a line of a sample log: `score` first, which lmms-eval's loader of baselines takes."""
    text, names, benchmark = item.answers[row.id], item.names, item.benchmark
    read, value = benchmark.spoken(text), float(item.scores[row.id])
    options = None if row.options is None else list(row.options)
    doc = {**logged_question(row), "options": options, "answer": row.ground_truth}
    metrics: dict[str, Any] = {names.overall: {**doc, "prediction": read, "score": value}}
    if names.above_chance:
        chance = benchmark.chance(row)
        kinds = ["overall", row.question_type, *(name for own in benchmark.groups(row).values() for name in own)]
        metrics = {
            "accuracy": {**dict.fromkeys(kinds, value), "total": 1.0},
            "chance_adjusted_acc": {**dict.fromkeys(kinds, value - chance), "total": 1 - chance},
        }
    return {
        "score": value,
        "doc_id": number,
        "doc": doc,
        "target": row.ground_truth,
        "filtered_resps": read,
        "resps": [text],
        "pred_extracted": "" if (found := benchmark.read_answer(row, read)) is None else str(found),
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "input": benchmark.text(row),
        **metrics,
    }


def _results(logs: Mapping[str, tuple[Exported, list[dict[str, Any]]]], model: str) -> dict[str, Any]:
    """Return the content of DATE_results.json."""
    settings = next(iter(logs.values()))[0].settings
    found: dict[str, Any] = {
        name: {}
        for name in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes")
    }
    for task, (item, lines) in logs.items():
        metrics = {name: round(item.names.scale * value, 6) for name, value in item.metrics().items()}
        found["results"][task] = {"alias": task, **{f"{name},none": value for name, value in metrics.items()}}
        found["higher_is_better"][task] = dict.fromkeys(metrics, True)
        found["configs"][task] = {"task": task, "generation_kwargs": dict(item.settings.get("decoding") or {})}
        found["versions"][task], found["n-shot"][task] = 0, 0
        found["n-samples"][task] = {"original": item.benchmark.num_rows, "effective": len(lines)}
        found["task_hashes"][task] = _sha256("".join(f"sample_{n}{s['doc_hash']}" for n, s in enumerate(lines)))
    config = {"model": "vsgrpo", "model_args": f"pretrained={model}", "batch_size": 1, "settings": dict(settings)}
    return {**found, "config": config, "model_source": "vsgrpo", "model_name": model, "date": time.time()}


def _write_submission(target: Path, folder: Path, exported: Sequence[Exported], model: str) -> list[str]:
    """Write easi_results.json and easi_results.zip; return what is still to be filled in."""
    scores: dict[str, float] = {}
    partial: dict[str, dict[str, float | None]] = {}
    for item in exported:
        names, metrics = item.names, {name: round(100 * value, 4) for name, value in item.metrics().items()}
        scores[names.easi] = metrics[names.overall]
        if names.easi_scores:
            partial[names.easi] = {name: metrics.get(metric) for name, metric in names.easi_scores.items()}
    settings = exported[0].settings
    about = settings.get("model") or {}
    adapter = about.get("adapter")
    payload = {
        "modelName": model if "/" in model and not Path(model).exists() else "",
        "modelType": "",
        "precision": about.get("dtype") if about.get("dtype") in ("float32", "bfloat16") else "",
        "revision": "main",
        "weightType": "Adapter" if adapter else "Original",
        "baseModel": str(about.get("path")) if adapter else "",
        "backend": "vsgrpo",
        "remarks": _setup(settings),
        "scores": scores,
        "subScores": partial,
    }
    write_atomic(target / PAYLOAD_NAME, json.dumps(payload, indent=2, ensure_ascii=False) + "\n")
    with zipfile.ZipFile(target / ARCHIVE_NAME, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, f"{folder.name}/{file.name}")
    notes = [f"{PAYLOAD_NAME}: scores of {', '.join(scores)}; {ARCHIVE_NAME}: the files behind them"]
    for item in exported:
        benchmark, name = item.benchmark, item.names.easi
        if len(item.answers) < benchmark.num_rows:
            notes.append(f"{name}: of {len(item.answers)} of {benchmark.num_rows} questions only")
        others = [harness for harness in ("easi", "lmms") if harness in benchmark.harnesses]
        if benchmark.harness == "official" and others:
            as_there = f"benchmark.harness={' or '.join(others)}"
            notes.append(f"{name}: asked and scored as its authors do; as the leaderboard does: {as_there}")
    rules = {
        "modelName": "owner/model",
        "modelType": " | ".join(MODEL_TYPES),
        "precision": "bfloat16 | float16 | float32 | int8",
    }
    if asked := [f"{name} ({rule})" for name, rule in rules.items() if not payload[name]]:
        notes.append(f"{PAYLOAD_NAME}: fill in before you submit it: {', '.join(asked)}")
    if (size := (target / ARCHIVE_NAME).stat().st_size / 2**20) > MAX_ARCHIVE_MB:
        notes.append(f"{ARCHIVE_NAME}: {size:.1f} MB; above {MAX_ARCHIVE_MB} MB both files are uploaded by hand")
    return notes


def check_export(kind: str | None, benchmark: str, files: Sequence[str], rows: str | None) -> None:
    """Refuse what `vsgrpo score --export` cannot do; None asks for no export.

    Raises:
        ConfigError: two files, no rows, or a trust report; as `export_folder`.
        DataError: as `export_folder`.
    """
    if kind is None:
        return
    if len(files) != 1 or rows is None:
        problem = "one file and its rows are needed"
        raise ConfigError(f"--export {kind}: {problem}", hint="vsgrpo score FILE benchmark=NAME benchmark.path=ROWS")
    export_folder(kind, Path(files[0]).parent, [benchmark])


def export_scores(
    kind: str | None, file: Path, benchmark: Benchmark, answers: Mapping[str, Sequence[str]], scored: Report
) -> None:
    """Export a scored predictions file beside it, and say so on stderr; the settings beside it name the model."""
    if kind is None:
        return
    settings = file.with_name(SETTINGS_NAME)
    about = read_record(settings, {}, "") if settings.is_file() else {}
    exported = Exported.of(benchmark, one_each(file, answers), scored.to_json(), about)
    target = export_folder(kind, file.parent, [benchmark.name])
    show("\n".join(write_export(kind, target, [exported])), sys.stderr)


def export_targets(kind: str, configs: Configs, overwrite: bool) -> dict[str, Path]:
    """Return model -> where the export of its evaluations goes: their folder, or the one above those of a suite.

    Raises:
        ConfigError, DataError: as `export_folder`.
    """
    targets = {}
    for model, parts in configs.items():
        folders = [
            Path(config.run.dir) if name == "" else Path(config.run.dir).parent for name, config in parts.items()
        ]
        names = [config.benchmark.name for config in parts.values()]
        if (most := max(config.decoding.num_samples for config in parts.values())) > 1:
            problem = f"decoding.num_samples={most}: an export has one answer per question"
            raise ConfigError(problem, hint="set decoding.num_samples=1, or leave --export out")
        targets[model] = export_folder(kind, folders[0], names, overwrite)
    return targets


def export_evaluations(kind: str, target: Path, configs: Iterable[EvalConfig]) -> list[str]:
    """Export finished evaluations of one model and return what to say of them; DataError for other rows than theirs."""
    exported, missing = [], []
    for config in configs:
        own = Path(config.run.dir)
        if not (own / RESULTS_NAME).is_file():
            missing.append(config.benchmark.name)
            continue
        answers = one_each(own / PREDICTIONS_NAME, read_answers(own / PREDICTIONS_NAME))
        benchmark = read_rows(config, find_benchmark(config.benchmark.name))
        settings = read_record(own / SETTINGS_NAME, {}, "run the evaluation again")
        if settings.get("benchmark", {}).get("sha256") != benchmark.sha256:
            raise DataError(
                f"{benchmark.file}: not the file that {own} evaluated", "put that one back, and export again"
            )
        exported.append(Exported.of(benchmark, answers, read_results(own), settings))
    notes = write_export(kind, target, exported) if exported else []
    return [*notes, *([f"export: without {', '.join(missing)}: not evaluated"] if missing else [])]


def _setup(settings: Mapping[str, Any]) -> str:
    """Return the evaluation's settings as one line, for the leaderboard's remarks; "" where they are not known."""
    parts = {name: settings.get(name) for name in ("vision", "decoding", "prompt", "engine", "video")}
    return json.dumps({name: value for name, value in parts.items() if value}) if any(parts.values()) else ""


def _model_name(settings: Mapping[str, Any]) -> str:
    """Return the model's hub id or path as the settings name it, its adapter's where it has one."""
    about = settings.get("model") or {}
    return str(about.get("adapter") or about.get("path") or "model")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
