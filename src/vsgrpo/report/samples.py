"""A run's completions.jsonl: some steps of it, with questions and frames where the dataset is still there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.records import MAYBE_NUMBER, check_shape, decode_line, read_jsonl
from vsgrpo.report.shell import pictures
from vsgrpo.report.svg import Curve

COMPLETIONS_NAME = "completions.jsonl"
NUM_STEPS_COUNTED = 48
"""Steps of which the most frequent completion is counted."""
NUM_STEPS_SHOWN = 4
_MAX_TEXTS = 8
_MAX_CHARS = 400
_DRAWN = {"step": int, "id": str, "completion": str, "reward?": MAYBE_NUMBER}
_SAMPLE = {**_DRAWN, "question_type": str, "answer": str, "advantage?": MAYBE_NUMBER}
_STEP = re.compile(rb'"step"\s*:\s*(\d+)')


@dataclass(frozen=True)
class Group:
    """Completions of one question at one step.

    Attributes:
        key: of the completions: dataset/id of the row, `#2` after it for a repeated row.
        texts: (completion, how often, mean reward or advantage), most frequent first.
        has_rewards: the means are of rewards.
        row: the question, None where the dataset is gone.
        frames, problems: pictures of what the row shows, and why others are missing.
    """

    step: int
    key: str
    question_type: str
    answer: str
    texts: list[tuple[str, int, float | None]]
    num_completions: int
    has_rewards: bool
    row: Row | None
    frames: list[str]
    problems: list[str]


@dataclass(frozen=True)
class Samples:
    """Groups to show, and per question type the share of its most frequent completion over time."""

    groups: list[Group]
    top_share: dict[str, Curve]


def read_samples(folder: Path, config: dict[str, Any]) -> Samples:
    """Read some steps of a run's completions; empty where it has none (SFT, DPO).

    Args:
        config: of the run: says where its rows are, and how it read videos.
    """
    path = folder / COMPLETIONS_NAME
    if not path.is_file():
        return Samples([], {})
    starts = _starts(path)
    steps = _spread(sorted(starts), NUM_STEPS_COUNTED)
    records = {step: _records(path, starts[step], step, _SAMPLE) for step in steps}
    top_share: dict[str, Curve] = {}
    for step, part in records.items():
        by_type: dict[str, Counter[str]] = {}
        for record in part:
            by_type.setdefault(record["question_type"], Counter())[record["completion"]] += 1
        for name, counts in by_type.items():
            top_share.setdefault(name, []).append((step, counts.most_common(1)[0][1] / counts.total()))
    shown = [group for step in _spread(steps, NUM_STEPS_SHOWN) for group in _first_of_each_type(records[step])]
    rows = read_questions(question_files(config), [group[0]["id"] for group in shown])
    return Samples([_group(group, rows, config.get("video") or {}) for group in shown], top_share)


def read_completions(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run's completions, newest step first; of a step written twice the later."""
    path = folder / COMPLETIONS_NAME
    starts = _starts(path)
    for step in sorted(starts, reverse=True):
        yield from _records(path, starts[step], step, _DRAWN)


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
        for row in _rows(file, wanted) if file.is_file() else ():
            rows[row.key] = (row, file.parent)
    return {key: rows[name] for key in keys for name in reversed(_row_keys(key)) if name in rows}


def _row_keys(key: str) -> tuple[str, str]:
    """Return the keys of rows that a completion's key may mean: itself, and without the `#2` of a repeated row."""
    return key, re.sub(r"#[0-9]+$", "", key)


def _rows(file: Path, wanted: set[str]) -> Iterable[Row]:
    """Yield the rows whose id is wanted; the others are not checked."""
    for number, data in read_jsonl(file):
        name = data.get("id") if isinstance(data, dict) else None
        if isinstance(name, str) and name in wanted:
            yield row_from_dict(data, f"{file}:{number}")


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


def _spread(items: list[int], limit: int) -> list[int]:
    """Return at most `limit` items, evenly, first and last among them."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _first_of_each_type(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the completions of the first question of each type, sorted by type."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        part = groups.setdefault(record["question_type"], [])
        if not part or part[0]["id"] == record["id"]:
            part.append(record)
    return [groups[kind] for kind in sorted(groups)]


def _group(records: list[dict[str, Any]], rows: dict[str, tuple[Row, Path]], video: dict[str, Any]) -> Group:
    head = records[0]
    has_rewards = head.get("reward") is not None
    marks: dict[str, list[float]] = {}
    for record in records:
        value = record.get("reward" if has_rewards else "advantage")
        marks.setdefault(record["completion"], []).extend([] if value is None else [value])
    counts = Counter(record["completion"] for record in records)
    texts = [
        (text[:_MAX_CHARS], count, fmean(marks[text]) if marks[text] else None)
        for text, count in counts.most_common(_MAX_TEXTS)
    ]
    row, base = rows.get(head["id"], (None, None))
    frames, problems = ([], []) if row is None or base is None else pictures(row.media_paths(base), video)
    return Group(
        step=head["step"],
        key=head["id"],
        question_type=head["question_type"],
        answer=head["answer"],
        texts=texts,
        num_completions=len(records),
        has_rewards=has_rewards,
        row=row,
        frames=frames,
        problems=problems,
    )
