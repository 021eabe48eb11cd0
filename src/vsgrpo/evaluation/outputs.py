"""What an evaluation leaves beside its predictions: results.json, report.html, the lmms-eval log, a wandb run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.data.row import Row
from vsgrpo.evaluation.html_report import REPORT_NAME, write_html
from vsgrpo.evaluation.lmms_bridge import LMMS_NAME, write_lmms_samples
from vsgrpo.evaluation.results import EvalReport
from vsgrpo.evaluation.score import PromptSettings
from vsgrpo.files import write_atomic
from vsgrpo.folders import drop_aside

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

RESULTS_NAME = "results.json"
_PACKAGES = ("vsgrpo", "torch", "transformers", "peft", "numpy", "decord", "av", "qwen-vl-utils")


def write_outputs(
    config: EvalConfig,
    report: EvalReport,
    answers: Mapping[str, Sequence[str | None]],
    video_of: Callable[[Row], Path],
    seconds: float,
    wandb: bool,
) -> None:
    """Write everything into the output folder; results.json last, so that its presence says the rest is there."""
    folder = Path(config.run.dir)
    prompt = PromptSettings(config.prompt.mode, config.prompt.wording, config.prompt.show_options)
    write_lmms_samples(folder / LMMS_NAME, report.benchmark.rows, answers, prompt)
    write_html(folder / REPORT_NAME, report, answers, video_of, config.video.backend, config.video.timeout_s)
    result = write_results(config, report.to_json(), seconds)
    if wandb:
        _log_to_wandb(config, result, folder / REPORT_NAME)


def write_results(config: EvalConfig, content: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Write results.json and return what is in it.

    Where the output stands in the run folder of the model, the scores in the model's card are renewed.
    """
    folder = Path(config.run.dir)
    result = {**content, "versions": _versions(), "seconds": round(seconds, 1)}
    write_atomic(folder / RESULTS_NAME, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    drop_aside(folder)
    model = Path(config.model.adapter or config.model.path)
    if model.is_dir() and model.resolve().parent == folder.resolve().parent:
        from vsgrpo.modeling.model_card import renew_scores

        renew_scores(model)
    return result


def _log_to_wandb(config: EvalConfig, result: Mapping[str, Any], html: Path) -> None:
    """Log scores, intervals, controls and the report as one run; WANDB_PROJECT and WANDB_MODE are wandb's own."""
    import wandb

    name = config.run.name or Path(config.run.dir).name
    project = os.environ.get("WANDB_PROJECT", "vsgrpo")
    settings = {key: result[key] for key in ("title", "model", "vision", "prompt", "decoding", "benchmark", "leak")}
    with wandb.init(project=project, name=name, dir=config.run.dir, job_type="eval", config=settings) as run:
        values = {f"eval/{s}/{task}": value for s, table in result["scorers"].items() for task, value in table.items()}
        for task, (low, high) in result["intervals"].items():
            values |= {f"eval/low/{task}": low, f"eval/high/{task}": high}
        for control, table in result["controls"].items():
            values |= {f"eval/controls/{control}/{task}": value for task, value in table.items()}
        run.log({**values, "eval/n": result["n"], "eval/report": wandb.Html(html.read_text(encoding="utf-8"))})


def _versions() -> dict[str, str]:
    """Return the versions of what a score depends on, as far as installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
