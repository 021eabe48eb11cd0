"""`vsgrpo inspect`: rows of a dataset, an evaluation or a run, printed, or as a page with frames and geometry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.row import LETTERS, Row
from vsgrpo.data.rows import row_to_dict
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks import find_benchmark
from vsgrpo.evaluation.benchmarks.folder import iter_questions
from vsgrpo.evaluation.benchmarks.vsibench import iter_benchmark, row_file
from vsgrpo.evaluation.predictions import Media, read_answers
from vsgrpo.evaluation.score_command import PROMPT_KEYS
from vsgrpo.paths import inside, path_fault
from vsgrpo.records import NUMBER, read_jsonl, read_record
from vsgrpo.report.plan import Plan, make_plan, question_svg, symbol_svg
from vsgrpo.report.run_folder import read_config
from vsgrpo.report.samples import COMPLETIONS_NAME, question_files, read_completions, read_questions
from vsgrpo.report.shell import TEMPLATES, pictures, render, write_page
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question import UNITS

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
class Seen:
    """A row, and where predictions were given what was said and its score (0..1).

    Of a training run `score` is the reward, drawn at `step` by `times` of `of` rollouts.
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
            lines.append(f"  step {self.step}, {self.times} of {self.of} rollouts")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the row with prediction and score."""
        drawn = {} if self.step is None else {"step": self.step, "times": self.times, "of": self.of}
        return {**row_to_dict(self.row), "prediction": self.prediction, "score": self.score, **drawn}


@dataclass(frozen=True)
class Inspection:
    """The rows chosen, and how many there were to choose from."""

    seen: list[Seen]
    num_rows: int
    folders: list[Path]
    output: Path | None

    def table(self) -> str:
        """Return the rows, or where the page with them is."""
        count = f"{len(self.seen)} of {self.num_rows} rows"
        if self.output is not None:
            return f"{self.output}: {count}"
        return "\n\n".join([*(item.text() for item in self.seen), count])


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
    is_run = (Path(paths[0]) / "log.jsonl").is_file()
    if "step" in given and not is_run:
        raise ConfigError(f"{paths[0]}: step={given['step']}, but not a training run", hint="leave step out")
    folders, seen = _read_run(Path(paths[0]), given) if is_run else _read(Path(paths[0]), given)
    chosen, num_rows = _choose(seen, given, None if "score" in given else limit or DEFAULT_LIMIT, paths[0])
    if "score" in given:
        if all(item.score is None for item in chosen):
            raise ConfigError("score: this path has no predictions", hint="give the output=DIR of a `vsgrpo eval`")
        chosen = [item for item in chosen if item.score is not None]
        chosen.sort(key=lambda item: item.score or 0.0, reverse=given["score"] == "best")
    output = Path(given["output"]) if "output" in given else None
    result = Inspection(chosen[: limit or DEFAULT_LIMIT], num_rows, folders, output)
    if output is not None:
        write_page(output, _page(result, paths[0], _reader(Path(paths[0]), is_run)))
    return result


def _choose(seen: Iterable[Seen], given: dict[str, str], limit: int | None, path: str) -> tuple[list[Seen], int]:
    """Return the first rows that fit (None: all that do), and how many rows there are; the others are not kept."""
    chosen: list[Seen] = []
    kinds: set[str] = set()
    steps: set[int] = set()
    num_rows = 0
    for item in seen:
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


def _reader(path: Path, is_run: bool) -> dict[str, Any]:
    """Return the backend and timeout_s with which a run or an evaluation read videos, as far as it recorded them."""
    if is_run:
        return (read_config(path).get("video") or {}) if (path / "config.yaml").is_file() else {}
    predictions = _predictions(path)
    return {} if predictions is None else _settings(predictions).get("reader") or {}


def _predictions(path: Path) -> Path | None:
    """Return the predictions of an evaluation, None where the path is no evaluation."""
    file = path / "predictions.jsonl" if path.is_dir() else path
    return file if file.name == "predictions.jsonl" and file.is_file() else None


def _settings(predictions: Path) -> dict[str, Any]:
    return _recorded(predictions.with_name("settings.json"), _SETTINGS)


def _read_run(path: Path, given: dict[str, str]) -> tuple[list[Path], list[Seen]]:
    """Return the folders of the row files of a training run, and what it said, newest step first.

    Raises:
        ConfigError: a run that draws nothing (SFT, DPO).
        DataError: the rows are gone.
    """
    if not (path / COMPLETIONS_NAME).is_file():
        raise ConfigError(f"{path}: a training run without {COMPLETIONS_NAME}", hint=f"vsgrpo report {path}")
    drawn: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for record in read_completions(path):
        drawn.setdefault((record["step"], record["id"]), []).append(record)
    rows_files = [Path(given["rows"])] if "rows" in given else question_files(read_config(path))
    rows = read_questions(rows_files, (key for _, key in drawn))
    lost = next((key for _, key in drawn if key not in rows), None)
    if lost is not None:
        places = ", ".join(map(str, rows_files))
        raise DataError(f"{path}: row {lost} is not in {places}", hint="give the row file it was trained on: rows=FILE")
    seen = []
    for (step, key), records in drawn.items():
        row, folder = rows[key]
        said: dict[tuple[str, float | None], int] = {}
        for record in records:
            text, reward = record["completion"], record.get("reward")
            said[text, reward] = said.get((text, reward), 0) + 1
        media = row.media_paths(folder)
        seen += [Seen(row, media, text, reward, step, n, len(records)) for (text, reward), n in said.items()]
    return [file.parent for file in rows_files], seen


def _read(path: Path, given: dict[str, str]) -> tuple[list[Path], Iterable[Seen]]:
    """Return the folder of the row file, and its rows as they are read; of an evaluation those that were answered."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder", hint="give a dataset folder, a row file, an evaluation or a run"
        )
    predictions = _predictions(path)
    if predictions is None:
        split = given.get("split", _first_split(path))
        file = path if path.is_file() else path / f"{split}.jsonl"
        if _shows_images(file):
            return [file.parent], (Seen(row, row.media_paths(file.parent)) for row in iter_questions(file))
        file = row_file(path, split)
        videos = ((row, row.video_path(file.parent)) for row, _ in iter_benchmark(file))
        return [file.parent], (Seen(row, (("video", video),)) for row, video in videos)
    settings = _settings(predictions)
    results = _recorded(predictions.with_name("results.json"), _RESULTS)
    rows = given.get("rows") or (results.get("benchmark") or {}).get("file")
    if not rows:
        raise ConfigError(f"{predictions}: its rows are not known", hint="add rows=FILE")
    answers = read_answers(predictions)
    asked, name = settings.get("prompt"), (settings.get("benchmark") or {}).get("name") or "vsibench"
    prompt = PromptSettings(**{key: asked[key] for key in PROMPT_KEYS}) if asked else PromptSettings()
    benchmark = find_benchmark(name).read(rows, name=name, prompt=prompt, run_dir=predictions.parent)
    scores = benchmark.row_scores(answers, results)
    answered = [row for row in benchmark.rows if row.id in answers]
    seen = [Seen(row, benchmark.media(row), answers[row.id][0], scores.get(row.id)) for row in answered]
    return [benchmark.file.parent], seen


def _shows_images(file: Path) -> bool:
    """Tell by its first row whether a row file of ours shows images."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    first = next((data for _, data in read_jsonl(file)), None)
    media = first.get("media") if isinstance(first, dict) else None
    return isinstance(media, list) and any(isinstance(item, dict) and item.get("kind") == "image" for item in media)


def _first_split(path: Path) -> str:
    return next((name for name in ("train", "test", "dev") if (path / f"{name}.jsonl").is_file()), "test")


def _recorded(path: Path, shape: Any) -> dict[str, Any]:
    hint = "restore the file, or move it away and give rows=FILE"
    return read_record(path, shape, hint) if path.is_file() else {}


def _fits(item: Seen, given: dict[str, str]) -> bool:
    row = item.row
    named = {"type": row.question_type, "scene": row.scene_name, "id": row.id, "step": str(item.step)}
    return all(given.get(key, value) == value for key, value in named.items())


def _page(result: Inspection, title: str, reader: dict[str, Any]) -> str:
    plans: dict[str, Plan | None] = {}
    shown: dict[Media, tuple[list[str], list[str]]] = {}
    items = []
    for item in result.seen:
        name = f"{item.row.dataset}/{item.row.scene_name}"
        if name not in plans:
            places = (inside(folder / "scenes", f"{name}.json") for folder in result.folders if not path_fault(name))
            file = next((place for place in places if place.is_file()), None)
            plans[name] = make_plan(read_scene_json(file), f"plan{len(plans)}") if file is not None else None
        if item.media not in shown:
            shown[item.media] = pictures(item.media, reader)
        frames, problems = shown[item.media]
        plan = plans[name]
        drawing = "" if plan is None else question_svg(plan, item.row)
        items.append({"seen": item, "map": drawing, "frames": frames, "problems": problems})
    symbols = [symbol_svg(plan) for plan in plans.values() if plan is not None]
    return render(TEMPLATES / "rows.html", title=title, items=items, symbols=symbols, total=result.num_rows)
