"""The folder of an evaluation (locked while it is written, gone on with under the same settings and inputs only).

`Answers` are what a benchmark reports on.

What --overwrite replaces is set aside (`.replaced`) once the model is loaded, and goes when results.json is written. An
evaluation that ends before its first answer has the earlier one back; one that has answers goes on from them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vsgrpo import paths
from vsgrpo.config.evaluate import EvalConfig
from vsgrpo.data.inputs import (
    INPUTS_NAME,
    InputFile,
    changes,
    hash_in_background,
    model_folders,
    read_inputs,
    refuse_changes,
    stop_hashing,
    write_inputs,
)
from vsgrpo.errors import DataError
from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME, MediaOf, predictions_name
from vsgrpo.families.vision_record import BEFORE_RULES
from vsgrpo.files import write_atomic
from vsgrpo.records import read_record
from vsgrpo.terminal import note, show

SCHEMA_VERSION = 1
"""Version of settings.json and results.json."""
SETTINGS_NAME = "settings.json"
"""The settings that the predictions were made under."""
RESULTS_NAME = "results.json"
TIMING_NAME = "timing.jsonl"
PROMPTS_NAME = "prompts.jsonl"
REPORT_NAME = "report.html"
TRUST_JSON, TRUST_PAGE = "trust.json", "trust.html"
LMMS_NAME = "lmms_samples.jsonl"
"""The predictions in the form of lmms-eval's sample log."""
_OWN = ("predictions*.jsonl", "timing*.jsonl", SETTINGS_NAME, RESULTS_NAME, PROMPTS_NAME, REPORT_NAME, LMMS_NAME)
_OWN += (INPUTS_NAME, TRUST_JSON, TRUST_PAGE, "wandb", "tensorboard", "export_*")
"""Patterns of the files that an evaluation writes."""
_PACKAGES = ("vsgrpo", "torch", "transformers", "peft", "numpy", "decord", "av", "qwen-vl-utils")
_NOT_COMPARED = ("layout", "reader", "changed_inputs")
"""Settings that change no answer (every video backend gives the same frames), or tell of one run alone."""


@contextmanager
def evaluation_folder(config: EvalConfig, overwrite: bool) -> Iterator[None]:
    """Lock the output folder against a second evaluation, and settle what an --overwrite left open, before and after.

    Under a launcher its first process does so for all.

    Raises:
        DataError: another process writes there, or --overwrite would replace a folder that holds model or rows.
    """
    folder = Path(config.run.dir)
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    if overwrite:
        given: list[tuple[str, Path | str | None]] = [("benchmark.path", config.benchmark.path)]
        given += [("model.path", path) for path in model_folders(config.model.path)]
        given += [("model.adapter", path) for path in model_folders(config.model.adapter)]
        paths.refuse_inputs_inside(folder, "output", given)
    with paths.locked(folder, "output", "evaluating"):
        settle(folder)
        try:
            yield
        finally:
            settle(folder)


def settle(folder: Path) -> None:
    """Take the earlier evaluation back where the new one has no answer, drop it where the new one is complete."""
    if not paths.is_set_aside(folder):
        return
    aside = folder / paths.ASIDE_NAME
    if aside.is_dir() and (folder / RESULTS_NAME).is_file():
        paths.drop_aside(folder)
    elif aside.is_dir() and any(path.stat().st_size for path in folder.glob("predictions*.jsonl")):
        show(f"{aside}: what --overwrite replaces, until this evaluation is complete", sys.stderr)
    else:
        stop_hashing(folder)
        paths.take_back(folder, _own(folder))
        problem = "--overwrite ended before its first answer"
        show(f"output={folder}: {problem}: the earlier evaluation is back", sys.stderr)


def check_earlier(folder: Path, settings: dict[str, Any], inputs: dict[str, InputFile], allow_changed: bool) -> None:
    """Compare settings and inputs with those of the answers that are there; note in `settings` which inputs changed.

    Raises:
        DataError: other settings, or other videos or weights without `allow_changed`.
    """
    if not (folder / PREDICTIONS_NAME).is_file():
        return
    try:
        before = read_record(folder / SETTINGS_NAME, {}, "")
    except DataError:
        before = {}
    if isinstance(before.get("model"), dict):
        before["model"].pop("weights", None)  # of an earlier version: sizes and times, which a copy changes
    before.setdefault("text_after_video", BEFORE_RULES)
    before.setdefault("engine", "own")
    compared = [name for name in settings if name not in _NOT_COMPARED]
    other = [name for name in compared if before.get(name) != json.loads(json.dumps(settings[name]))]
    if other:
        hint = "use --overwrite to start anew, or another output=DIR"
        if other == ["text_after_video"]:
            hint = f"add model.text_after_video={before['text_after_video']} to go on, or {hint}"
        raise DataError(f"{folder / PREDICTIONS_NAME}: made under another {' and '.join(other)}", hint)
    known = read_inputs(folder)
    if known is None and not allow_changed:
        raise DataError(
            f"output={folder}: no {INPUTS_NAME}, as of an earlier version: weights and videos cannot be compared with "
            "those of its answers",
            hint="add --allow-changed to go on where nothing changed, --overwrite to start anew, or choose another "
            "output=DIR",
        )
    found = changes(known, inputs) if known is not None else [f"no {INPUTS_NAME} to compare with"]
    if not allow_changed:
        refuse_changes(found, f"output={folder}")
    elif found:
        show(f"warning: answers from here on are to other inputs: {'; '.join(found)}", sys.stderr)
    if changed := [*before.get("changed_inputs", []), *found]:
        settings["changed_inputs"] = changed


def begin(folder: Path, settings: dict[str, Any], inputs: dict[str, InputFile], overwrite: bool) -> None:
    """Write settings.json and inputs.json; with `overwrite` after what is there has been set aside."""
    if overwrite and paths.is_set_aside(folder):  # an earlier --overwrite was cut off: its answers go, the old stay
        for path in _own(folder):
            paths.remove(path)
    elif overwrite and (found := _own(folder)):
        paths.set_aside(folder, [path.name for path in found])
    elif (folder / PREDICTIONS_NAME).is_file():
        note(f"going on with {folder / PREDICTIONS_NAME}")
    write_atomic(folder / SETTINGS_NAME, json.dumps(settings, indent=1) + "\n")
    write_inputs(folder, inputs)
    hash_in_background(folder, inputs)


def _own(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, pattern) for pattern in _OWN)]


def write_results(
    config: EvalConfig, content: Mapping[str, Any], seconds: float, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write results.json and return what is in it.

    If the output is in the run folder of the model, the scores in the model's card are renewed.

    Args:
        earlier: results.json of the run that made the answers, where all were there: its versions and seconds stay.
    """
    folder = Path(config.run.dir)
    made = {"versions": _versions(), "seconds": round(seconds, 1)}
    if earlier is not None:
        made = {key: earlier.get(key, value) for key, value in made.items()}
    result = {**content, **made}
    write_atomic(folder / RESULTS_NAME, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    paths.drop_aside(folder)
    model = Path(config.model.adapter or config.model.path)
    if model.is_dir() and model.resolve().parent == folder.resolve().parent:
        from vsgrpo.modeling.model_card import renew_scores

        renew_scores(model)
    return result


def read_results(folder: Path | str) -> dict[str, Any]:
    """Read results.json of an evaluation folder; DataError where it is missing or of another schema."""
    hint = "run `vsgrpo eval` into this folder"
    return read_record(Path(folder) / RESULTS_NAME, {}, hint, schema_version=SCHEMA_VERSION)


def _versions() -> dict[str, str]:
    """Return the versions of what a score depends on, as far as installed."""
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@dataclass(frozen=True)
class Answers:
    """The answers of a model to a benchmark, and what decided them.

    Attributes:
        config: of the evaluation.
        settings: the content of settings.json.
        leak: the verdict of the leak guard.
        by_control: control ("" for the evaluation itself) -> id -> one answer per sample, None where unanswered.
        errors: id -> why it is unanswered.
        num_cut_off: answers that reached decoding.max_new_tokens: most of them are unfinished.
        media_of: what each row was shown.
    """

    config: EvalConfig
    settings: dict[str, Any]
    leak: Leak
    by_control: Mapping[str, Mapping[str, Sequence[str | None]]]
    errors: dict[str, str]
    num_cut_off: int
    media_of: MediaOf

    def first_of(self, control: str) -> dict[str, str]:
        """Return id -> first answer of the answered rows under a control; DataError where there is none."""
        return {name: texts[0] for name, texts in self.given_to(control).items()}

    def given_to(self, control: str) -> dict[str, list[str]]:
        """Return id -> answers of the answered rows under a control; DataError where there is none."""
        found = {
            name: given
            for name, texts in self.by_control[control].items()
            if (given := [text for text in texts if text is not None])
        }
        if not found:
            file = Path(self.config.run.dir) / predictions_name(control)
            raise DataError(f"{file}: no question is answered", "the reasons are in the file")
        return found
