"""Original and edited frames side by side, for the page of a dataset with edited videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vsgrpo.data.pairs import PAIR, Pair, find_pairs, pairs_name
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.report.shown_media import data_url
from vsgrpo.video.reader import probe, read_uniform_frames

_SHOWN_OF_KIND = 6
_WIDTH = 320


def pair_views(folder: Path, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what to show of some pairs of each kind: the question, both answers, a frame of each video, problems."""
    files = [folder / pairs_name(split) for split in splits]
    pairs = [pair for file in files if file.is_file() for pair in find_pairs(read_rows(file))]
    chosen: list[Pair] = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        chosen += [pair for pair in pairs if pair.kind == kind][:_SHOWN_OF_KIND]
    return [_view(folder, pair) for pair in chosen]


def _view(folder: Path, pair: Pair) -> dict[str, Any]:
    removed = pair.edited.extra[PAIR].get("removed", {})
    urls: list[str] = []
    problems: list[str] = []
    for row in (pair.original, pair.edited):
        try:
            path = row.video_path(folder)
            frames = read_uniform_frames(path, probe(path).num_frames)[1]
            urls.append(data_url(frames[min(int(removed.get("frame", 0)), len(frames) - 1)], _WIDTH))
        except DataError as error:
            problems.append(error.message)
    return {
        "kind": pair.kind,
        "scene": pair.edited.scene_name,
        "removed": removed.get("category", ""),
        "question": pair.edited.question,
        "answers": (pair.original.answer, pair.edited.answer),
        "frames": urls,
        "problems": problems,
    }
