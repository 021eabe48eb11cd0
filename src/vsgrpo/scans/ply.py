"""Coloured triangle meshes as PLY: a numpy reader for any property order, and a writer of ScanNet's layout.

Vertex order is kept as it is in the file: segIndices refer to it, so nothing may merge or drop vertices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsgrpo.errors import DataError
from vsgrpo.scans.source import DOWNLOAD_AGAIN, Mesh, read_bytes

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_FACE_LISTS = ("vertex_indices", "vertex_index")
_MAX_HEADER = 1 << 16
_MAX_METRES = 1000.0

VERTEX_DTYPE = np.dtype([("xyz", "<f4", 3), ("rgba", "u1", 4)])
FACE_DTYPE = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])

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


@dataclass(frozen=True)
class _Property:
    name: str
    type: str  # numpy code without byte order, of the items where it is a list
    count_type: str | None  # of the length of a list, else None


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[_Property, ...]


def read_ply(path: Path) -> Mesh:
    """Read a binary or ascii PLY with coloured vertices; polygons are cut into triangle fans.

    Raises:
        DataError: not a PLY, truncated, without x y z or red green blue, with coordinates that are not finite or
            beyond 1 km, or with faces that name vertices the file does not have.
    """
    content = read_bytes(path)
    byte_order, elements, offset = _parse_header(path, content)
    vertices = colors = None
    faces = np.zeros((0, 3), dtype=np.int32)
    lines = content[offset:].split(b"\n") if not byte_order else []
    for element in elements:
        if not byte_order:
            block, lines = lines[: element.count], lines[element.count :]
            columns = _ascii_columns(path, element, block)
        elif any(p.count_type for p in element.properties):
            columns, offset = _list_columns(path, content, offset, element, byte_order)
        else:
            columns, offset = _packed_columns(path, content, offset, element, byte_order)
        if element.name == "vertex":
            vertices, colors = _vertex_arrays(path, columns)
        elif element.name == "face":
            faces = next((columns[name] for name in _FACE_LISTS if name in columns), faces)
    if vertices is None or colors is None:
        raise DataError(f"{path}: has no vertex element", hint=DOWNLOAD_AGAIN)
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        bad = int(np.flatnonzero(((faces < 0) | (faces >= len(vertices))).any(axis=1))[0])
        raise DataError(
            f"{path}: triangle {bad} names vertices {faces[bad].tolist()} of {len(vertices)}", hint=DOWNLOAD_AGAIN
        )
    return Mesh(vertices, colors, faces)


def ply_bytes(mesh: Mesh) -> bytes:
    """Return a binary little-endian PLY with ScanNet's layout (rgba colours, triangles)."""
    vertex_block = np.empty(len(mesh.vertices), dtype=VERTEX_DTYPE)
    vertex_block["xyz"] = mesh.vertices
    vertex_block["rgba"][:, :3] = mesh.colors
    vertex_block["rgba"][:, 3] = 255
    face_block = np.empty(len(mesh.faces), dtype=FACE_DTYPE)
    face_block["count"] = 3
    face_block["vertices"] = mesh.faces
    header = _HEADER.format(num_vertices=len(mesh.vertices), num_faces=len(mesh.faces)).encode()
    return header + vertex_block.tobytes() + face_block.tobytes()


def _parse_header(path: Path, content: bytes) -> tuple[str, list[_Element], int]:
    """Return byte order ("" for ascii), elements in file order and the offset of the first data byte."""
    if not content.startswith(b"ply"):
        raise DataError(f"{path}: starts with {content[:8]!r}, not with 'ply'", hint=DOWNLOAD_AGAIN)
    end = content.find(b"end_header", 0, _MAX_HEADER)
    line_end = content.find(b"\n", end, _MAX_HEADER + 16)
    if end < 0 or line_end < 0:
        raise DataError(f"{path}: the PLY header has no end (truncated file?)", hint=DOWNLOAD_AGAIN)
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
                elements.append(_Element(words[1], _count(words[2]), ()))
            elif words[0] == "property" and words[1] == "list":
                _append(elements, _Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                _append(elements, _Property(words[2], _TYPES[words[1]], None))
            else:
                raise KeyError(words[0])
        except (IndexError, KeyError, ValueError):
            raise DataError(f"{path}: PLY header line {number} is broken: {line!r}", hint=DOWNLOAD_AGAIN) from None
    if byte_order is None:
        raise DataError(f"{path}: the PLY header has no format line", hint=DOWNLOAD_AGAIN)
    return byte_order, elements, line_end + 1


def _count(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        raise ValueError(word)
    return int(word)


def _append(elements: list[_Element], item: _Property) -> None:
    last = elements[-1]
    if any(item.name == known.name for known in last.properties):
        raise ValueError(item.name)
    if item.count_type and item.count_type[0] == "f":
        raise ValueError(item.count_type)
    elements[-1] = _Element(last.name, last.count, (*last.properties, item))


def _truncated(path: Path, element: _Element, needed: int, size: int) -> DataError:
    what = f"truncated: {element.count} entries of element {element.name} need {needed} bytes, the file has {size}"
    return DataError(f"{path}: {what}", hint=DOWNLOAD_AGAIN)


def _packed_columns(
    path: Path, content: bytes, offset: int, element: _Element, byte_order: str
) -> tuple[dict[str, NDArray], int]:
    dtype = np.dtype([(p.name, byte_order + p.type) for p in element.properties])
    if not dtype.itemsize or not element.count:
        return {p.name: np.empty(0, dtype=p.type) for p in element.properties}, offset
    end = offset + dtype.itemsize * element.count
    if end > len(content):
        raise _truncated(path, element, end, len(content))
    block = np.frombuffer(content, dtype=dtype, count=element.count, offset=offset)
    return {p.name: block[p.name] for p in element.properties}, end


def _list_columns(
    path: Path, content: bytes, offset: int, element: _Element, byte_order: str
) -> tuple[dict[str, NDArray], int]:
    """Read an element with lists: at once where every list has three items, else entry by entry (slow)."""
    fields: list[tuple] = []
    for number, p in enumerate(element.properties):
        if p.count_type:
            fields.append((f"#{number}", byte_order + p.count_type))
        fields.append((f"p{number}", byte_order + p.type, 3 if p.count_type else 1))
    dtype = np.dtype(fields)
    end = offset + dtype.itemsize * element.count
    if element.count and end <= len(content):
        block = np.frombuffer(content, dtype=dtype, count=element.count, offset=offset)
        if all((block[name] == 3).all() for name in dtype.names or () if name.startswith("#")):
            items = enumerate(element.properties)
            return {p.name: _triangles(block[f"p{n}"]) for n, p in items if p.count_type}, end
    return _walk_lists(path, content, offset, element, byte_order)


def _walk_lists(
    path: Path, content: bytes, offset: int, element: _Element, byte_order: str
) -> tuple[dict[str, NDArray], int]:
    lists: dict[str, list[NDArray]] = {p.name: [] for p in element.properties if p.count_type}
    code = byte_order or "<"
    for _ in range(element.count):
        for p in element.properties:
            length = 1
            if p.count_type:
                counter = np.dtype(code + p.count_type)
                if offset + counter.itemsize > len(content):
                    raise _truncated(path, element, offset + counter.itemsize, len(content))
                length = int(np.frombuffer(content, dtype=counter, count=1, offset=offset)[0])
                offset += counter.itemsize
            dtype = np.dtype(code + p.type)
            end = offset + dtype.itemsize * length
            if length < 0 or end > len(content):
                raise _truncated(path, element, end, len(content))
            if p.count_type:
                lists[p.name].append(np.frombuffer(content, dtype=dtype, count=length, offset=offset))
            offset = end
    return {name: _fans(items) for name, items in lists.items()}, offset


def _ascii_columns(path: Path, element: _Element, lines: list[bytes]) -> dict[str, NDArray]:
    if len(lines) < element.count:
        what = f"truncated: element {element.name} has {len(lines)} of {element.count} lines"
        raise DataError(f"{path}: {what}", hint=DOWNLOAD_AGAIN)
    lists: dict[str, list[NDArray]] = {p.name: [] for p in element.properties if p.count_type}
    scalars: dict[str, list[float]] = {p.name: [] for p in element.properties if not p.count_type}
    for number, line in enumerate(lines):
        words = line.split()
        position = 0
        try:
            for p in element.properties:
                if p.count_type:
                    length = _count(words[position].decode("ascii"))
                    items = words[position + 1 : position + 1 + length]
                    if len(items) != length:
                        raise ValueError(length)
                    lists[p.name].append(np.array([int(word) for word in items], dtype=np.int64))
                    position += 1 + length
                else:
                    scalars[p.name].append(float(words[position]))
                    position += 1
        except (IndexError, ValueError, OverflowError):
            what = f"entry {number} of element {element.name} is broken: {line[:60]!r}"
            raise DataError(f"{path}: {what}", hint=DOWNLOAD_AGAIN) from None
    columns: dict[str, NDArray] = {name: _fans(items) for name, items in lists.items()}
    for p in element.properties:
        if not p.count_type:
            columns[p.name] = _cast_ascii(path, p, scalars[p.name])
    return columns


def _cast_ascii(path: Path, item: _Property, numbers: list[float]) -> NDArray:
    """Return the column with the header's type; a number the type cannot hold is an error, not a wrap-around."""
    column = np.array(numbers, dtype=np.float64)
    if item.type[0] != "f":
        limits = np.iinfo(item.type)
        if not ((column >= limits.min) & (column <= limits.max) & (column == np.rint(column))).all():
            what = f"property {item.name} is no whole number within its type"
            raise DataError(f"{path}: {what}", hint=DOWNLOAD_AGAIN)
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
            raise DataError(f"{path}: its vertices have no {' '.join(names)}", hint=hint)
    if any(columns[name].dtype != np.uint8 for name in ("red", "green", "blue")):
        raise DataError(f"{path}: its colours are not uchar", hint="write red, green and blue as uchar 0-255")
    with np.errstate(over="ignore"):  # a damaged double becomes inf here and is refused below
        vertices = np.stack([columns[name] for name in ("x", "y", "z")], axis=1).astype(np.float32)
    if not len(vertices):
        raise DataError(f"{path}: has no vertices", hint=DOWNLOAD_AGAIN)
    good = (np.abs(vertices) <= _MAX_METRES).all(axis=1)  # False for NaN too
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        what = f"vertex {bad} is at {vertices[bad].tolist()}: must be finite and within {_MAX_METRES:.0f} m"
        raise DataError(f"{path}: {what}", hint="the file is damaged, or its unit is not the metre")
    return vertices, np.stack([columns[name] for name in ("red", "green", "blue")], axis=1)
