"""Scenes on disk: VSI-Bench's official meta info (read) and our `scenes/<dataset>/<scene>.json` (read and write).

Both carry `{dataset, scene_name, video_path, room_size, room_center, object_counts, object_bbox: {category: [{centroid,
axesLengths, normalizedAxes, min, max}]}}`, metres, z up; row i of normalizedAxes is the unit axis of axesLengths[i].
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.records import read_json
from vsgrpo.spatial.scene import Box, Footage, Scene, SceneObject

SCHEMA_VERSION = 1
_AGAIN = "copy or build the file again"
_BOX_KEYS = {"centroid": 3, "axesLengths": 3, "normalizedAxes": 9}
"""Key of a box -> its numbers, in the order of the fields of `Box`."""
_SCANNET_SCAN = re.compile(r"(scene\d{4})_\d{2}")


def read_meta_info(path: Path) -> list[Scene]:
    """Read one of VSI-Bench's `*_meta_info*.json` files, `{scene_name: {...}}`, in its order.

    Boxes listed twice (the official `printer`) are taken once; `object_counts` is kept as it is, hand-edited
    entries included. Instances get running ids.

    Raises:
        DataError: unreadable file, or an entry that lacks a key or holds a wrong value.
    """
    path = Path(path)
    content = read_json(path, _AGAIN, nan="keep")
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: no scenes in it", hint="the file is VSI-Bench's <dataset>_meta_info.json")
    return [_scene_from_official(name, entry, f"{path}: {name}") for name, entry in content.items()]


def write_scene_json(scene: Scene, path: Path) -> None:
    """Write one scene for `read_scene_json`, whole or not at all (temporary name, then rename).

    With what its video shows and from where, so that questions can be made again without the scan; but for `reach`.
    """
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
        "room_center": _floats(scene.room_center),
        "object_counts": scene.object_counts,
        "object_bbox": boxes,
        "pixels": None if scene.pixels is None else dict(sorted(scene.pixels.items())),
        "footage": None if scene.footage is None else _footage_to_dict(scene.footage),
        "warnings": scene.warnings,
        "extra": scene.extra,
    }
    write_atomic(path, json.dumps(content, allow_nan=False))


def read_scene_json(path: Path) -> Scene:
    """Read what `write_scene_json` wrote; floats come back bit for bit, objects in order of instance id.

    Raises:
        DataError: unreadable file, another schema version, a missing key or a wrong value.
    """
    path = Path(path)
    content = read_json(path, _AGAIN, nan="keep")
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
        pixels, footage = content["pixels"], content.get("footage")  # scenes of earlier versions lack the second
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
            footage=None if footage is None else _footage_from_dict(footage),
        )
    except _FAULTS as error:
        raise _broken(str(path), error) from error


_FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Of a JSON value in another form; the last: Infinity, or hundreds of digits, where a number is needed."""


def _scene_from_official(name: str, entry: Any, place: str) -> Scene:
    try:
        boxes = entry["object_bbox"] if "object_bbox" in entry else entry["object_bboxes"]
        listed = [(category, item) for category, items in boxes.items() for item in items]
        unique = {
            json.dumps([category, *(item[key] for key in _BOX_KEYS)]): (category, item) for category, item in listed
        }
        num_doubled = len(listed) - len(unique)
        room = _SCANNET_SCAN.fullmatch(name)
        return Scene(
            dataset=entry["dataset"],
            scene_name=name,
            room=room[1] if room else name,
            objects=tuple(_object_from_dict(*item, number) for number, item in enumerate(unique.values())),
            room_size=float(_vector([entry["room_size"]], 1)[0]),
            room_center=_vector(entry["room_center"], 3),
            object_counts={category: int(count) for category, count in entry["object_counts"].items()},
            warnings={"doubled_boxes": num_doubled} if num_doubled else {},
        )
    except _FAULTS as error:
        raise _broken(place, error) from error


def _broken(place: str, error: Exception) -> DataError:
    what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
    return DataError(f"{place}: {what}", hint="the keys are those of VSI-Bench's meta info: see data/README.md")


def _floats(values: NDArray[np.float64]) -> list[float]:
    return np.asarray(values, dtype=np.float64).ravel().tolist()


def _vector(values: Any, size: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"{values!r}: {size} finite numbers are needed")
    return array


def _box_from_dict(entry: dict[str, Any]) -> Box:
    centroid, axes_lengths, axes = (_vector(entry[key], size) for key, size in _BOX_KEYS.items())
    return Box(centroid, axes_lengths, axes.reshape(3, 3))


def _object_from_dict(category: str, entry: dict[str, Any], instance_id: int) -> SceneObject:
    box = _box_from_dict(entry)
    size_box = _box_from_dict(entry["size_box"]) if entry.get("size_box") else box
    raw_label, num_vertices = entry.get("raw_label", ""), entry.get("num_vertices", 0)
    return SceneObject(int(instance_id), category, box, size_box, raw_label, num_vertices)


def _box_to_dict(box: Box) -> dict[str, Any]:
    values = (box.centroid, box.axes_lengths, box.axes, box.min, box.max)
    return {key: _floats(value) for key, value in zip((*_BOX_KEYS, "min", "max"), values, strict=True)}


def _object_to_dict(item: SceneObject) -> dict[str, Any]:
    entry = _box_to_dict(item.box)
    entry.update(instance_id=item.instance_id, raw_label=item.raw_label, num_vertices=item.num_vertices)
    if item.size_box is not item.box:
        entry["size_box"] = _box_to_dict(item.size_box)
    return entry


def _footage_to_dict(footage: Footage) -> dict[str, Any]:
    poses = None if footage.poses is None else footage.poses.reshape(-1, 16).tolist()
    return {
        "times": footage.times,
        "shown": footage.shown,
        "frame_pixels": footage.frame_pixels,
        "pixels": dict(sorted(footage.pixels.items())),
        "budgets": footage.budgets,
        "areas": footage.areas,
        "poses": None if poses is None else [pose if np.isfinite(pose).all() else None for pose in poses],
        "frames_shown": footage.frames_shown,
        "numbers": footage.numbers,
        "has_clock": footage.has_clock,
    }


def _footage_from_dict(entry: dict[str, Any]) -> Footage:
    poses = entry["poses"]
    if poses is not None:
        known = [np.full(16, np.nan) if pose is None else _vector(pose, 16) for pose in poses]
        poses = np.array(known, dtype=np.float64).reshape(-1, 4, 4)
    return Footage(
        times=tuple(float(time) for time in entry["times"]),
        shown=tuple(int(place) for place in entry["shown"]),
        frame_pixels=int(entry["frame_pixels"]),
        pixels={int(key): tuple(row) for key, row in entry["pixels"].items()},
        budgets={int(key): tuple(row) for key, row in entry["budgets"].items()},
        areas={int(key): float(share) for key, share in entry["areas"].items()},
        poses=poses,
        frames_shown=int(entry["frames_shown"]),
        numbers=tuple(int(number) for number in entry["numbers"]),
        has_clock=bool(entry["has_clock"]),
    )
