"""The scene and data set of a record: by the scan ids that any of its fields names, which must agree.

A ScanNet scan, a video of ARKitScenes or a scene of ScanNet++ counts wherever it is named: in a column, in the path of
a video, in that of any frame. Other data sets' scenes are named by a column, the video, or the folder of the frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.dataset_folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vsgrpo.data.importing.record_forms import Form
from vsgrpo.data.room_ids import dataset_named, dataset_of_path, room_of, rooms_in

SEVERAL_SCANS = "its scene and paths name several scans"
_NO_SCENE = "no scene and no video named"
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_SCANNET = re.compile(r"scene\d{4}_\d{2}(?!\d)", re.IGNORECASE)
_ARKIT_VIDEO = re.compile(r"(?<!\d)4[0-8]\d{6}(?!\d)")
"""A video of ARKitScenes, where the data set is named; not every one is in the publisher's table of visits."""
_SCANNET_ROOM = re.compile(r"scene\d{4}", re.IGNORECASE)
_OTHER_SCENE = re.compile(r"(?:^|/)(scene_?\d+\w*|ai_\d{3}_\d{3})(?=[/._]|$)", re.IGNORECASE)
"""Scenes of Structured3D and Hypersim, wherever they are in a path."""
_OTHER_SETS = ("hypersim", "structured3d", "adt", "procthor", "robotics", "s3dis", "ytb_roomtour", "3rscan")
_OTHER_SETS += ("multiscan", "matterport3d", "dl3dv")
"""Folders that name the data set of a path: those of VSI-590K, SPAR-7M, ReVSI and Holi-Spatial."""
_NO_NAME = re.compile(
    r"\d*|\.+|(?:all_|resized_|posed_|undistorted_)?(?:images?|frames?|colou?r|rgb|pictures|jpe?g|png)(?:_\w+)?|iphone|dslr"
    r"|lowres_wide|wide|vga_wide|perspective|full|2d_rendering",
    re.IGNORECASE,
)
"""Names of folders that say what is in them, not which scene."""
_NUMBERED = re.compile(r"(?:frame|image|img|dsc|rgb|colou?r|view)?[_-]?\d+(?:[_-]\d+)*", re.IGNORECASE)
"""Names of pictures that only count them."""


@dataclass(frozen=True)
class Scene:
    """What a record shows.

    Attributes:
        name: the scan, or what stands for it.
        dataset: where it is from.
        is_named: a column or a scan id says so; otherwise it is the name of the file or folder.
    """

    name: str
    dataset: str
    is_named: bool


def scene_of(form: Form, column: Any, default: str) -> Scene:
    """Return the scene of a record.

    Args:
        column: what a column says of its data set.
        default: the data set where neither a scan id, a column nor a path names one.

    Raises:
        Refused: no scene, or several.
    """
    texts = (*form.scenes, *form.paths)
    dataset = dataset_of(column, (*form.paths, *form.scenes), default)
    if (scan := _one_scan(texts, dataset)) is not None:
        return Scene(scan[1], scan[0], True)
    if form.scene:
        return Scene(_stem(form.scene), dataset, True)
    name = _stem(form.video) if form.video else _name_of_frames(form.frames)
    if not name:
        raise Refused(_NO_SCENE, ", ".join(form.paths[:2])[:120])
    return Scene(name, dataset, False)


def dataset_of(given: Any, paths: Iterable[str], default: str) -> str:
    """Return the data set: one of our three where the column or a path names it, else the path's or the column's."""
    column, paths = given.strip() if isinstance(given, str) else "", tuple(paths)
    named = (dataset_named(column), *map(dataset_of_path, paths))
    if (ours := next(filter(None, named), None)) is not None:
        return ours
    folders = (part.lower() for path in paths for part in path.replace("\\", "/").split("/")[:-1])
    return next((folder for folder in folders if folder in _OTHER_SETS), column or default)


def _one_scan(texts: Sequence[str], dataset: str) -> tuple[str, str] | None:
    """Return (data set, scan) that some texts name, None where none does.

    Raises:
        Refused: they name several.
    """
    scans = {("scannet", scan.lower()): None for text in texts for scan in _SCANNET.findall(text)}
    rooms = {text.lower() for text in texts if _SCANNET_ROOM.fullmatch(text)}
    is_told = bool(scans)  # then "0012_34" is a frame, else it may be a scan
    for item in (item for text in texts for item in rooms_in(text, dataset=dataset)):
        if item.dataset == "scannet" and item.scene == item.room:
            rooms.add(item.room)
        elif not (item.dataset == "scannet" and is_told) and not (
            item.dataset == "arkitscenes" and len(item.scene) != 8
        ):
            scans[item.dataset, item.scene] = None
    if dataset == "arkitscenes":
        scans |= {(dataset, video): None for text in texts for video in _ARKIT_VIDEO.findall(text)}
    if len(scans) > 1:  # ten digits may be a scene of ScanNet++, or a number of a frame
        scans = {scan: None for scan in scans if not (scan[0] == "scannetpp" and scan[1].isdigit())} or scans
    shown = {room_of(scan) for name, scan in scans if name == "scannet"}
    if len(scans) > 1 or (shown and rooms - shown):
        raise Refused(SEVERAL_SCANS, ", ".join([*(scan for _, scan in scans), *sorted(rooms - shown)])[:120])
    return next(iter(scans), None)


def _name_of_frames(paths: Sequence[str]) -> str:
    """Return the scene of frames that name no scan, "" for none: a folder they share, or the name of a single image."""
    plain = [path.replace("\\", "/") for path in paths]
    named = [match[1].lower() for path in plain if (match := _OTHER_SCENE.search(path))]
    if named:
        return named[0] if len(named) == len(plain) and len(set(named)) == 1 else ""
    split = [[part for part in path.split("/") if part not in ("", ".", "..")] for path in plain]
    if not split or len({tuple(parts[:-1]) for parts in split}) != 1:
        return ""
    folders, stem = split[0][:-1], _stem(split[0][-1])
    is_single = len(split) == 1 and bool(folders)
    if is_single and not _NUMBERED.fullmatch(stem):
        return stem  # hypersim/office_3.jpg
    own = (part for part in reversed(folders) if not _NO_NAME.fullmatch(part) and part.lower() not in _OTHER_SETS)
    is_listed = any(part.lower() in _OTHER_SETS for part in folders)
    return next(own, stem if is_single and is_listed else "")


def _stem(text: str) -> str:
    """Return the last name of a path without the suffix of a video or image; other dots are part of the name."""
    name = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _SUFFIXES else name
