"""Several benchmarks in one `vsgrpo eval`: `benchmark=suite suite=[NAME, {benchmark: NAME, path: FILE}, ...]`.

Each is an evaluation of its own, in a folder of its name below the output folder; the model is loaded and frames are
cached once. suite.json and suite.html have one line per benchmark.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vsgrpo.config.evaluate import BenchmarkSection, EvalConfig
from vsgrpo.config.keys import field_types, value_text
from vsgrpo.errors import ConfigError, DataError, first_line
from vsgrpo.evaluation.benchmark import BENCHMARKS, Benchmark, find_benchmark
from vsgrpo.evaluation.leak import check_lineage
from vsgrpo.evaluation.results import REPORT_NAME
from vsgrpo.evaluation.run import read_rows, run_eval
from vsgrpo.evaluation.score_tables import compare_table
from vsgrpo.families import find_model
from vsgrpo.files import write_atomic
from vsgrpo.report.suite_page import write_suite_page
from vsgrpo.terminal import counted, show

SUITE = "suite"
SUITE_JSON, SUITE_PAGE = "suite.json", "suite.html"
_EXAMPLE = "suite='[vsibench, {benchmark: revsi, path: data/ReVSI/32_frame, video.num_frames: 32}]'"


def split_suite(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return per benchmark of a suite its name and the overrides that evaluate it; ("", words) alone for no suite.

    An entry is a benchmark's name, whose rows are at benchmark.path/NAME, or {benchmark: NAME} with `path`, other keys
    of `benchmark`, any dotted key, and `as`, the name of its folder.

    Raises:
        ConfigError: a suite that is no list of such entries, two of one name, or no output folder.
    """
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if given.get("benchmark") != SUITE:
        if SUITE in given:
            raise ConfigError(f"suite={given[SUITE]}: benchmark=suite is not given", hint="set benchmark=suite")
        return [("", list(words))]
    if SUITE not in given:
        raise ConfigError(
            "benchmark=suite: no suite=[...] given", hint=f"{_EXAMPLE}; there are {', '.join(BENCHMARKS)}"
        )
    try:
        entries = yaml.safe_load(given[SUITE])
    except yaml.YAMLError as error:
        raise ConfigError(f"suite={given[SUITE]}: not a list ({first_line(error)})", hint=_EXAMPLE) from None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"suite={given[SUITE]}: must be a list of benchmarks", hint=_EXAMPLE)
    folder = given.get("output") or given.get("run.dir")
    if not folder:
        raise ConfigError("benchmark=suite: output=DIR is needed", hint="each benchmark gets a folder in it")
    taken = ("benchmark", SUITE, "benchmark.path", "output", "run.dir")
    others = [word for word in words if word.partition("=")[0] not in taken]
    if given.get("video.frame_cache") == "disk" and "video.cache_dir" not in given:
        others.append(f"video.cache_dir={folder}/cache")
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, own = _entry(entry, given.get("benchmark.path"))
        if name in found:
            problem = f"suite: two entries are called {name}"
            raise ConfigError(problem, hint=f"name their folders: {{benchmark: {name}, as: {name}_2, path: ...}}")
        found[name] = [*others, *own, f"output={folder}/{name}"]
    return list(found.items())


def _entry(entry: Any, root: str | None) -> tuple[str, list[str]]:
    """Return the folder name of an entry and its overrides."""
    values = {"benchmark": entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or not isinstance(values.get("benchmark"), str):
        raise ConfigError(f"suite: {entry!r}: no benchmark is named", hint=_EXAMPLE)
    name = values["benchmark"]
    find_benchmark(name)
    if "path" not in values:
        if root is None:
            hint = "give each a path, or benchmark.path=DIR with a folder of each benchmark's name"
            raise ConfigError(f"suite: {name}: no path", hint)
        values = {**values, "path": os.path.join(root, name)}
    own = [f"benchmark={name}"]
    sections = [key for key in field_types(BenchmarkSection) if key != "name"]
    for key, value in values.items():
        if key in ("benchmark", "as"):
            continue
        if not isinstance(key, str) or (key not in sections and "." not in key):
            known = ", ".join([*sections, "as"])
            raise ConfigError(f"suite: {name}: {key}: unknown key", hint=f"keys are {known}, or dotted ones")
        own.append(f"{key if '.' in key else f'benchmark.{key}'}={value_text(value)}")
    folder = str(values.get("as", name))
    if Path(folder).name != folder or folder in ("", ".", ".."):
        raise ConfigError(f"suite: {name}: as={folder}: must be a folder name", hint="letters, digits, _ and -")
    return folder.replace(":", "_"), own


@dataclass(frozen=True)
class SuiteReport:
    """One model on several benchmarks.

    Attributes:
        model: path or adapter.
        parts: benchmark -> the content of its results.json.
        missing: benchmark -> why it was not run.
        folder: holds a folder of each.
    """

    model: str
    parts: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Return the content of suite.json; scores are 0..1."""
        return {
            "schema_version": 1,
            "model": self.model,
            "benchmarks": {name: _summary(result) for name, result in self.parts.items()},
            "missing": dict(self.missing),
        }

    def table(self) -> str:
        """Return one line per benchmark, then what is missing."""
        body = [("benchmark", "overall", "95 %", "mean", "questions", "published")]
        for name, part in self.to_json()["benchmarks"].items():
            low, high = part["interval"]
            beside = "; ".join(f"{row['name']} {100 * row['overall']:.1f}" for row in part["published"][:2])
            asked = f"{part['n']} of {part['num_rows']}"
            span = f"{100 * low:.1f} to {100 * high:.1f}"
            body.append((name, f"{100 * part['overall']:.1f}", span, part["headline"], asked, beside))
        widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in body
        ]
        whole = counted(len(self.parts) + len(self.missing), "benchmark")
        lines = [f"{self.model}: {len(self.parts)} of {whole}", *lines]
        lines += [f"missing: {name}: {reason}" for name, reason in self.missing.items()]
        for name, part in self.to_json()["benchmarks"].items():
            lines += [f"note: {name}: {note}" for note in part["notes"]]
        return "\n".join([*lines, f"page: {self.folder / SUITE_PAGE}"])

    def write(self) -> None:
        """Write suite.json and suite.html."""
        content = self.to_json()
        write_atomic(self.folder / SUITE_JSON, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        pages = {name: f"{name}/{REPORT_NAME}" for name in self.parts}
        write_suite_page(self.folder / SUITE_PAGE, content, pages)


def _summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a suite shows of a results.json."""
    notes = list(result.get("notes", ()))
    if result["unanswered"]:
        unanswered = counted(len(result["unanswered"]), "question is", "questions are")
        notes.append(f"{unanswered} unanswered and left out of the score")
    if result["leak"]["verdict"] != "clean":
        notes.append(f"leak check: {result['leak']['verdict']}")
    return {
        "title": result["title"],
        "scorer": result["scorer"],
        "overall": result["scores"]["overall"],
        "headline": result["headline"],
        "micro": result["micro"],
        "macro": result["macro"],
        "interval": list(result["intervals"]["overall"]),
        "n": result["n"],
        "num_rows": result["num_rows"],
        "published": list(result.get("published", ())),
        "notes": notes,
    }


def run_suite(configs: Mapping[str, EvalConfig], *, skip_missing: bool, **allowed: Any) -> SuiteReport | None:
    """Evaluate one model on several benchmarks: benchmark -> its configuration, whose output folders lie in one.

    All rows are read, once, and all media looked for before the model is loaded: a row file that changes while others
    are evaluated changes nothing. None is returned in all processes but the first.

    Args:
        skip_missing: go on without benchmarks whose rows or media are missing, and without missing media.
        allowed: as `run_eval`.

    Raises:
        DataError: rows or media are missing and may not be skipped, or no benchmark is there.
        VsgrpoError: all that `run_eval` raises.
    """
    missing: dict[str, str] = {}
    read: dict[str, Benchmark] = {}
    for name, config in configs.items():
        try:
            read[name] = read_rows(config, find_benchmark(config.benchmark.name)).with_media(skip_missing)
        except DataError as error:
            if not skip_missing:
                raise DataError(f"suite: {name}: {error}", error.hint) from None
            missing[name] = str(error)
            show(f"warning: suite: {name} is left out: {error}", sys.stderr)
    if not read:
        raise DataError(f"suite: every benchmark is missing, such as {next(iter(missing.items()))}", "download them")
    kept: dict[Any, Any] = {}
    parts = {}
    for name in list(read):
        show(f"suite: {name}", sys.stderr)
        more = {"kept": kept, "benchmark": read.pop(name)}
        report = run_eval(configs[name], skip_missing=skip_missing, **more, **allowed)
        if report is not None:
            parts[name] = report.to_json()
    if not parts:
        return None
    first = next(iter(configs.values()))
    report = SuiteReport(first.model.adapter or first.model.path, parts, missing, Path(first.run.dir).parent)
    report.write()
    return report


Configs = Mapping[str, Mapping[str, EvalConfig]]
"""Model ("" for a single one) -> benchmark of a suite ("" for a single one) -> its configuration."""


def check_models(configs: Configs) -> None:
    """Raise ConfigError for a benchmark that there is not, before anything is read."""
    for parts in configs.values():
        for config in parts.values():
            find_benchmark(config.benchmark.name)


def evaluate_models(configs: Configs, as_json: bool, *, allow_leak: bool, skip_missing: bool, **allowed: Any) -> str:
    """Evaluate models on a benchmark or a suite and return what is printed; "" in all processes but the first."""
    allowed |= {"allow_leak": allow_leak}
    if len(configs) > 1:  # the last model is refused now, not when the others are done
        models = [next(iter(parts.values())).model for parts in configs.values()]
        for model in models:
            find_model(model.path, model.adapter)
        for model in models:
            check_lineage(model.path, model.adapter, allow_leak=allow_leak)
    found: dict[str, Any] = {}
    for name, parts in configs.items():
        if "" in parts:
            report = run_eval(parts[""], skip_missing=skip_missing, **allowed)
        else:
            report = run_suite(parts, skip_missing=skip_missing, **allowed)
        if report is not None:  # under a launcher one process of several reports
            found[name] = report.to_json() if as_json else report.table()
    if as_json and found:
        return json.dumps(found if len(configs) > 1 else found[""], indent=1)
    tables = list(found.values())
    single = {name: parts[""] for name, parts in configs.items() if "" in parts}
    if len(found) > 1 and single and find_benchmark(next(iter(single.values())).benchmark.name).has_task_tables:
        tables.append(compare_table([(name, config.run.dir) for name, config in single.items()], "all models"))
    return "\n\n".join(tables)
