"""Scenes on disk: VSI-Bench's official meta info (read) and our `scenes/<dataset>/<scene>.json` (read and write).

Both carry `{dataset, scene_name, video_path, room_size, room_center, object_counts, object_bbox: {category: [{centroid,
axesLengths, normalizedAxes, min, max}]}}`, metres, z up; row i of normalizedAxes is the unit axis of axesLengths[i].
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.records import read_json
from vsgrpo.spatial.scene import Box, Scene, SceneObject

SCHEMA_VERSION = 1
_SCANNET_SCAN = re.compile(r"(scene\d{4})_\d{2}")


def read_meta_info(path: Path) -> list[Scene]:
    """Read one of VSI-Bench's `*_meta_info*.json` files, `{scene_name: {...}}`, in its order.

    Boxes listed twice (the official `printer`) are taken once; `object_counts` is kept as it is, hand-edited
    entries included. Instances get running ids.

    Raises:
        DataError: unreadable file, or an entry that lacks a key or holds a wrong value.
    """
    path = Path(path)
    content = read_json(path, "copy or build the file again", nan="keep")
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: no scenes in it", hint="the file is VSI-Bench's <dataset>_meta_info.json")
    return [_scene_from_official(name, entry, f"{path}: {name}") for name, entry in content.items()]


def write_scene_json(scene: Scene, path: Path) -> None:
    """Write one scene for `read_scene_json`, whole or not at all (temporary name, then rename)."""
    path = Path(path)
    boxes: dict[str, list[dict[str, Any]]] = {}
    for item in scene.objects:
        boxes.setdefault(item.category, []).append(_object_to_dict(item))
    content = {
        "schema_version": SCHEMA_VERSION,
        "dataset": scene.dataset,
        "scene_name": scene.scene_name,
        "room": scene.room,
        "video_path": f"{scene.dataset}/{scene.scene_name}.mp4",
        "room_size": scene.room_size,
        "room_center": [float(x) for x in scene.room_center],
        "object_counts": scene.object_counts,
        "object_bbox": boxes,
        "pixels": None if scene.pixels is None else {str(k): list(v) for k, v in sorted(scene.pixels.items())},
        "warnings": scene.warnings,
        "extra": scene.extra,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    os.replace(temporary, path)


def read_scene_json(path: Path) -> Scene:
    """Read what `write_scene_json` wrote; floats come back bit for bit, objects in order of instance id.

    Raises:
        DataError: unreadable file, another schema version, a missing key or a wrong value.
    """
    path = Path(path)
    content = read_json(path, "copy or build the file again", nan="keep")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema_version={version}: {SCHEMA_VERSION} is read here",
            hint="rebuild the dataset folder with this version of vsgrpo build-data",
        )
    try:
        objects = [
            _object_from_dict(category, entry, entry["instance_id"])
            for category, entries in content["object_bbox"].items()
            for entry in entries
        ]
        pixels = content["pixels"]
        return Scene(
            dataset=content["dataset"],
            scene_name=content["scene_name"],
            room=content["room"],
            objects=tuple(sorted(objects, key=lambda o: o.instance_id)),
            room_size=content["room_size"],
            room_center=_vector(content["room_center"], 3),
            object_counts=content["object_counts"],
            pixels=None if pixels is None else {int(k): tuple(v) for k, v in pixels.items()},
            warnings=content["warnings"],
            extra=content["extra"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(str(path), error) from error


def _scene_from_official(name: str, entry: Any, place: str) -> Scene:
    try:
        boxes = entry["object_bbox"] if "object_bbox" in entry else entry["object_bboxes"]
        objects: list[SceneObject] = []
        num_doubled = 0
        for category, items in boxes.items():
            seen = set()
            for item in items:
                key = json.dumps([item["centroid"], item["axesLengths"], item["normalizedAxes"]])
                if key in seen:
                    num_doubled += 1
                    continue
                seen.add(key)
                objects.append(_object_from_dict(category, item, len(objects)))
        room = _SCANNET_SCAN.fullmatch(name)
        return Scene(
            dataset=entry["dataset"],
            scene_name=name,
            room=room[1] if room else name,
            objects=tuple(objects),
            room_size=float(entry["room_size"]),
            room_center=_vector(entry["room_center"], 3),
            object_counts={category: int(count) for category, count in entry["object_counts"].items()},
            warnings={"doubled_boxes": num_doubled} if num_doubled else {},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(place, error) from error


def _broken(place: str, error: Exception) -> DataError:
    what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
    return DataError(f"{place}: {what}", hint="the keys are those of VSI-Bench's meta info: see data/README.md")


def _vector(values: Any, size: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"{values!r}: {size} finite numbers are needed")
    return array


def _box_from_dict(entry: dict[str, Any]) -> Box:
    axes = _vector(entry["normalizedAxes"], 9).reshape(3, 3)
    return Box(_vector(entry["centroid"], 3), _vector(entry["axesLengths"], 3), axes)


def _object_from_dict(category: str, entry: dict[str, Any], instance_id: int) -> SceneObject:
    box = _box_from_dict(entry)
    size_box = _box_from_dict(entry["size_box"]) if entry.get("size_box") else box
    raw_label, num_vertices = entry.get("raw_label", ""), entry.get("num_vertices", 0)
    return SceneObject(int(instance_id), category, box, size_box, raw_label, num_vertices)


def _box_to_dict(box: Box) -> dict[str, Any]:
    return {
        "centroid": [float(x) for x in box.centroid],
        "axesLengths": [float(x) for x in box.axes_lengths],
        "normalizedAxes": [float(x) for x in np.asarray(box.axes).ravel()],
        "min": [float(x) for x in box.min],
        "max": [float(x) for x in box.max],
    }


def _object_to_dict(item: SceneObject) -> dict[str, Any]:
    entry = _box_to_dict(item.box)
    entry.update(instance_id=item.instance_id, raw_label=item.raw_label, num_vertices=item.num_vertices)
    if item.size_box is not item.box:
        entry["size_box"] = _box_to_dict(item.size_box)
    return entry
