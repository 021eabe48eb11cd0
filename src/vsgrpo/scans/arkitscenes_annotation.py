"""ARKitScenes' annotation: the boxes of `<video>_3dod_annotation.json`.

Known defects are survived by rule, and counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.scans.source import broken, read_json_object
from vsgrpo.spatial.scene import Box

_MAX_METRES = 1000.0


@dataclass(frozen=True)
class Annotated:
    """One entry of an annotation: its place in the file, its label, and its box."""

    number: int
    label: str
    box: Box | None


def read_annotation(path: Path, warnings: Counter[str], notes: list[str]) -> list[Annotated]:
    """Read `data[].segments.obbAligned`: the boxes of an annotation, in file order.

    The nine numbers of `normalizedAxes` are three rows, row i being the axis of `axesLengths[i]`. Defects survived,
    each counted in `warnings`: `annotation_skipped` (the annotators gave the video up: no objects), `annotation_empty`,
    `duplicate_uids` (the first stays), `broken_boxes` (missing, not finite, or axes that are no rotation: the
    entry has no box).

    Raises:
        DataError: broken JSON, no list `data`, or an entry without a label.
    """
    document = read_json_object(path)
    if document.get("skipped"):
        warnings["annotation_skipped"] = 1
        comment = document.get("comment")
        reason = f": {comment!r:.80}" if isinstance(comment, str) and comment else ""
        notes.append(f"the annotators skipped this video{reason}: it has no objects")
        return []
    entries = document.get("data")
    if not isinstance(entries, list):
        raise broken(path, "has no list `data`")
    if not entries:
        warnings["annotation_empty"] = 1
        notes.append("the annotation has no boxes")
    found: list[Annotated] = []
    known: set[str] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or not entry["label"].strip():
            raise broken(path, f"data[{number}] has no label")
        uid = entry.get("uid")
        if isinstance(uid, str) and uid in known:
            warnings["duplicate_uids"] += 1
            continue
        known.update([uid] if isinstance(uid, str) and uid else [])
        box = _read_box(entry.get("segments"))
        if box is None:
            warnings["broken_boxes"] += 1
        found.append(Annotated(number, entry["label"].strip(), box))
    return found


def _read_box(segments: Any) -> Box | None:
    """Return the box, None where it is missing or no box."""
    entry = segments.get("obbAligned") if isinstance(segments, dict) else None
    if not isinstance(entry, dict):
        return None
    try:
        centroid, lengths, axes = (
            np.asarray(entry[key], dtype=np.float64).reshape(shape)
            for key, shape in (("centroid", 3), ("axesLengths", 3), ("normalizedAxes", (3, 3)))
        )
    except (KeyError, TypeError, ValueError, OverflowError):  # the last: a whole number of hundreds of digits
        return None
    numbers = np.concatenate([centroid, lengths, axes.ravel()])
    if not (np.abs(numbers) <= _MAX_METRES).all() or (lengths < 0).any():  # False for NaN, too
        return None
    if np.abs(axes @ axes.T - np.eye(3)).max() > 1e-2:
        return None
    return Box(centroid, lengths, axes)
