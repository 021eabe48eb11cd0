"""The scene of a row: build-data writes scenes/<dataset>/<scene>.json beside the videos/ of its rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vsgrpo.data.row import Row
from vsgrpo.paths import inside
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.scene import Scene


def scenes_of(rows: Iterable[Row], base: Path) -> dict[str, Scene]:
    """Return the key of a row -> its scene, for rows whose dataset folder has one. Each file is read once.

    Args:
        base: folder that holds the row file.

    Raises:
        DataError: a scene file that cannot be read.
    """
    read: dict[Path, Scene | None] = {}
    found = {}
    for row in rows:
        videos = [path for kind, path in row.media_paths(base) if kind == "video"]
        if not videos:
            continue
        folder = videos[0].parent.parent.parent / "scenes"  # of videos/<dataset>/<scene>.mp4
        file = inside(folder, f"{row.dataset}/{row.scene_name}.json")
        if file not in read:
            read[file] = read_scene_json(file) if file.is_file() else None
        if (scene := read[file]) is not None:
            found[row.key] = scene
    return found
