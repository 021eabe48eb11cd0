"""Counts of a build per source of scans, for the summary, manifest.json and report.html."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.row import Row
from vsgrpo.terminal import counted


def count_sources(
    config: BuildDataConfig,
    refused: Sequence[Mapping[str, int]],
    outcomes: Sequence[ScanOutcome],
    rows: Mapping[str, Sequence[Row]],
) -> list[dict[str, Any]]:
    """Return per source of the build: name, data set, root, split, scans, skipped, refused, objects and questions.

    Args:
        refused: per source, reason -> number of scans left out by split and leak rules.
        rows: per split.
    """
    place = {(config.parts[o.part].dataset, o.scan_id): o.part for o in outcomes}
    questions = {name: Counter(place[row.dataset, row.scene_name] for row in part) for name, part in rows.items()}
    found = []
    for number, part in enumerate(config.parts):
        own = [outcome for outcome in outcomes if outcome.part == number]
        done = [outcome for outcome in own if outcome.status == "done"]
        found.append(
            {
                "name": part.options.name,
                "dataset": part.dataset,
                "root": part.options.root,
                "split": part.split,
                "scans": len(done),
                "skipped": len(own) - len(done),
                "refused": sum(refused[number].values()),
                "objects": sum(outcome.num_objects for outcome in done),
                "questions": {name: counter[number] for name, counter in questions.items()},
            }
        )
    return found


def source_lines(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line per source, none for a single one."""
    if len(sources) < 2:
        return []
    return [
        f"{item['name']} ({item['root'] or 'made here'}): {counted(item['scans'], 'scan')} built, "
        f"{item['skipped']} skipped, {item['refused']} left out, {counted(item['objects'], 'object')}, "
        + ", ".join(counted(number, f"{name} row") for name, number in item["questions"].items())
        for item in sources
    ]
