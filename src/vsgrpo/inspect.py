"""`vsgrpo inspect`: rows of a dataset, an evaluation or a run, printed, or as a page with frames and geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vsgrpo.data.frame_true import named_frames
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.data.rows import row_to_dict
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.asked_as import PROMPT_KEYS
from vsgrpo.evaluation.benchmark import PromptSettings, ReadOptions, find_benchmark
from vsgrpo.evaluation.benchmarks.folder import iter_questions
from vsgrpo.evaluation.benchmarks.vsibench import SUFFIXES, iter_benchmark
from vsgrpo.evaluation.predictions import Media, read_answers
from vsgrpo.evaluation.row_files import row_file
from vsgrpo.paths import inside, path_fault
from vsgrpo.records import NUMBER, read_jsonl, read_record
from vsgrpo.report.floor_plan import Plan, make_plan, question_svg, symbol_svg
from vsgrpo.report.page import TEMPLATES, render, write_page
from vsgrpo.report.run_folder import COMPLETIONS_NAME, question_files, read_completions, read_config, read_questions
from vsgrpo.report.shown_media import pictures
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.moments import FRAMES_SHOWN
from vsgrpo.spatial.question import UNITS
from vsgrpo.terminal import counted

KEYS = ("split", "type", "scene", "id", "step", "score", "rows", "output")
ORDERS = ("worst", "best")
DEFAULT_LIMIT = 20
_SETTINGS = {
    "benchmark?": {"name?": str},
    "prompt?": {"mode": str, "wording": str, "show_options": bool},
    "reader?": {"backend?": str, "timeout_s?": NUMBER},
}
_RESULTS = {"benchmark?": {"file?": str}, "scorer?": str, "correct?": {str: (bool, *NUMBER)}}


@dataclass(frozen=True)
class InspectedRow:
    """A row, and what a model answered where that is known.

    Attributes:
        media: (kind, path) of what the row shows.
        prediction: the answer.
        score: 0..1; of a training run the reward.
        step, times, of: of a training run: drawn at this step, by `times` of the `of` rollouts.
    """

    row: Row
    media: Media
    prediction: str | None = None
    score: float | None = None
    step: int | None = None
    times: int = 1
    of: int = 1

    @property
    def score_name(self) -> str:
        """What the score is."""
        return "score" if self.step is None else "reward"

    def text(self) -> str:
        """Return the row as a few lines."""
        row = self.row
        lines = [f"{row.key}  {row.question_type}  {row.scene_name}", f"  {row.question}"]
        if row.options:
            lines.append("  " + "  ".join(f"{a}. {b}" for a, b in zip(LETTERS, row.options, strict=False)))
        unit = f" {UNITS.get(row.unit, row.unit)}" if row.unit else ""
        letter = f"{row.ground_truth}. " if row.options else ""
        answer = f"  answer: {letter}{row.answer}{unit}"
        if self.prediction is not None:
            answer += f"   said: {self.prediction!r}"
        lines.append(answer + ("" if self.score is None else f"   {self.score_name}: {self.score:.2f}"))
        if self.step is not None:
            lines.append(f"  step {self.step}, {self.times} of {counted(self.of, 'rollout')}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the row with prediction and score."""
        drawn = {} if self.step is None else {"step": self.step, "times": self.times, "of": self.of}
        return {**row_to_dict(self.row), "prediction": self.prediction, "score": self.score, **drawn}


@dataclass(frozen=True)
class Inspection:
    """The rows chosen, how many there were to choose from, and the page with them."""

    rows: list[InspectedRow]
    num_rows: int
    output: Path | None

    def table(self) -> str:
        """Return the rows, or where the page with them is."""
        count = f"{len(self.rows)} of {counted(self.num_rows, 'row')}"
        if self.output is not None:
            return f"{self.output}: {count}"
        return "\n\n".join([*(row.text() for row in self.rows), count])


@dataclass(frozen=True)
class _Source:
    """What can be inspected: rows as they are read, the folders of their row files, and how videos were read."""

    rows: Iterable[InspectedRow]
    folders: list[Path]
    reader: Mapping[str, Any] = field(default_factory=dict)


def inspect(words: Sequence[str], limit: int | None = None) -> Inspection:
    """Choose rows as the words of a command line say; write a page where `output=FILE` is given.

    Raises:
        ConfigError: not one path, an unknown key, nothing that fits.
        DataError: unreadable files.
    """
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    given = dict(word.split("=", 1) for word in words if word not in paths)
    unknown = [key for key in given if key not in KEYS]
    if unknown or len(paths) != 1:
        what = f"{unknown[0]}: unknown key" if unknown else f"inspect: {len(paths)} paths given, one is needed"
        raise ConfigError(what, hint=f"vsgrpo inspect DATASET|EVALUATION|RUN [{'=... '.join(KEYS)}=...]")
    if given.get("score", "worst") not in ORDERS:
        raise ConfigError(f"score={given['score']}: unknown order", hint=f"one of {', '.join(ORDERS)}")
    path = Path(paths[0])
    is_run = (path / "log.jsonl").is_file()
    if "step" in given and not is_run:
        raise ConfigError(f"{path}: step={given['step']}, but not a training run", hint="leave step out")
    _check_kind(path, is_run)
    source = _read_run(path, given) if is_run else _read_evaluation(path, given) or _read_dataset(path, given)
    chosen, num_rows = _choose(source.rows, given, None if "score" in given else limit or DEFAULT_LIMIT, path)
    if "score" in given:
        chosen = [item for item in chosen if item.score is not None]
        if not chosen:
            raise ConfigError("score: this path has no predictions", hint="give the output=DIR of a `vsgrpo eval`")
        chosen.sort(key=lambda item: item.score or 0.0, reverse=given["score"] == "best")
    output = Path(given["output"]) if "output" in given else None
    result = Inspection(chosen[: limit or DEFAULT_LIMIT], num_rows, output)
    if output is not None:
        write_page(output, _page(result, paths[0], source))
    return result


def _check_kind(path: Path, is_run: bool) -> None:
    """Refuse a folder that is none of the three, with the folders in it that are."""
    if is_run or not path.is_dir() or any(path.glob("*.jsonl")) or any(path.glob("*.parquet")):
        return
    marks = ("predictions.jsonl", "log.jsonl", "train.jsonl", "test.jsonl")
    found = [file.parent for depth in ("*", "*/*") for mark in marks for file in sorted(path.glob(f"{depth}/{mark}"))]
    named = ", ".join(str(folder) for folder in list(dict.fromkeys(found))[:4])
    hint = f"there: {named}" if named else "give a dataset folder, a row file, an evaluation or a run"
    raise DataError(f"{path}: no dataset, evaluation or run", hint)


def _choose(
    rows: Iterable[InspectedRow], given: dict[str, str], limit: int | None, path: Path
) -> tuple[list[InspectedRow], int]:
    """Return the first rows that fit (None: all that do), and how many rows there are; the others are not kept."""
    chosen: list[InspectedRow] = []
    kinds: set[str] = set()
    steps: set[int] = set()
    num_rows = 0
    for item in rows:
        num_rows += 1
        kinds.add(item.row.question_type)
        if item.step is not None:
            steps.add(item.step)
        if (limit is None or len(chosen) < limit) and _fits(item, given):
            chosen.append(item)
    if not num_rows:
        raise DataError(f"{path}: no rows", hint="give a dataset folder, a row file, an evaluation or a run")
    if not chosen:
        hint = f"types there: {', '.join(sorted(kinds))}" + (f"; steps {min(steps)} to {max(steps)}" if steps else "")
        raise ConfigError(f"{path}: no row fits", hint=hint)
    return chosen, num_rows


def _read_run(path: Path, given: dict[str, str]) -> _Source:
    """Return what the model of a training run answered, newest step first.

    Raises:
        ConfigError: a run that draws nothing (SFT, DPO).
        DataError: the rows are gone.
    """
    if not (path / COMPLETIONS_NAME).is_file():
        raise ConfigError(f"{path}: a training run without {COMPLETIONS_NAME}", hint=f"vsgrpo report {path}")
    drawn: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for step, records in sorted(read_completions(path).items(), reverse=True):
        for record in records:
            drawn.setdefault((step, record["id"]), []).append(record)
    config = read_config(path) if (path / "config.yaml").is_file() or "rows" not in given else {}
    rows_files = [Path(given["rows"])] if "rows" in given else question_files(config)
    rows = read_questions(rows_files, (key for _, key in drawn))
    lost = next((key for _, key in drawn if key not in rows), None)
    if lost is not None:
        places = ", ".join(map(str, rows_files))
        raise DataError(f"{path}: row {lost} is not in {places}", hint="give the row file it was trained on: rows=FILE")
    found = []
    for (step, key), records in drawn.items():
        row, folder = rows[key]
        media = row.media_paths(folder)
        for (text, reward), times in Counter((item["completion"], item.get("reward")) for item in records).items():
            found.append(InspectedRow(row, media, text, reward, step, times, len(records)))
    return _Source(found, [file.parent for file in rows_files], config.get("video") or {})


def _read_evaluation(path: Path, given: dict[str, str]) -> _Source | None:
    """Return the answered rows of an evaluation, None where the path is none."""
    predictions = path / "predictions.jsonl" if path.is_dir() else path
    if predictions.name != "predictions.jsonl" or not predictions.is_file():
        return None
    settings = _recorded(predictions.with_name("settings.json"), _SETTINGS)
    results = _recorded(predictions.with_name("results.json"), _RESULTS)
    file = given.get("rows") or (results.get("benchmark") or {}).get("file")
    if not file:
        raise ConfigError(f"{predictions}: its rows are not known", hint="add rows=FILE")
    answers = read_answers(predictions)
    asked, of_benchmark = settings.get("prompt"), settings.get("benchmark") or {}
    name, harness = of_benchmark.get("name") or "vsibench", of_benchmark.get("harness", "official")
    prompt = PromptSettings(**{key: asked[key] for key in PROMPT_KEYS}) if asked else PromptSettings()
    read = ReadOptions(harness=harness, name=name, prompt=prompt, run_dir=predictions.parent)
    benchmark = find_benchmark(name).read(file, read)
    scores = benchmark.row_scores(answers, results)
    rows = [
        InspectedRow(row, benchmark.media(row), answers[row.id][0], scores.get(row.id))
        for row in benchmark.rows
        if row.id in answers
    ]
    return _Source(rows, [benchmark.file.parent], settings.get("reader") or {})


def _read_dataset(path: Path, given: dict[str, str]) -> _Source:
    """Return the rows of a dataset folder or a row file."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder", hint="give a dataset folder, a row file, an evaluation or a run"
        )
    splits = (name for name in ("train", "test", "dev") if (path / f"{name}.jsonl").is_file())
    split = given.get("split") or next(splits, "test")
    file = path if path.is_file() else path / f"{split}.jsonl"
    if _is_ours(file):
        return _Source((InspectedRow(row, row.media_paths(file.parent)) for row in iter_questions(file)), [file.parent])
    file = row_file(path, split, SUFFIXES)
    videos = ((row, row.video_path(file.parent)) for row, _ in iter_benchmark(file))
    return _Source((InspectedRow(row, (("video", video),)) for row, video in videos), [file.parent])


def _is_ours(file: Path) -> bool:
    """Tell by its first row whether a row file is in our schema: its rows may be of any type, and show images."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    first = next((data for _, data in read_jsonl(file)), None)
    return isinstance(first, dict) and "schema_version" in first


def _recorded(path: Path, shape: Any) -> dict[str, Any]:
    hint = "restore the file, or move it away and give rows=FILE"
    return read_record(path, shape, hint) if path.is_file() else {}


def _fits(item: InspectedRow, given: dict[str, str]) -> bool:
    row = item.row
    named = {"type": row.question_type, "scene": row.scene_name, "id": row.id, "step": str(item.step)}
    return all(given.get(key, value) == value for key, value in named.items())


def _page(result: Inspection, title: str, source: _Source) -> str:
    plans: dict[str, Plan | None] = {}
    shown: dict[tuple[Media, int, tuple[int, ...]], tuple[list[str], list[str]]] = {}
    items = []
    for item in result.rows:
        name = f"{item.row.dataset}/{item.row.scene_name}"
        if name not in plans:
            places = (inside(folder / "scenes", f"{name}.json") for folder in source.folders if not path_fault(name))
            file = next((place for place in places if place.is_file()), None)
            plans[name] = make_plan(read_scene_json(file), f"plan{len(plans)}") if file is not None else None
        named = named_frames(item.row)
        key = (item.media, item.row.extra[FRAMES_SHOWN] if named else 3, named)
        if key not in shown:
            shown[key] = pictures(item.media, source.reader, num_frames=key[1], only=named)
        frames, problems = shown[key]
        plan = plans[name]
        drawing = "" if plan is None else question_svg(plan, item.row)
        items.append({"found": item, "map": drawing, "frames": frames, "problems": problems})
    symbols = [symbol_svg(plan) for plan in plans.values() if plan is not None]
    return render(TEMPLATES / "rows.html", title=title, items=items, symbols=symbols, total=result.num_rows)
