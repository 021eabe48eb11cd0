"""Broken input: whatever a file of a scan holds, the answer is one DataError line that names it, or a result."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from vsgrpo.errors import DataError
from vsgrpo.scans.annotation import read_labels
from vsgrpo.scans.scannet import list_scans, read_scan
from vsgrpo.scans.source import SceneSettings

SCAN_ID = "scene9000_00"
SUFFIXES = (
    "_vh_clean_2.ply",
    "_vh_clean_2.0.010000.segs.json",
    ".aggregation.json",
    ".txt",
    ".sens",
    "labels",
)


@pytest.fixture
def scan_files(room, sens_frames) -> dict[str, Path]:
    room.objects = [(label, points[::9]) for label, points in room.objects[1:]]
    folder = room.write(sens_frames=sens_frames, color_size=(56, 56), intrinsic_color=np.eye(4))
    files = {suffix: folder / (SCAN_ID + suffix) for suffix in SUFFIXES[:-1]}
    return files | {"labels": room.root / "scannetv2-labels.combined.tsv"}


def read_everything(root: Path, with_scene: bool = True) -> None:
    labels = read_labels(root)
    scan = read_scan(root, SCAN_ID, labels)
    if with_scene:
        scan.scene(SceneSettings())
    with scan.recording() as recording:
        recording.warnings()
        for frame in recording.reader.frames():
            recording.reader.depth(frame)


def assert_named(error: DataError, path: Path) -> None:
    assert path.name in error.message and "\n" not in error.message
    assert error.hint and "\n" not in error.hint


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>\n<html lang='en'>404</html>", b"\x00" * 400, b"[]", b'{"a":' * 50_000]
)
def test_other_content_is_refused(room, scan_files, suffix, content):
    path = scan_files[suffix]
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_everything(room.root, with_scene=False)
    assert_named(caught.value, path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file_is_named(room, scan_files, suffix):
    scan_files[suffix].unlink()
    with pytest.raises(DataError) as caught:
        read_everything(room.root, with_scene=False)
    assert_named(caught.value, scan_files[suffix])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncation_and_flipped_bits_never_escape_as_other_errors(room, scan_files, suffix):
    path = scan_files[suffix]
    whole = path.read_bytes()
    draw = random.Random(suffix)
    damaged = [whole[: draw.randrange(len(whole))] for _ in range(25)]
    for _ in range(50):
        content = bytearray(whole)
        content[draw.randrange(min(len(whole), 600))] ^= 1 << draw.randrange(8)
        content[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(content))
    num_errors = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in damaged:
            path.write_bytes(content)
            try:
                read_everything(room.root, with_scene=False)
            except DataError as error:
                assert_named(error, path)
                num_errors += 1
    assert num_errors >= 20


@pytest.mark.parametrize("suffix", ["_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_every_truncation_of_mesh_and_annotation_is_seen(room, scan_files, suffix):
    whole = scan_files[suffix].read_bytes()
    for size in np.linspace(0, len(whole) - 1, 40).astype(int).tolist():
        scan_files[suffix].write_bytes(whole[:size])
        with pytest.raises(DataError):
            read_everything(room.root, with_scene=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 5000.0])
def test_vertices_that_are_nowhere(room, scan_files, value):
    path = scan_files["_vh_clean_2.ply"]
    content = path.read_bytes()
    start = content.index(b"end_header\n") + len(b"end_header\n") + 16 * 3  # vertex 3
    path.write_bytes(content[:start] + np.float32(value).tobytes() + content[start + 4 :])
    with pytest.raises(DataError, match=r"_vh_clean_2\.ply: vertex 3 is at .*within 1000 m"):
        read_everything(room.root, with_scene=False)


def test_face_that_names_no_vertex(room, scan_files):
    path = scan_files["_vh_clean_2.ply"]
    path.write_bytes(path.read_bytes()[:-4] + np.int32(10**6).tobytes())
    with pytest.raises(DataError, match=r"triangle \d+ names vertices"):
        read_everything(room.root, with_scene=False)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1 0 0 0 0 1 0 0", "is not 16 numbers"),
        ("a " * 16, "is not 16 numbers"),
        ("nan " * 16, "is not 16 numbers"),
        ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "is not a rotation"),
        ("1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1", "is not a rotation"),
        ("1 0 0 9999 0 1 0 0 0 0 1 0 0 0 0 1", "is not a rotation"),
    ],
)
def test_bad_axis_alignment(room, scan_files, value, message):
    scan_files[".txt"].write_text(f"axisAlignment = {value}\nsceneType = Bedroom\n")
    with pytest.raises(DataError, match=message):
        read_everything(room.root, with_scene=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"segIndices": "no"}', "has no list segIndices"),
        ('{"segIndices": [%s]}', "integers"),
        ('{"segIndices": [1, [2]%s]}', "integers"),
    ],
)
def test_segments_that_are_no_ids(room, scan_files, text, message):
    labels = read_labels(room.root)
    num_vertices = len(read_scan(room.root, SCAN_ID, labels).mesh.vertices)
    fill = ", ".join(["0.5"] * num_vertices) if "[2]" not in text else ", 0" * (num_vertices - 2)
    scan_files["_vh_clean_2.0.010000.segs.json"].write_text(text % fill if "%s" in text else text)
    with pytest.raises(DataError, match=message):
        read_everything(room.root, with_scene=False)


@pytest.mark.parametrize(
    "group", ["7", "{}", '{"id": 0, "label": 5, "segments": [1]}', '{"id": -1, "label": "bed", "segments": [1]}',
              '{"id": 0, "label": "bed", "segments": [1.5]}', '{"id": 0, "label": "bed", "segments": [true]}']
)  # fmt: skip
def test_groups_without_their_fields(room, scan_files, group):
    scan_files[".aggregation.json"].write_text(f'{{"segGroups": [{group}]}}')
    with pytest.raises(DataError, match=r"segGroups\[0\]"):
        read_everything(room.root, with_scene=False)


def test_wrong_roots_say_what_to_give(room, scan_files):
    with pytest.raises(DataError, match="no such folder"):
        list_scans(room.root / "nowhere")
    with pytest.raises(DataError, match="holds no folder scans") as caught:
        list_scans(room.root / "scans")
    assert caught.value.hint.endswith(f"source.root={room.root}")
    (room.root / "empty" / "scans").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no scan folder"):
        list_scans(room.root / "empty")
    with pytest.raises(DataError, match=r"labels\.combined\.tsv: no such file"):
        read_labels(room.root / "empty")
    with pytest.raises(DataError, match="scene0404_00: no such scan folder"):
        read_scan(room.root, "scene0404_00", read_labels(room.root))


def test_label_table_without_its_columns(room, scan_files):
    scan_files["labels"].write_text("id\traw_category\n1\tchair\n")
    with pytest.raises(DataError, match="has no column category"):
        read_labels(room.root)
