"""The .sens stream: what is written is read, failed poses are told, truncation names the byte."""

import struct
import zlib

import numpy as np
import pytest

from vsgrpo.errors import DataError
from vsgrpo.scans.sens import INVALID_POSE, SensReader, SensWriter, is_valid_pose

INTRINSIC = np.array([[70.0, 0, 28, 0], [0, 70, 28, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float32)


@pytest.fixture
def sens(tmp_path, sens_frames):
    path = tmp_path / "a.sens"
    assert write_sens(path, sens_frames, (56, 48), INTRINSIC) == 3
    return path


def write_sens(path, frames, color_size, intrinsic_color):
    with SensWriter(path, color_size, intrinsic_color) as writer:
        for jpeg, pose in frames:
            writer.add(jpeg, pose)
    return writer.num_frames


def test_round_trip(sens, sens_frames):
    with SensReader(sens) as reader:
        assert reader.num_frames == reader.header.num_frames == 3
        assert reader.header.sensor == "StructureSensor"
        assert reader.header.color_size == (56, 48) and reader.header.color_compression == "jpeg"
        assert (reader.header.intrinsic_color == INTRINSIC).all()
        assert reader.valid.tolist() == [True, False, True]
        frames = list(reader.frames())
    assert [frame.jpeg for frame in frames] == [jpeg for jpeg, _ in sens_frames]
    assert frames[0].pose == pytest.approx(sens_frames[0][1], abs=1e-6)
    assert frames[1].pose is None


def test_frames_by_index(sens, sens_frames):
    with SensReader(sens) as reader:
        assert [frame.index for frame in (reader.frame(2), reader.frame(0))] == [2, 0]
        assert reader.frame(2).jpeg == sens_frames[2][0]


def test_header_layout_byte_by_byte(sens):
    content = sens.read_bytes()
    # 4 version + 8 length + 15 name + 4 * 64 matrices + 4 * 2 compressions + 4 * 4 sizes + 4 shift = 311, then count.
    assert struct.unpack_from("<IQ", content) == (4, 15)
    assert struct.unpack_from("<ii4IfQ", content, 283) == (2, 1, 56, 48, 0, 0, 1000.0, 3)
    # Frames of 96 bytes and 24, 25, 26 bytes of JPEG, then the count of IMU entries.
    assert len(content) == 319 + 3 * 96 + 24 + 25 + 26 + 8


def test_depth_in_metres(tmp_path):
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 500
    path = tmp_path / "a.sens"
    with SensWriter(path, (8, 6), INTRINSIC, depth_size=(4, 3)) as writer:
        writer.add(b"\xff\xd8", np.eye(4), depth)
        writer.add(b"\xff\xd8", np.eye(4))
    with SensReader(path) as reader:
        metres = reader.depth(reader.frame(0))
        assert metres is not None and metres[0].tolist() == [0.0, 0.5, 1.0, 1.5]
        assert reader.depth(reader.frame(1)) is None


def test_broken_depth_names_the_frame(tmp_path):
    path = tmp_path / "a.sens"
    with SensWriter(path, (8, 6), INTRINSIC, depth_size=(40, 30)) as writer:
        writer.add(b"\xff\xd8", np.eye(4), np.zeros((30, 40), dtype=np.uint16))
        writer.add(b"\xff\xd8", np.eye(4), np.zeros((3, 4), dtype=np.uint16))
    packed = zlib.compress(np.zeros((30, 40), dtype="<u2").tobytes())
    path.write_bytes(path.read_bytes().replace(packed, b"?" * len(packed)))
    with SensReader(path) as reader:
        with pytest.raises(DataError, match="depth of frame 0 is broken"):
            reader.depth(reader.frame(0))
        with pytest.raises(DataError, match="depth of frame 1 is not 40x30"):
            reader.depth(reader.frame(1))


def test_missing_imu_block_is_tolerated(sens):
    sens.write_bytes(sens.read_bytes()[:-8])
    with SensReader(sens) as reader:
        assert reader.num_frames == 3


def test_truncation_names_file_and_byte(sens):
    content = sens.read_bytes()
    sens.write_bytes(content[:670])  # frame 2: from 319 + 2 * 96 + 24 + 25 = 560 to 560 + 96 + 26 = 682
    with pytest.raises(DataError, match=r"a\.sens: truncated: frame 2 of 3 at byte 560 ends at byte 682"):
        SensReader(sens)
    sens.write_bytes(content[:600])
    with pytest.raises(DataError, match="96 bytes wanted at byte 560, the file ends at byte 600"):
        SensReader(sens)
    sens.write_bytes(content[:5])
    with pytest.raises(DataError, match="12 bytes wanted at byte 0"):
        SensReader(sens)


@pytest.mark.parametrize(
    ("offset", "fmt", "value", "message"),
    [
        (0, "<I", 3, "is no .sens version 4"),
        (4, "<Q", 1 << 60, "name of"),
        (283, "<i", 7, "unknown compression"),
        (291, "<I", 1 << 30, "impossible image size"),
        (307, "<f", 0.0, "depth shift"),
        (27, "<f", float("nan"), "camera matrix"),
        (311, "<Q", 1 << 50, "frames announced"),
        (319 + 80, "<Q", 1 << 60, "truncated: frame 0"),
    ],
)
def test_damaged_header_is_named(sens, offset, fmt, value, message):
    content = bytearray(sens.read_bytes())
    struct.pack_into(fmt, content, offset, value)
    sens.write_bytes(content)
    with pytest.raises(DataError, match=message):
        SensReader(sens)


def test_frame_that_is_no_jpeg(tmp_path):
    write_sens(tmp_path / "a.sens", [(b"\x89PNG", np.eye(4))], (8, 8), INTRINSIC)
    with SensReader(tmp_path / "a.sens") as reader, pytest.raises(DataError, match="frame 0 at byte 415 is no JPEG"):
        next(reader.frames())


def test_valid_poses():
    mirrored = np.diag([1.0, 1.0, -1.0, 1.0])
    stretched = np.diag([1.004, 1.004, 1.004, 1.0])  # det 1.01205: off by more than 1e-2
    nearly = np.diag([1.003, 1.003, 1.003, 1.0])  # det 1.00903
    skewed = np.eye(4)
    skewed[3, 0] = 0.5
    half = np.eye(4)
    half[0, 3] = np.nan
    huge = np.full((4, 4), 1e30)
    poses = np.stack([np.eye(4), INVALID_POSE, mirrored, stretched, nearly, skewed, half, huge])
    assert is_valid_pose(poses).tolist() == [True, False, False, False, True, False, False, False]


def test_writer_leaves_nothing_behind_when_frames_fail(tmp_path):
    def frames():
        yield b"\xff\xd8", np.eye(4)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        write_sens(tmp_path / "a.sens", frames(), (8, 8), INTRINSIC)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_offers_the_mesh_instead(tmp_path):
    with pytest.raises(DataError, match=r"b\.sens: cannot be opened") as caught:
        SensReader(tmp_path / "b.sens")
    assert "video.source=mesh" in caught.value.hint
