"""Read a run folder: the log as curves, phase seconds, alarms, evaluations, completions and the rows they answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import variance
from typing import Any

from vsgrpo.data.mix import DrawnSource, read_mix
from vsgrpo.data.row import Row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import DataError
from vsgrpo.files import read_yaml
from vsgrpo.records import MAYBE_NUMBER, NUMBER, check_shape, decode_line, read_jsonl, read_record
from vsgrpo.report.page import Curve
from vsgrpo.terminal import counted

LOG_SCHEMA_VERSION = 1
COMPLETIONS_NAME = "completions.jsonl"
COMPLETION = {"step": int, "id": str, "completion": str, "reward?": MAYBE_NUMBER}
"""Kinds of the values of a line in completions.jsonl."""
_HINT = "restore the file that the command wrote"
_CONFIG = {
    "data": {"path": str, "split?": str, "mix?": [{"path": str}]},
    "video?": {"backend?": str, "timeout_s?": NUMBER},
}
_FACTS = {
    "trainer": {"name": str},
    "model": {"path": str},
    "video": {"num_frames": int, "max_pixels": int},
    "run": {"seed": (int, type(None))},
}
_RESULT = {
    "title": str,
    "scorer": str,
    "scores": {str: NUMBER},
    "intervals?": {str: [NUMBER]},
    "controls?": {str: {str: NUMBER}},
    "leak": {"verdict": str},
    "benchmark": {"format?": str},
    "model": {"size?": str},
    "prompt": {"mode": str},
    "video?": str,
}
_RECORD = {"step": int, "dev_score?": NUMBER, "tokens/computed?": NUMBER, "tokens/plain?": NUMBER}
_STEP = re.compile(rb'"step"\s*:\s*(\d+)')
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        status: run.json.
        config: config.yaml.
        curves: metric of log.jsonl -> its values.
        phases: phase -> seconds per optimizer step.
        evaluations: (name of the folder, results.json) of what was scored inside the run folder.
        mix: what it drew from each source of data.mix.
    """

    name: str
    folder: Path
    status: dict[str, Any]
    config: dict[str, Any]
    curves: dict[str, Curve]
    phases: dict[str, Curve]
    evaluations: list[tuple[str, dict[str, Any]]]
    mix: list[DrawnSource] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        """The last step in the log."""
        return max((curve[-1][0] for curve in self.curves.values()), default=0)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.yaml of a run folder.

    Raises:
        DataError: it is no run folder, or its config.yaml is broken.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: no run folder", hint="give the output=DIR of a `vsgrpo train`")
    config = read_yaml(folder / "config.yaml", _HINT)
    check_shape(config, _CONFIG, str(folder / "config.yaml"), _HINT)
    return config


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read the folder of a run, finished or not.

    Raises:
        DataError: it is no run folder, or its log is broken or empty.
    """
    log = folder / "log.jsonl"
    config = read_config(folder)
    check_shape(config, _FACTS, str(folder / "config.yaml"), _HINT)
    if not log.is_file():
        raise DataError(f"{log}: no such file", hint="the run has logged nothing yet; wait for its first steps")
    lines = list(_read_lines(log))
    records = drop_redone(record for record in lines if "loss" in record)
    dev = drop_redone(record for record in lines if "dev_score" in record)
    if not records:
        raise DataError(
            f"{log}: holds no training step",
            hint="a running one logs its first soon; lower trainer.logging_steps if it ends before",
        )
    curves, phases = _curves(records)
    if dev:
        curves["dev_score"] = [(record["step"], float(record["dev_score"])) for record in dev]
    return Run(
        name or folder.name,
        folder,
        read_record(status, {"status?": str}, _HINT) if (status := folder / "run.json").is_file() else {},
        config,
        curves,
        phases,
        [(path.parent.name, read_record(path, _RESULT, _HINT)) for path in sorted(folder.glob("*/results.json"))],
        read_mix(folder),
    )


def drop_redone(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return log records with rising steps: a resumed run logs anew what it does again, the later record counts."""
    kept: list[dict[str, Any]] = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, record in read_jsonl(path, nan="keep", is_growing=True):
        where = f"{path}:{number}"
        check_shape(record, {"schema_version": int}, where, "remove this line")
        if (version := record["schema_version"]) != LOG_SCHEMA_VERSION:
            raise DataError(
                f"{where}: schema_version={version}: this version reads {LOG_SCHEMA_VERSION}",
                hint="make the report with the version that trained",
            )
        check_shape(record, _RECORD, where, "remove this line")
        yield record


def _curves(records: list[dict[str, Any]]) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Return the curves of all metrics, and those of the seconds per step of each phase."""
    curves: dict[str, Curve] = {}
    phases: dict[str, Curve] = {}
    last = 0
    for record in records:
        step = record["step"]
        for name, value in record.items():
            value = _NOT_FINITE.get(value, value) if isinstance(value, str) else value
            if name in ("schema_version", "step", "stage", "clock") or not isinstance(value, int | float):
                continue
            if name.startswith("time/"):  # summed since the last record
                phases.setdefault(name[5:], []).append((step, value / max(step - last, 1)))
            else:
                curves.setdefault(name, []).append((step, float(value)))
        if record.get("tokens/computed") and record.get("tokens/plain"):
            saved = 1 - record["tokens/computed"] / record["tokens/plain"]
            curves.setdefault("tokens_saved", []).append((step, saved))
        last = step
    totals: dict[int, float] = {}
    for curve in phases.values():
        for step, seconds in curve:
            totals[step] = totals.get(step, 0.0) + seconds
    return curves | ({"seconds_per_step": sorted(totals.items())} if totals else {}), phases


def alarms(run: Run) -> list[str]:
    """Return what a reader should look at before trusting the run, as sentences; the thresholds are our choice.

    "At the end" is the mean over the last quarter of the steps.
    """
    found = []
    if run.status.get("status") == "failed":
        found.append(f"The run failed: {run.status.get('error')}")
    for name, curve in run.curves.items():
        bad = [step for step, value in curve if not math.isfinite(value)]
        if bad:
            found.append(
                f"{name} is not a finite number at {counted(len(bad), 'logged step')}, first at step {bad[0]}."
            )
    if run.curves.get("num_nan"):
        found.append(f"NaN among the values behind the means, first at step {run.curves['num_nan'][0][0]}.")
    for name, limit, text in (
        ("parse_failure/number", 0.1, "of the answers to number questions hold no readable number"),
        ("parse_failure/map", 0.1, "of the answers to questions for maps hold no readable map"),
        ("parse_failure/text", 0.1, "of the answers to word questions are empty"),
        ("parse_failure/tags", 0.1, "of the completions lack the answer tags"),
        ("completions/clipped_ratio", 0.2, "of the completions are cut off at trainer.max_completion_length"),
        ("frac_reward_zero_std", 0.8, "of the groups have equal rewards and teach nothing"),
        ("thought/commonest", 0.5, "of the thoughts are one and the same"),
        ("thought/across_videos", 0.3, "of the pairs of thoughts about different videos are equal"),
        ("thought/unrelated", 0.5, "of the thoughts hold neither their answer nor a word of the question"),
    ):
        share = end_mean(run.curves.get(name, []))
        if share is not None and share > limit:
            found.append(f"{100 * share:.0f} % {text} at the end.")
    words = run.curves.get("thought/words", [])
    last = end_mean(words)
    if last is not None and last < 2:
        found.append(f"Thoughts have {last:.1f} words at the end ({words[0][1]:.1f} at first).")
    entropy = run.curves.get("entropy", [])
    last = end_mean(entropy)
    if last is not None and last < min(0.05, 0.1 * entropy[0][1]):
        text = f"Entropy has fallen from {entropy[0][1]:.2f} to {last:.2f} nats per token"
        found.append(f"{text}: there is next to one completion for every question.")
    format_reward = end_mean(run.curves.get("rewards/format_reward/mean", []))
    if format_reward is not None and format_reward > 0.8 and _fell(run.curves.get("rewards/accuracy_reward/mean", [])):
        found.append("Format is rewarded more and more while accuracy falls: the sign of reward hacking.")
    lengths = run.curves.get("completions/mean_length", [])
    if len(lengths) >= 8 and (end_mean(lengths) or 0) > 3 * max(lengths[0][1], 1):
        found.append(f"Completions have grown from {lengths[0][1]:.0f} to {end_mean(lengths):.0f} tokens.")
    skipped = sum(value for _, value in run.curves.get("skipped_completions", []) if math.isfinite(value))
    if skipped:
        found.append("Some completions were left out because their video could not be read.")
    return found


def tokens_saved(run: Run) -> tuple[float, float] | None:
    """Return the language model's tokens that were computed, and those of a plain step, over the whole run."""
    sums = [sum(value for _, value in run.curves.get(f"tokens/{kind}", [])) for kind in ("computed", "plain")]
    return (sums[0], sums[1]) if all(sums) else None


def end_mean(curve: Curve) -> float | None:
    """Return the mean of the finite values over the last quarter of the logged steps, None where there are none."""
    values = [value for _, value in curve if math.isfinite(value)]
    values = values[-max(1, len(values) // 4) :]
    return sum(values) / len(values) if values else None


def _fell(curve: Curve) -> bool:
    """Return whether a curve ends at less than 0.8 of its best quarter, by more than three standard errors.

    The best of many windows is above the last by two of them in runs of a few completions a step where nothing fell.
    """
    values = [value for _, value in curve if math.isfinite(value)]
    width = max(1, len(values) // 4)
    if len(values) < 2:
        return False
    sums = [0.0, *accumulate(values)]  # not a sum per window: a run may have logged 100,000 steps
    start = max(range(len(values) - width + 1), key=lambda i: sums[i + width] - sums[i])
    best = values[start : start + width]
    last = values[-width:]
    noise = math.sqrt((variance(best) + variance(last)) / width) if width > 1 else 0.0
    drop = (sum(best) - sum(last)) / width
    return sum(last) < 0.8 * sum(best) and drop > 3 * noise


def read_completions(
    folder: Path, shape: Any = COMPLETION, max_steps: int | None = None
) -> dict[int, list[dict[str, Any]]]:
    """Return step -> records of a run's completions, steps rising; of a step written twice the later.

    Empty where the run has none (SFT, DPO).

    Args:
        shape: kinds of the values of a record (`check_shape`).
        max_steps: read so many steps at most, evenly spread.
    """
    path = folder / COMPLETIONS_NAME
    if not path.is_file():
        return {}
    starts = _starts(path)
    steps = sorted(starts) if max_steps is None else spread(sorted(starts), max_steps)
    return {step: _records(path, starts[step], step, shape) for step in steps}


def _starts(path: Path) -> dict[int, int]:
    """Return step -> byte offset of its last block of lines: a resumed run writes some steps again."""
    starts: dict[int, int] = {}
    offset, last = 0, None
    with path.open("rb") as stream:
        for line in stream:
            found = _STEP.search(line, 0, 80)
            step = int(found.group(1)) if found else last
            if step is not None and step != last:
                starts[step] = offset
                last = step
            offset += len(line)
    return starts


def _records(path: Path, offset: int, step: int, shape: Any) -> list[dict[str, Any]]:
    found = []
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                break  # being written
            record = decode_line(line, f"{path}: step {step}", "remove this line", nan="keep")
            check_shape(record, shape, f"{path}: step {step}", "remove this line")
            if record["step"] != step:
                break
            found.append(record)
    return found


def spread(items: list[int], limit: int) -> list[int]:
    """Return at most `limit` items, evenly, first and last among them."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def question_files(config: dict[str, Any]) -> list[Path]:
    """Return the row files that a run trained on."""
    data = config.get("data", {})
    folders = [data.get("path"), *(item["path"] for item in data.get("mix") or [])]
    return [Path(folder) / f"{data.get('split', 'train')}.jsonl" for folder in folders if folder]


def read_questions(files: Iterable[Path], keys: Iterable[str]) -> dict[str, tuple[Row, Path]]:
    """Return key of a completion -> its row and that row's folder, for those that the files (still) have."""
    keys = set(keys)
    wanted = {name.partition("/")[2] for key in keys for name in _row_keys(key)}
    rows: dict[str, tuple[Row, Path]] = {}
    for file in files:
        for number, data in read_jsonl(file) if file.is_file() else ():
            name = data.get("id") if isinstance(data, dict) else None
            if isinstance(name, str) and name in wanted:  # the others are not checked
                row = row_from_dict(data, f"{file}:{number}")
                rows[row.key] = (row, file.parent)
    return {key: rows[name] for key in keys for name in reversed(_row_keys(key)) if name in rows}


def _row_keys(key: str) -> tuple[str, str]:
    """Return the keys of rows that a completion's key may mean: itself, and without the `#2` of a repeated row."""
    return key, re.sub(r"#[0-9]+$", "", key)
