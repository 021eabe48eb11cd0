"""results.json of an evaluation: written with versions and time, logged to wandb, compared with others in one table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.errors import DataError
from vsgrpo.evaluation.output_folder import REPORT_NAME, RESULTS_NAME
from vsgrpo.evaluation.score_table import score_table
from vsgrpo.evaluation.vsibench_report import SCHEMA_VERSION
from vsgrpo.files import write_atomic
from vsgrpo.paths import drop_aside
from vsgrpo.records import read_record

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

_PACKAGES = ("vsgrpo", "torch", "transformers", "peft", "numpy", "decord", "av", "qwen-vl-utils")
WITHOUT_MODEL = ("chance", "most frequent", "best constant")


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


def read_results(folder: Path | str) -> dict[str, Any]:
    """Read results.json of an evaluation folder; DataError where it is missing or of another schema."""
    hint = "run `vsgrpo eval` into this folder"
    return read_record(Path(folder) / RESULTS_NAME, {}, hint, schema_version=SCHEMA_VERSION)


def compare_table(named: Sequence[tuple[str, Path | str]], title: str = "") -> str:
    """Return the table of evaluations (name, output folder), the best constant and chance first.

    Raises:
        DataError: a folder without results, or evaluations of different rows.
    """
    results = [(name, read_results(folder), folder) for name, folder in named]
    if not results:
        raise ValueError("nothing to compare")
    first = results[0][1]
    for _, result, folder in results:
        if result["benchmark"]["rows"] != first["benchmark"]["rows"] or result["n"] != first["n"]:
            raise DataError(
                f"{Path(folder) / RESULTS_NAME}: {result['title']}: other rows than {first['title']}",
                "compare evaluations of the same rows",
            )
    blind = [(name, first["controls"][name]) for name in WITHOUT_MODEL if name in first["controls"]]
    lines = [*blind, *((name, result["scores"], result.get("intervals", {})) for name, result, _ in results)]
    table = score_table(lines, first["n_by_task"], title or first["title"])
    verdicts = [(name, result.get("leak", {}).get("verdict", "unknown")) for name, result, _ in results]
    notes = [f"note: leak check of {name}: {verdict}" for name, verdict in verdicts if verdict != "clean"]
    return "\n".join([table, *notes])


def log_to_wandb(config: EvalConfig, result: Mapping[str, Any]) -> None:
    """Log scores, intervals, controls and the report as one run; WANDB_PROJECT and WANDB_MODE are wandb's own."""
    import wandb

    html = Path(config.run.dir) / REPORT_NAME
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
