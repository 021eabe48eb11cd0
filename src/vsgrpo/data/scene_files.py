"""The scene of a row: build-data writes scenes/<dataset>/<scene>.json beside the videos/ of its rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vsgrpo.data.row import SPECIAL, Row
from vsgrpo.paths import inside
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.scene import Scene, SceneObject

MAX_DESCRIBED = 40
"""Objects that `boxes_text` names, the largest: about 20 tokens each."""


def scene_file(row: Row, base: Path) -> Path | None:
    """Return where the scene of a row lies if it has one, None where the row shows no video.

    Args:
        base: folder that holds the row file.
    """
    videos = [path for kind, path, *_ in row.media_paths(base) if kind == "video"]
    if not videos:
        return None
    folder = videos[0].parent.parent.parent / "scenes"  # of videos/<dataset>/<scene>.mp4
    return inside(folder, f"{row.dataset}/{row.scene_name}.json")


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
        if (file := scene_file(row, base)) is None:
            continue
        if file not in read:
            read[file] = read_scene_json(file) if file.is_file() else None
        if (scene := read[file]) is not None:
            found[row.key] = scene
    return found


def boxes_text(scene: Scene) -> str | None:
    """Return a sentence with the boxes of a scene's objects, None where it has none.

    Centres and sizes of boxes along the axes of the scene, metres, z up; the MAX_DESCRIBED largest objects.
    """
    sound = [item for item in scene.objects if item.is_sound and not SPECIAL.search(item.category)]
    largest = sorted(sound, key=lambda item: -float((item.box.max - item.box.min).prod()))[:MAX_DESCRIBED]
    if not largest:
        return None
    places = "; ".join(_place(item) for item in sorted(largest, key=lambda item: (item.category, item.instance_id)))
    return (
        f"Objects of this room, each with the centre (x, y, z) and the size (x, y, z) of its box in metres: {places}."
    )


def _place(item: SceneObject) -> str:
    centre, size = (item.box.min + item.box.max) / 2, item.box.max - item.box.min
    texts = [", ".join(f"{value:.2f}" for value in vector) for vector in (centre, size)]
    return f"{item.category} ({texts[0]}) ({texts[1]})"
