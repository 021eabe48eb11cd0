"""`vsgrpo eval`: rows and videos in; predictions, timing, prompts, results.json, report.html and an lmms-eval log out.

What can be refused without the model (its path, the rows, missing videos, the leak verdict) is refused before torch is
imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vsgrpo.data.leakage import TrainingManifest
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.answering import answer_rows, predictions_name
from vsgrpo.evaluation.baselines import derangement
from vsgrpo.evaluation.leak import Leak, check_lineage, compare_rows
from vsgrpo.evaluation.outputs import write_outputs
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME, Media, read_answers, read_errors
from vsgrpo.evaluation.results import EvalReport
from vsgrpo.evaluation.score import PromptSettings, score_rows
from vsgrpo.evaluation.vsibench import Benchmark, read_benchmark
from vsgrpo.families.model_path import check_model_place

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

VIEWS = {"blind": "none", "blank": "blank", "first_frame": "first_frame", "shuffled": "own"}
"""Control -> what of the video it shows (`generate.VIEWS`)."""


def run_eval(
    config: EvalConfig,
    *,
    skip_missing: bool = False,
    allow_leak: bool = False,
    overwrite: bool = False,
    wandb: bool = False,
    allow_changed: bool = False,
) -> EvalReport | None:
    """Evaluate a model and write the results into `run.dir`; an interrupted evaluation goes on where it stopped.

    Under a launcher every process answers its share; all but the first return None.

    Raises:
        ConfigError, DataError: anything wrong with keys, rows, videos or the model; a benchmark room in the model's
            lineage without `allow_leak`; an output folder with predictions made under other settings.
    """
    check_models(config)
    manifests = check_lineage(config.model.path, config.model.adapter, allow_leak=allow_leak)
    benchmark = read_benchmark(
        config.benchmark.path,
        config.benchmark.split,
        config.benchmark.tasks,
        config.benchmark.limit,
        config.benchmark.subset,
    ).with_videos(skip_missing, Path(config.run.dir) / "videos")
    leak = leak_of(benchmark, manifests, allow_leak=allow_leak, name=config.model.path)
    shown = {"": ("own", _videos(benchmark, config.video.shuffle))}
    for name in config.controls:
        shown[name] = (VIEWS[name], _videos(benchmark, name == "shuffled"))
    folder = Path(config.run.dir)
    began = time.monotonic()
    identity = {"sha256": benchmark.sha256, **({} if benchmark.subset == "full" else {"subset": benchmark.subset})}
    media = {name: (view, _as_media(video_of)) for name, (view, video_of) in shown.items()}
    settings = answer_rows(config, benchmark.rows, identity, media, overwrite, allow_changed=allow_changed)
    if settings is None:
        return None
    prompt = PromptSettings(config.prompt.mode, config.prompt.wording, config.prompt.show_options)
    answers = {name: read_answers(folder / predictions_name(name)) for name in shown}
    scores = {name: score_rows(benchmark.rows, found, prompt) for name, found in answers.items()}
    main = scores.pop("")
    errors = read_errors(folder / PREDICTIONS_NAME)
    errors = {name: reason for name, reason in errors.items() if name in set(main.unanswered)}
    report = EvalReport(benchmark, main, leak, settings, errors, config.scorer, scores)
    write_outputs(config, report, answers[""], shown[""][1], time.monotonic() - began, wandb)
    return report


def leak_of(
    benchmark: Benchmark, manifests: Sequence[TrainingManifest], *, allow_leak: bool = False, name: str = ""
) -> Leak:
    """Compare the rows and videos to evaluate with a model's lineage; see `leak.compare_rows`."""
    media = {row.key: (("video", benchmark.video(row)),) for row in benchmark.rows}
    official = benchmark.official
    return compare_rows(manifests, benchmark.rows, media, official=official, allow_leak=allow_leak, name=name)


def check_models(config: EvalConfig) -> None:
    """Raise DataError unless model.path and model.adapter can be models."""
    check_model_place(config.model.path, config.model.adapter)


def _as_media(video_of: Callable[[Row], Path]) -> Callable[[Row], Media]:
    return lambda row: (("video", video_of(row)),)


def _videos(benchmark: Benchmark, shuffle: bool) -> Callable[[Row], Path]:
    """Return which video each row is shown: its own, or (a control) the next one of another scene."""
    if not shuffle:
        return benchmark.video
    try:
        partner = derangement([str(benchmark.video(row)) for row in benchmark.rows])
    except ValueError as error:
        raise ConfigError(f"video.shuffle=true: {error}", hint="evaluate rows of two scenes at least") from None
    return lambda row: Path(partner[str(benchmark.video(row))])
