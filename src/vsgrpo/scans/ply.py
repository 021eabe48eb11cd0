"""Coloured triangle meshes as PLY: a numpy reader for any property order, and a writer of ScanNet's layout.

Vertex order is kept as it is in the file: segIndices refer to it, so nothing may merge or drop vertices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vsgrpo.scans.source import Mesh, broken, read_bytes
from vsgrpo.terminal import counted

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_FACE_LISTS = ("vertex_indices", "vertex_index")
_MAX_HEADER = 1 << 16
_MAX_METRES = 1000.0

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgba", "u1", 4)])
_FACE = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])

_HEADER = """ply
format binary_little_endian 1.0
element vertex {num_vertices}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property uchar alpha
element face {num_faces}
property list uchar int vertex_indices
end_header
"""


class _Property(NamedTuple):
    name: str
    type: str  # numpy code without byte order, of the items where it is a list
    count_type: str | None  # of the length of a list, else None


class _Element(NamedTuple):
    name: str
    count: int
    properties: list[_Property]


def read_ply(path: Path) -> Mesh:
    """Read a binary or ascii PLY with coloured vertices; polygons are cut into triangle fans.

    Raises:
        DataError: not a PLY, truncated, without x y z or red green blue, with coordinates that are not finite or
            beyond 1 km, or with faces that name vertices the file does not have.
    """
    content = read_bytes(path)
    byte_order, elements, offset = _parse_header(path, content)
    reader = _BinaryReader(path, content, offset, byte_order)
    vertices = colors = None
    faces = np.zeros((0, 3), dtype=np.int32)
    lines = content[offset:].split(b"\n") if not byte_order else []
    for element in elements:
        if not byte_order:
            block, lines = lines[: element.count], lines[element.count :]
            columns = _ascii_columns(path, element, block)
        else:
            columns = reader.columns(element)
        if element.name == "vertex":
            vertices, colors = _vertex_arrays(path, columns)
        elif element.name == "face":
            faces = next((columns[name] for name in _FACE_LISTS if name in columns), faces)
    if vertices is None or colors is None:
        raise broken(path, "has no vertex element")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        bad = int(np.flatnonzero(((faces < 0) | (faces >= len(vertices))).any(axis=1))[0])
        raise broken(path, f"triangle {bad} names vertices {faces[bad].tolist()} of {len(vertices)}")
    return Mesh(vertices, colors, faces)


def ply_bytes(mesh: Mesh) -> bytes:
    """Return a binary little-endian PLY with ScanNet's layout (rgba colours, triangles)."""
    vertex_block = np.empty(len(mesh.vertices), dtype=_VERTEX)
    vertex_block["xyz"] = mesh.vertices
    vertex_block["rgba"][:, :3] = mesh.colors
    vertex_block["rgba"][:, 3] = 255
    face_block = np.empty(len(mesh.faces), dtype=_FACE)
    face_block["count"] = 3
    face_block["vertices"] = mesh.faces
    header = _HEADER.format(num_vertices=len(mesh.vertices), num_faces=len(mesh.faces)).encode()
    return header + vertex_block.tobytes() + face_block.tobytes()


def _parse_header(path: Path, content: bytes) -> tuple[str, list[_Element], int]:
    """Return byte order ("" for ascii), elements in file order and the offset of the first data byte."""
    if not content.startswith(b"ply"):
        raise broken(path, f"starts with {content[:8]!r}, not with 'ply'")
    end = content.find(b"end_header", 0, _MAX_HEADER)
    line_end = content.find(b"\n", end, _MAX_HEADER + 16)
    if end < 0 or line_end < 0:
        raise broken(path, "the PLY header has no end (truncated file?)")
    byte_order = None
    elements: list[_Element] = []
    for number, line in enumerate(content[:end].decode("latin-1").splitlines(), start=1):
        words = line.split()
        try:
            if not words or words[0] in ("ply", "comment", "obj_info"):
                continue
            if words[0] == "format":
                byte_order = _ORDERS[words[1]]
            elif words[0] == "element":
                elements.append(_Element(words[1], _count(words[2]), []))
            elif words[0] == "property" and words[1] == "list":
                _add(elements[-1], _Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                _add(elements[-1], _Property(words[2], _TYPES[words[1]], None))
            else:
                raise KeyError(words[0])
        except (IndexError, KeyError, ValueError):
            raise broken(path, f"PLY header line {number} is broken: {line!r}") from None
    if byte_order is None:
        raise broken(path, "the PLY header has no format line")
    return byte_order, elements, line_end + 1


def _count(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        raise ValueError(word)
    return int(word)


def _add(element: _Element, item: _Property) -> None:
    """Add a property; ValueError for a second one of a name, and for lists whose length is no whole number."""
    if item.name in [known.name for known in element.properties] or (item.count_type or "")[:1] == "f":
        raise ValueError(item)
    element.properties.append(item)


@dataclass
class _BinaryReader:
    """The data behind a binary header, read from `offset` on."""

    path: Path
    content: bytes
    offset: int
    byte_order: str

    def columns(self, element: _Element) -> dict[str, NDArray]:
        """Read an element at once where each of its lists has three items, else entry by entry (slow)."""
        fields: list[tuple] = []
        for number, p in enumerate(element.properties):
            if p.count_type:
                fields.append((f"#{number}", self.byte_order + p.count_type))
            fields.append((f"p{number}", self.byte_order + p.type, *([3] if p.count_type else [])))
        dtype, start = np.dtype(fields), self.offset
        counts = [name for name, *_ in fields if name.startswith("#")]
        if counts and start + dtype.itemsize * element.count > len(self.content):
            return self._walk(element)
        block = self._take(dtype, element.count, element)
        if not all((block[name] == 3).all() for name in counts):
            self.offset = start
            return self._walk(element)
        columns = {p.name: block[f"p{number}"] for number, p in enumerate(element.properties)}
        return {p.name: _triangles(columns[p.name]) if p.count_type else columns[p.name] for p in element.properties}

    def _walk(self, element: _Element) -> dict[str, NDArray]:
        values: dict[str, list[NDArray]] = {p.name: [] for p in element.properties}
        for _ in range(element.count):
            for p in element.properties:
                length = 1
                if p.count_type:
                    length = int(self._take(np.dtype(self.byte_order + p.count_type), 1, element)[0])
                values[p.name].append(self._take(np.dtype(self.byte_order + p.type), length, element))
        return {
            p.name: _fans(values[p.name]) if p.count_type else np.concatenate(values[p.name])
            for p in element.properties
        }

    def _take(self, dtype: np.dtype, number: int, element: _Element) -> NDArray:
        end, size = self.offset + dtype.itemsize * number, len(self.content)
        if number < 0 or end > size:
            what = f"{element.count} entries of element {element.name} need {end} bytes, the file has {size}"
            raise broken(self.path, f"truncated: {what}")
        items = np.empty(0, dtype)
        if end > self.offset:
            items = np.frombuffer(self.content, dtype=dtype, count=number, offset=self.offset)
        self.offset = end
        return items


def _ascii_columns(path: Path, element: _Element, lines: list[bytes]) -> dict[str, NDArray]:
    if len(lines) < element.count:
        raise broken(path, f"truncated: element {element.name} has {len(lines)} of {counted(element.count, 'line')}")
    values: dict[str, list[Any]] = {p.name: [] for p in element.properties}
    for number, line in enumerate(lines):
        words = iter(line.split())
        try:
            for p in element.properties:
                if p.count_type:
                    length = _count(next(words).decode("ascii"))
                    values[p.name].append(np.array([int(next(words)) for _ in range(length)], dtype=np.int64))
                else:
                    values[p.name].append(float(next(words)))
        except (StopIteration, ValueError, OverflowError):
            what = f"entry {number} of element {element.name} is broken: {line[:60]!r}"
            raise broken(path, what) from None
    return {
        p.name: _fans(values[p.name]) if p.count_type else _cast_ascii(path, p, values[p.name])
        for p in element.properties
    }


def _cast_ascii(path: Path, item: _Property, numbers: list[float]) -> NDArray:
    """Return the column with the header's type; a number the type cannot hold is an error, not a wrap-around."""
    column = np.array(numbers, dtype=np.float64)
    if item.type[0] != "f":
        limits = np.iinfo(item.type)
        if not ((column >= limits.min) & (column <= limits.max) & (column == np.rint(column))).all():
            raise broken(path, f"property {item.name} is no whole number within its type")
        return column.astype(item.type)
    with np.errstate(over="ignore"):
        return column.astype(item.type)


def _triangles(indices: NDArray) -> NDArray[np.int32]:
    """Return (F, 3) int32; what is no int32 (too large, 0.9) becomes -1, which the range check refuses."""
    if indices.dtype.kind in "iu" and (indices.dtype.itemsize < 4 or indices.dtype == np.dtype("<i4")):
        return np.ascontiguousarray(indices, dtype=np.int32)
    fits = (indices >= 0) & (indices <= np.iinfo(np.int32).max) & (indices == np.rint(indices))
    return np.where(fits, indices, -1).astype(np.int32)


def _fans(polygons: list[NDArray]) -> NDArray[np.int32]:
    """Cut polygons into triangles around their first corner; those with fewer than three corners vanish."""
    triangles = [(polygon[0], polygon[i], polygon[i + 1]) for polygon in polygons for i in range(1, len(polygon) - 1)]
    return _triangles(np.array(triangles, dtype=np.float64).reshape(-1, 3))


def _vertex_arrays(path: Path, columns: dict[str, NDArray]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    for names in (("x", "y", "z"), ("red", "green", "blue")):
        if any(name not in columns or columns[name].ndim != 1 for name in names):
            hint = "use the <scan>_vh_clean_2.ply of ScanNet, which carries coordinates and colours"
            raise broken(path, f"its vertices have no {' '.join(names)}", hint)
    if any(columns[name].dtype != np.uint8 for name in ("red", "green", "blue")):
        raise broken(path, "its colours are not uchar", "write red, green and blue as uchar 0-255")
    with np.errstate(over="ignore"):  # a damaged double becomes inf here and is refused below
        vertices = np.stack([columns[name] for name in ("x", "y", "z")], axis=1).astype(np.float32)
    if not len(vertices):
        raise broken(path, "has no vertices")
    good = (np.abs(vertices) <= _MAX_METRES).all(axis=1)  # False for NaN too
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        what = f"vertex {bad} is at {vertices[bad].tolist()}: must be finite and within {_MAX_METRES:.0f} m"
        raise broken(path, what, "the file is damaged, or its unit is not the metre")
    return vertices, np.stack([columns[name] for name in ("red", "green", "blue")], axis=1)
