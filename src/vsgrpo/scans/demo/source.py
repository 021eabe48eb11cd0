"""The embedded source: procedural furnished rooms written as complete ScanNet-format scan folders.

They are read back by the same reader as real scans: mesh, segments, aggregation, `.txt` with an axis alignment that is
not the identity, and a `.sens` whose pictures come from a ray caster. Nothing is downloaded and everything follows from
(seed, index, preset). Scan ids start with "demo", so that lists of real scans never meet them.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsgrpo.errors import DataError
from vsgrpo.rules import Count, Seed, at_least, choice
from vsgrpo.scans.annotation import LABEL_FILE, annotation_files, write_labels
from vsgrpo.scans.demo.plan import room_index, room_truth, scan_id_of
from vsgrpo.scans.demo.raycast import face_light, floor_tone, render
from vsgrpo.scans.demo.rooms import CATALOGUE, CEILING, PRESETS, Room, camera_matrix, camera_poses
from vsgrpo.scans.ply import ply_bytes
from vsgrpo.scans.scannet import ScannetScan, labels_of, read_scan
from vsgrpo.scans.sens import SensWriter
from vsgrpo.scans.source import Mesh, ScanSource, SourceOptions
from vsgrpo.scans.visibility import MASKS

_VERSION = 4
"""Raise when the same arguments give other files, so that rooms already on disk are written anew."""

_SPACING = 0.14
"""Metres between floor vertices. The alpha shape (alpha 5) keeps triangles of circumradius < 0.2 m; a cell's is 0.1 m,
and a boundary that lost two neighbouring vertices to sampling still keeps its triangles ((.21^2 + .14^2) / .28 = .23
is the first to break, at three)."""
_LABELS = {"wall": 1, "floor": 2} | {name: piece.nyu40id for name, piece in CATALOGUE.items()}
_WALL_ROWS = np.array([0.0, 0.1, 0.13, 1.35, CEILING])


@dataclass(frozen=True)
class DemoOptions(SourceOptions):
    """Rooms to draw; root null: OUT/scans_root."""

    num_scenes: Count
    preset: Annotated[str, choice(*PRESETS)]
    seed: Seed
    num_frames: Count
    frame_size: Annotated[int, at_least(28)]


def write_demo_labels(root: Path) -> None:
    """Write the label table of the demo categories to `root`, which must be new or ours.

    Raises:
        DataError: `root` holds another label table, as a folder of real scans does.
    """
    path = Path(root) / LABEL_FILE
    if path.exists():
        with path.open(encoding="utf-8") as file:
            known = {line.split("\t")[1] for line in file.readlines()[1:] if "\t" in line}
        if not known <= _LABELS.keys():
            raise DataError(
                f"{path}: is the label table of other scans, demo rooms would replace it",
                hint="give demo rooms a folder of their own (source.root)",
            )
    write_labels(root, _LABELS)


def write_room(
    root: Path,
    index: int,
    preset: str = "easy",
    seed: int = 0,
    *,
    num_frames: int = 8,
    height: int = 56,
    width: int = 56,
) -> str:
    """Write one room to `root/scans/<scan id>` unless it is there; return the scan id. Safe to call from a pool."""
    room = room_truth(seed, index, preset)
    folder = Path(root) / "scans" / room.scan_id
    recipe = f"{preset} seed={seed} index={index} frames={num_frames} size={width}x{height} version={_VERSION}"
    info = folder / f"{room.scan_id}.txt"
    if info.exists():
        if f"demoRecipe = {recipe}\n" in info.read_text(encoding="utf-8"):
            return room.scan_id
        info.unlink()  # the writer's sign of a complete folder, which this one stops being
    mesh = room_mesh(room)
    frames = list(_frames(room, num_frames, height, width))
    jpegs, poses, masks, depths = zip(*frames, strict=True)
    write_scan(
        folder,
        Mesh(_to_raw(room, mesh.vertices).astype(np.float32), mesh.colors, mesh.faces),
        mesh.instances,
        axis_alignment=room.alignment,
        info={"demoRecipe": recipe},
        sens_frames=zip(jpegs, poses, strict=True),
        depths=depths,
        masks=masks,
        color_size=(width, height),
        intrinsic_color=camera_matrix(height, width, room.preset.hfov_degrees),
    )
    return room.scan_id


def _to_raw(room: Room, points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Undo the alignment q = R p + t of points (N, 3): p = R^T (q - t)."""
    return (points - room.alignment[:3, 3]) @ room.alignment[:3, :3]


def _frames(
    room: Room, num_frames: int, height: int, width: int
) -> Iterator[tuple[bytes, NDArray[np.float64], bytes, NDArray[np.uint16]]]:
    """Yield (JPEG, camera -> raw pose, PNG of the instances, depth in mm) per frame.

    Few large ones are drawn at a time, to bound memory.
    """
    poses = camera_poses(room, num_frames)
    to_raw = np.linalg.inv(room.alignment)
    batch = max(1, 200_000 // (height * width))
    for first in range(0, num_frames, batch):
        chunk = poses[first : first + batch]
        seen = render(room, chunk, height, width)
        masks = np.where(seen.objects >= 0, seen.objects + 1, 0).astype(np.uint8)
        depths = np.rint(1000 * seen.depth).astype(np.uint16)
        for picture, mask, depth, pose in zip(seen.rgb, masks, depths, chunk, strict=True):
            jpeg, png = io.BytesIO(), io.BytesIO()
            Image.fromarray(picture).save(jpeg, "JPEG", quality=95, subsampling=0)
            Image.fromarray(mask).save(png, "PNG")
            yield jpeg.getvalue(), to_raw @ pose, png.getvalue(), depth


def write_scan(
    folder: Path,
    mesh: Mesh,
    instances: Sequence[tuple[str, NDArray[np.integer]]],
    *,
    axis_alignment: NDArray[np.floating] | None = None,
    info: dict[str, str] | None = None,
    sens_frames: Iterable[tuple[bytes, NDArray[np.floating] | None]] | None = None,
    depths: Sequence[NDArray[np.uint16]] = (),
    masks: Sequence[bytes] = (),
    color_size: tuple[int, int] = (640, 480),
    intrinsic_color: NDArray[np.floating] | None = None,
) -> None:
    """Write one scan folder as ScanNet v2 lays it out; its name is the scan id.

    Each file is written aside and renamed, the `.txt` last: a folder that has its `.txt` is complete.

    Args:
        mesh: in the RAW frame (before `axis_alignment`), z up.
        instances: (label, vertex indices) pairs in objectId order; disjoint. An empty one is written as a group
            whose segment no vertex has.
        axis_alignment: (4, 4) raw -> aligned; None leaves the line out, as the old annotation does.
        info: further lines of the `.txt`.
        sens_frames: (JPEG bytes, (4, 4) pose camera -> RAW world or None where tracking failed).
        depths: per frame the (H, W) depth in mm, as a depth camera of the same place and matrix measures it; empty: the
            recording has no depth.
        masks: per frame an 8-bit PNG whose values are objectId + 1, 0 for none.
        color_size: (width, height) of the JPEGs.
        intrinsic_color: (4, 4) pinhole matrix; needed with `sens_frames`.

    Raises:
        ValueError: two instances share a vertex, or frames come without `intrinsic_color`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / folder.name
    lines = {"sceneType": "Demo", **(info or {})}
    _write(f"{stem}_vh_clean_2.ply", ply_bytes(mesh))
    for suffix, text in annotation_files(folder.name, len(mesh.vertices), instances).items():
        _write(f"{stem}{suffix}", text.encode())
    if sens_frames is not None:
        if intrinsic_color is None:
            raise ValueError("sens_frames need intrinsic_color")
        depth_size, intrinsic_depth = (0, 0), None
        if depths:
            depth_size = (depths[0].shape[1], depths[0].shape[0])
            intrinsic_depth = np.array(intrinsic_color, dtype=np.float64)
            intrinsic_depth[:2, 2] -= 0.5  # pixel centres of depth images are integers
        with SensWriter(Path(f"{stem}.sens"), color_size, intrinsic_color, depth_size, intrinsic_depth) as writer:
            for number, (jpeg, pose) in enumerate(sens_frames):
                writer.add(jpeg, pose, depths[number] if depths else None)
        lines |= {"colorWidth": str(color_size[0]), "colorHeight": str(color_size[1])}
        lines["numColorFrames"] = str(writer.num_frames)
        for key, place in {"fx": (0, 0), "fy": (1, 1), "mx": (0, 2), "my": (1, 2)}.items():
            lines[f"{key}_color"] = str(float(intrinsic_color[place]))
    if masks:
        _write(f"{stem}{MASKS}", _zipped({f"instance-filt/{k}.png": png for k, png in enumerate(masks)}))
    if axis_alignment is not None:
        numbers = np.asarray(axis_alignment, dtype=np.float64).reshape(16).tolist()
        lines["axisAlignment"] = " ".join(repr(number) for number in numbers)
    _write(f"{stem}.txt", "".join(f"{key} = {value}\n" for key, value in sorted(lines.items())).encode())


def _write(path: str, content: bytes) -> None:
    part = Path(path + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def _zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without the moment
    return content.getvalue()


# --- the mesh of a room ---


@dataclass
class RoomMesh(Mesh):
    """Mesh in the aligned frame, in float64; faces are counter-clockwise from the visible side.

    Attributes:
        instances: (label, vertex indices) pairs: the room's objects in order, then "floor" and one "wall" per side.
    """

    instances: list[tuple[str, NDArray[np.int64]]]


def room_mesh(room: Room) -> RoomMesh:
    """Build the mesh: 24 vertices per furniture part (flat colours), a floor grid, walls as columns of vertices.

    There is no ceiling: real scans seldom have one.
    """
    pieces = [_part_piece(room), _floor_piece(room)]
    labels = ["floor"]
    polygon = room.polygon
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        pieces.append(_wall_piece(room, start, end))
        labels.append("wall")
    sizes = np.array([len(piece[0]) for piece in pieces])
    starts = np.cumsum(sizes) - sizes
    vertices, colors, faces = (np.concatenate(column) for column in zip(*pieces, strict=True))
    faces += np.repeat(starts, [len(piece[2]) for piece in pieces])[:, None]
    owner = np.repeat(room.parts.owner, 24)
    instances = [(item.category, np.flatnonzero(owner == number)) for number, item in enumerate(room.objects)]
    for label, start, size in zip(labels, starts[1:], sizes[1:], strict=True):
        instances.append((label, np.arange(start, start + size)))
    colors = np.clip(colors + 0.5, 0, 255).astype(np.uint8)
    return RoomMesh(vertices, colors, faces.astype(np.int32), instances)


_Piece = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""vertices (N, 3), colours (N, 3), faces (F, 3) counted from the piece's own first vertex."""


_SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))
# The 24 vertices of a box with flat colours, counted in half edges; the face of each (see `raycast.face_light`); and
# the triangles, counter-clockwise from outside.
_BOX_SIGNS = np.array([np.roll([1 - 2 * (face % 2), a, b], face // 2) for face in range(6) for a, b in _SQUARE], float)
_BOX_FACES = np.repeat(np.arange(6, dtype=np.int8), 4)
_WINDINGS = np.array([[[0, 1, 2], [0, 2, 3]], [[0, 3, 2], [0, 2, 1]]])
_BOX_TRIANGLES = np.concatenate([4 * face + _WINDINGS[face % 2] for face in range(6)])


def _part_piece(room: Room) -> _Piece:
    parts = room.parts
    light = face_light(_BOX_FACES, parts.yaw[:, None].astype(np.float32))
    colors = parts.rgb[:, None] * light[..., None]
    faces = _BOX_TRIANGLES + 24 * np.arange(len(parts.yaw))[:, None, None]
    return parts.points(_BOX_SIGNS).reshape(-1, 3), colors.reshape(-1, 3).astype(np.float64), faces.reshape(-1, 3)


def _divide(*stops: float) -> NDArray[np.float64]:
    """Return all stops and points between them at most `_SPACING` apart."""
    pieces = [np.linspace(low, high, int(np.ceil((high - low) / _SPACING)) + 1)[:-1] for low, high in pairwise(stops)]
    return np.concatenate([*pieces, [stops[-1]]])


def _grid_faces(num_columns: int, num_rows: int) -> NDArray[np.int64]:
    """Return the triangles (2 per cell, 3) of a grid whose vertex (i, j) has number i * num_rows + j; i x j is up."""
    i, j = np.meshgrid(np.arange(num_columns - 1), np.arange(num_rows - 1), indexing="ij")
    a = (i * num_rows + j).ravel()
    b, c, d = a + num_rows, a + num_rows + 1, a + 1
    return np.stack([a, b, c, a, c, d], axis=1).reshape(-1, 3)


def _floor_piece(room: Room) -> _Piece:
    polygon = room.polygon
    x, y = (_divide(*np.unique(polygon[:, axis])) for axis in (0, 1))
    xy = np.stack(np.meshgrid(x, y, indexing="ij"), axis=2).reshape(-1, 2)
    faces = _grid_faces(len(x), len(y))
    if room.notch is not None:
        x0, y0, x1, y1 = room.notch
        middle = xy[faces].mean(axis=1)
        faces = faces[~((middle > (x0, y0)) & (middle < (x1, y1))).all(axis=1)]
        used, faces = np.unique(faces, return_inverse=True)
        xy, faces = xy[used], faces.reshape(-1, 3)
    colors = room.floor_rgb * floor_tone(room, xy, _SPACING)[:, None]
    return np.column_stack([xy, np.zeros(len(xy))]), colors.astype(np.float64), faces


def _wall_piece(room: Room, start: NDArray[np.float64], end: NDArray[np.float64]) -> _Piece:
    """Return one wall; the room lies to the left of `start` -> `end`."""
    along = end - start
    length = float(np.abs(along).sum())
    # From the end to the start, so that column x row is the inward normal.
    xy = end - along * (_divide(0.0, length) / length)[:, None]
    num_rows = len(_WALL_ROWS)
    vertices = np.column_stack([np.repeat(xy, num_rows, axis=0), np.tile(_WALL_ROWS, len(xy))])
    inward = np.array([-along[1], along[0]])
    axis = np.argmax(np.abs(inward), keepdims=True)
    light = face_light((2 * axis + (inward[axis] < 0)).astype(np.int8), np.zeros(1, dtype=np.float32))
    tone = np.where(_WALL_ROWS <= 0.1, 0.6, 1.0)
    colors = room.wall_rgb * (light * np.tile(tone, len(xy)))[:, None]
    return vertices, colors.astype(np.float64), _grid_faces(len(xy), num_rows)


# --- the source ---


def _list(options: DemoOptions, root: Path) -> list[str]:
    write_demo_labels(root)
    return [scan_id_of(options.seed, index) for index in range(options.num_scenes)]


def _read(options: DemoOptions, root: Path, scan_id: str) -> ScannetScan:
    size = {"num_frames": options.num_frames, "height": options.frame_size, "width": options.frame_size}
    write_room(root, room_index(scan_id), options.preset, options.seed, **size)
    return read_scan(root, scan_id, labels_of(root), dataset="demo")


DEMO = ScanSource(
    name="demo",
    options=DemoOptions,
    list_scans=_list,
    read=_read,
    files=lambda root, scan_id: [root / "scans" / scan_id],
    complete=None,
)
