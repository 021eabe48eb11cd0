"""What is said of a file before a run is what the run says."""

import json
import os
import time

import numpy as np
import pytest
from container_files import FILMS, REFUSED, encode
from numbered_video import numbered_frame
from PIL import Image

from vsgrpo import files
from vsgrpo.errors import DataError, SetupError
from vsgrpo.video import reader
from vsgrpo.video.budget import VisionBudget
from vsgrpo.video.loader import VideoLoader
from vsgrpo.video.reader import examine_media

BUDGET = VisionBudget(num_frames=8)
GOOD = ["H.264 in mp4", "turned by 90 degrees", "MPEG-4 in AVI"]
BAD = ["several films", "unknown codec", "cut mp4", "cut AVI", "zero tail of an mp4"]


@pytest.fixture
def media(tmp_path):
    """Good and bad videos and images."""
    found = []
    for number, case in enumerate([*(FILMS[kind] for kind in GOOD), *(REFUSED[kind] for kind in BAD)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(("video", case[1](folder / case[0])))
    for name, values in (("good.png", np.full((40, 50), 9, np.uint8)), ("thin.png", np.zeros((1, 900), np.uint8))):
        Image.fromarray(values).save(tmp_path / name)
        found.append(("image", tmp_path / name))
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) - 30])
    return [*found, ("image", tmp_path / "cut.png"), ("video", tmp_path / "gone.mp4")]


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_it_finds_what_the_loader_finds(media, backend):
    pytest.importorskip({"pyav": "av"}.get(backend, backend))
    loader = VideoLoader(BUDGET, backend, timeout_s=None)
    found = examine_media(media, BUDGET, backend, timeout_s=30 if backend == "pyav" else None)
    assert list(found) == media
    for (kind, path), examined in found.items():
        try:
            inputs = loader.load(path, kind)
        except DataError as error:
            assert (examined.problem, examined.hint, examined.header) == (error.message, error.hint, None)
        else:
            assert examined.problem == "" and examined.header is not None
            assert loader.medium(path, kind) == inputs.medium
            assert examined.header == loader._header(str(path), kind, ())
    assert sum(not examined.problem for examined in found.values()) == (4 if backend == "pyav" else 2)


def test_a_good_file_is_decoded_once_and_a_changed_one_again(tmp_path, monkeypatch):
    path, copy, memory = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "memory.json"
    encode(path, "libx264")
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    decoded, hashed = [], []
    ask = reader.ask

    def counted(request, child):
        (hashed if request.backend is None else decoded).append(request.path)
        return ask(request, child)

    monkeypatch.setattr(reader, "ask", counted)

    def examine(file, budget=BUDGET, backend="pyav"):
        return examine_media([("video", file)], budget, backend, timeout_s=None, memory=memory)["video", file]

    first = examine(path)
    assert first.header is not None and first.header.num_frames == 40 and (len(decoded), len(hashed)) == (1, 1)
    assert examine(path) == first and (len(decoded), len(hashed)) == (1, 1)
    copy.write_bytes(path.read_bytes())
    assert examine(copy) == first and (len(decoded), len(hashed)) == (1, 2)  # known by its content
    examine(path, VisionBudget(num_frames=16))
    assert len(decoded) == 2  # other frames
    encode(path, "libx264", [numbered_frame(i) for i in range(9)])
    assert examine(path).header.num_frames == 9
    path.write_bytes(path.read_bytes()[:900])
    assert "cut off" in examine(path).problem and "cut off" in examine(path).problem
    memory.write_text("{", encoding="utf-8")
    assert examine(copy) == first and json.loads(memory.read_text(encoding="utf-8"))["headers"]


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(tmp_path, monkeypatch):
    path, memory = encode(tmp_path / "a.mp4", "libx264"), tmp_path / "memory.json"
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    loader = VideoLoader(BUDGET, timeout_s=None)

    def examine():
        return examine_media([("video", path)], BUDGET, timeout_s=None, memory=memory)["video", path]

    assert examine().problem == ""
    key, before = loader.key(path), path.stat()
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    path.write_bytes(b"<" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and rsync -t do
    assert "starts with '<'" in examine().problem
    assert loader.key(path) != key


def test_a_file_that_has_just_changed_is_hashed_again(tmp_path):
    memory = tmp_path / "memory.json"
    encode(tmp_path / "a.mp4", "libx264")
    examine_media([("video", tmp_path / "a.mp4")], BUDGET, timeout_s=None, memory=memory)
    known = json.loads(memory.read_text(encoding="utf-8"))
    assert known["hashes"] == {} and len(known["headers"]) == 1


@pytest.mark.parametrize("kind", ["video", "image"])
def test_another_version_of_the_judgement_examines_again(tmp_path, monkeypatch, kind):
    path, memory = tmp_path / ("a.mp4" if kind == "video" else "a.png"), tmp_path / "memory.json"
    encode(path, "libx264") if kind == "video" else Image.new("RGB", (60, 40)).save(path)
    for version in (1, 1, 2):
        monkeypatch.setattr(reader, "_EXAMINED_VERSION", version)
        examine_media([(kind, path)], BUDGET, timeout_s=None, memory=memory)
    headers = json.loads(memory.read_text(encoding="utf-8"))["headers"]
    assert len(headers) == 2 and all(key.startswith(kind) for key in headers)


def test_a_missing_backend_blames_no_file(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264")
    with pytest.raises(SetupError, match=r"video.backend=opencv"):
        examine_media([("video", path)], BUDGET, "opencv", timeout_s=30)


def test_no_media_is_no_work():
    assert examine_media([], BUDGET) == {}
